"""A proxy in the test's own loop that holds one request, or one answer, until the test releases it."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from stream_app.lab.broker import EmbeddedKafka, Listener
from stream_app.lab.broker.ports import free_port
from tests.faults.proxy import read_frame, write_frame

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends a reset


@contextlib.contextmanager
def kafka_for_a_proxy(folder: Path) -> Iterator[EmbeddedKafka]:
    """A broker with a second listener that advertises the address of a proxy."""
    port = free_port()
    listener = Listener("SLOT0", free_port(besides=port), port)
    with EmbeddedKafka(folder, listeners=[listener]) as broker:
        yield broker


@contextlib.asynccontextmanager
async def holding_before(broker: EmbeddedKafka) -> AsyncIterator["Holding"]:
    """The proxy in front of the second listener of `kafka_for_a_proxy`."""
    listener = broker.listeners[0]
    holding = Holding(listener.port)
    await holding.start(listener.advertised)
    try:
        yield holding
    finally:
        await holding.stop()


class Holding:
    """Holds one frame, and so the frames after it on its connection. Everything else passes.

    A held frame still arrives if the client has closed its connection meanwhile: networks can be slow.
    """

    def __init__(self, upstream: int) -> None:
        """`upstream` is the port of the broker's listener for this proxy."""
        self._upstream = upstream
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._next: tuple[int, bool] | None = None
        self._key = -1
        self._go = asyncio.Event()
        self.held = asyncio.Event()  #: set when the frame has arrived and is held
        self.answered = asyncio.Event()  #: set when the broker has answered such a request after the release

    async def start(self, port: int) -> None:
        """Listen on 127.0.0.1:`port`."""
        self.port = port
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)

    async def stop(self) -> None:
        """Cut all connections."""
        self._server.close()
        self._go.set()
        self.reset()
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=10)
            assert not left, "connections of the proxy did not end within 10 s"
        await self._server.wait_closed()

    def hold_next(self, key: int, *, answer: bool = False) -> None:
        """Hold the next request with this key, or the answer to it."""
        for event in (self.held, self.answered, self._go):
            event.clear()
        self._key, self._next = key, (key, answer)

    def let_go(self) -> None:
        """Forward the held frame."""
        self._go.set()

    def reset(self) -> None:
        """Reset both sides of all connections; a held frame is lost. New connections are served."""
        for writer in [each for each in self._writers if not each.is_closing()]:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        self._writers |= {writer, up_writer}
        asked: dict[bytes, int] = {}  # keys of the requests without an answer, by correlation id
        ways = [
            asyncio.create_task(self._requests(reader, up_writer, asked)),
            asyncio.create_task(self._answers(up_reader, writer, asked)),
        ]
        try:
            await ways[0]
            if asked:  # the client has left, and some answers are still to come
                await ways[1]
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for each in (writer, up_writer):
                each.transport.abort()
                self._writers.discard(each)
            self._tasks.discard(task)

    async def _requests(
        self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, asked: dict[bytes, int]
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await read_frame(reader)
                key = asked[frame[4:8]] = int.from_bytes(frame[:2], "big")
                await self._pass(key, False)
                await write_frame(to, frame)

    async def _answers(
        self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, asked: dict[bytes, int]
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await read_frame(reader)
                key = asked.pop(frame[:4])
                await self._pass(key, True)
                with contextlib.suppress(OSError):  # the client may have disconnected
                    await write_frame(to, frame)
        to.transport.abort()  # so that the client notices that the broker has left

    async def _pass(self, key: int, answer: bool) -> None:
        if self._next == (key, answer):
            self._next = None
            self.held.set()
            await self._go.wait()
        if answer and key == self._key and self._go.is_set():
            self.answered.set()
