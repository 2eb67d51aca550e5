"""Connections to the web port that do not ask, ask slowly or ask for nonsense: closed in time, and
probes answer meanwhile."""

import asyncio
import contextlib
import io
import os
import resource
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stream_app.ops import connections
from stream_app.ops.connections import Connections
from stream_app.ops.logging import setup_logging
from tests.stream_app.certificates import self_signed
from tests.stream_app.ops.test_web import Port, serving

LIVE = "/health/live"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set one second for a request, so that tests do not wait for ten."""
    monkeypatch.setattr(connections, "REQUEST_S", 1.0)


@asynccontextmanager
async def half_open(
    port: Port, count: int, sent: bytes = b"GET /metrics HTTP/1.1\r\nHost: loc"
) -> AsyncIterator[list[socket.socket]]:
    """Open connections that sent a part of a request, in another thread than the server's."""
    opened: list[socket.socket] = []

    def fill() -> None:
        for _ in range(count):
            opened.append(socket.create_connection(("127.0.0.1", port.number), timeout=20))
            with contextlib.suppress(OSError):  # it may be closed already, for a later one
                opened[-1].sendall(sent)

    filling = asyncio.ensure_future(asyncio.to_thread(fill))
    try:
        while not filling.done():
            assert (await port.get(LIVE)).status == 200
        await filling
        yield opened
    finally:
        await asyncio.wait([filling])
        for each in opened:
            each.close()


def closed_within(sockets: list[socket.socket], limit_s: float) -> float:
    """Return the seconds until the other side had closed all; fail after the limit."""
    began = time.monotonic()
    for each in sockets:
        each.settimeout(max(0.01, limit_s - (time.monotonic() - began)))
        with contextlib.suppress(ConnectionError):
            while each.recv(4096):
                pass
    return time.monotonic() - began


def trickle(port: Port, head: bytes, piece: bytes) -> float:
    """Return how many seconds a connection lives that sends a byte every 50 ms."""
    with socket.create_connection(("127.0.0.1", port.number), timeout=20) as s:
        began = time.monotonic()
        s.sendall(head)
        s.settimeout(0.05)
        while time.monotonic() - began < 20:
            try:
                s.sendall(piece)
                if s.recv(4096) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        return time.monotonic() - began


async def test_half_a_request_is_not_waited_for(quick: None) -> None:
    """Connections with no byte and with half a head are closed after the time for a request."""
    async with serving() as port:
        for sent in (
            b"",
            b"GET /metrics HTTP/1.1\r\nHost: loc",
            b"POST /metrics HTTP/1.1\r\nHost: localhost\r\n",
        ):
            async with half_open(port, 5, sent) as opened:
                assert 0.5 < await asyncio.to_thread(closed_within, opened, 10) < 5


async def test_a_trickle_of_bytes_buys_no_time(quick: None) -> None:
    """A head that never ends, a body that never ends, and a chunked one, byte by byte."""
    async with serving() as port:
        for head, piece in (
            (b"GET /metrics HTTP/1.1\r\nX-Long: ", b"a"),
            (b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n", b"a"),
            (
                b"POST /users/x/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"1\r\na\r\n",
            ),
        ):
            assert await asyncio.to_thread(trickle, port, head, piece) < 15, head


async def test_an_idle_connection_is_closed(quick: None) -> None:
    """A connection that stays open after an answer has the same time for its next request, any number of times."""
    ask = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
        for _ in range(8):  # longer in all than the limit
            writer.write(ask)
            assert (await reader.readline()).endswith(b"200 OK\r\n")
            await reader.read(4096)
            await asyncio.sleep(0.2)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_tls_handshakes_count_too(quick: None, tmp_path: Path) -> None:
    """A client that connects without a TLS handshake is closed, and many of them do not block others."""
    pair = self_signed(tmp_path)
    async with serving(web_cert=pair.cert, web_key=pair.key) as port:
        secure = Port(port.number, ssl.create_default_context(cafile=str(pair.cert)))
        async with half_open(secure, 300, b"") as opened:
            assert (await secure.get(LIVE)).status == 200
            assert await asyncio.to_thread(closed_within, opened, 10) < 5


async def test_answers_go_on_beside_six_hundred_open_connections(quick: None) -> None:
    """Health answers meanwhile, at most the limit of connections stay open, and all are closed in time."""
    async with serving() as port, half_open(port, 600) as opened:
        assert (await port.get(LIVE)).status == 200
        assert await asyncio.to_thread(closed_within, opened, 10) < 5


SERVER = """
import asyncio, resource, sys
from stream_app.ops.logging import setup_logging
from tests.stream_app.ops.test_web import serving

resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
setup_logging()

async def main():
    async with serving() as port:
        print(port.number, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("files", "enough"), [(400, 4), (60, 1)])
async def test_few_descriptors_flood_no_log(files: int, enough: int) -> None:
    """With `ulimit -n 400`, and with fewer than the limit of connections: probes answer, the log is short."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(files)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    try:
        assert process.stdout is not None
        port = Port(int(await asyncio.to_thread(process.stdout.readline)))
        async with half_open(port, 600):
            until = time.monotonic() + 5
            answered = 0
            while time.monotonic() < until:
                assert (await port.get(LIVE)).status == 200
                answered += 1
        assert answered >= enough
    finally:
        _, log = process.communicate("", timeout=30)
    assert process.returncode == 0, log
    assert len(log.splitlines()) < 100, log[:3000]
    assert len(log) < 10_000, log[:3000]


async def test_nonsense_is_no_traceback() -> None:
    """A thousand malformed requests are 400, and not one of them is in the log."""
    nonsense = [
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    ]

    def send(port: Port) -> None:
        for number in range(1000):
            with (
                socket.create_connection(("127.0.0.1", port.number), timeout=20) as s,
                contextlib.suppress(OSError),
            ):
                s.sendall(nonsense[number % len(nonsense)])
                s.shutdown(socket.SHUT_WR)
                s.recv(4096)

    log = io.StringIO()
    setup_logging(stream=log)
    try:
        async with serving() as port:
            await asyncio.to_thread(send, port)
            assert (await port.get(LIVE)).status == 200
    finally:
        setup_logging()
    assert "Traceback" not in log.getvalue()
    assert len(log.getvalue().splitlines()) < 10, log.getvalue()[:3000]


class Held:
    """A protocol whose connection is open until it is closed."""

    def __init__(self, closed: list["Held"]) -> None:
        self.transport: object = self
        self._closed = closed


def test_the_longest_waiting_goes_first() -> None:
    """Over the limit the oldest idle connection is closed; one with a running answer only if there is no idle one."""
    held = Connections(lambda: 0.0, most=3)
    first, second, third, fourth, fifth = (held.add(Held([])) for _ in range(5))  # type: ignore[arg-type]
    assert [each in held._all.values() for each in (first, second, third, fourth, fifth)] == [
        False, False, True, True, True,
    ]  # fmt: skip
    third.answering = True
    held.add(Held([]))  # type: ignore[arg-type]
    assert third in held._all.values()
    assert fourth not in held._all.values()
    assert len(held) == 3
