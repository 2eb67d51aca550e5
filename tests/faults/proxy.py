"""A TCP proxy between a worker and its broker that can hold, slow and cut connections, or act at a commit's step."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from tests.faults.steps import Frame, Progress, Step, passes, read_request

T = TypeVar("T")
_CALL_LIMIT_S = 10.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends a reset


class Trap:
    """A trap for one step of a commit; the proxy's thread calls `strike` when the step is reached."""

    def __init__(self, step: Step, strike: Callable[[], None], wait_s: float = 0.0, cut: bool = True) -> None:
        """`cut`: nothing passes after the strike. `wait_s`: seconds from a step that lets its frame pass to the
        strike, and for which an answer is withheld.
        """
        self.step, self.strike, self.wait_s, self.cut = step, strike, wait_s, cut
        self.sprung = threading.Event()


class Gate:
    """The proxy of one worker's slot. Any thread may call its methods."""

    def __init__(self, guarantee: str, output: str, changelog: str, upstream: int) -> None:
        """`upstream`: port of the broker's listener for this gate; `output`, `changelog`: names of topics."""
        self.upstream = upstream
        self.port = 0
        self.progress = Progress(guarantee)
        self._guarantee, self._names = guarantee, (output.encode(), changelog.encode())
        self._links: set[_Link] = set()
        self._open = asyncio.Event()
        self._delay_s = 0.0
        self._trap: Trap | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def start(self, port: int) -> "Gate":
        """Listen on 127.0.0.1:`port`."""
        self.port = port
        self._thread.start()
        self._do(self._listen())
        return self

    def stop(self) -> None:
        """Cut all connections and end the thread."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_LIMIT_S)
        assert not self._thread.is_alive(), "the proxy's thread did not end"
        self._loop.close()

    # --- effects on the connections

    def hold(self) -> None:
        """Start a black hole: connections stay open, but nothing passes either way."""
        self._open.clear()  # wakes no waiter, so it is safe in any thread

    def release(self) -> None:
        """End `hold` and `slow`; held frames pass, late."""
        self._loop.call_soon_threadsafe(self._release)

    def slow(self, delay_s: float) -> None:
        """Delay each frame by so many seconds, until `release`."""
        self._delay_s = delay_s

    def reset(self) -> None:
        """Reset all connections; new ones are served."""
        self._loop.call_soon_threadsafe(self._reset)

    def renew(self) -> None:
        """Prepare for another worker: no commit in progress, no trap."""
        self._loop.call_soon_threadsafe(self._renew)

    def arm(self, trap: Trap) -> None:
        """Set a trap in place of the last one."""
        self._trap = trap

    def disarm(self) -> None:
        """Remove the trap."""
        self._trap = None

    # --- in the proxy's thread

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_LIMIT_S)

    async def _listen(self) -> None:
        self._open.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _close(self) -> None:
        self._server.close()
        self._release()
        self._reset()
        while self._links:  # the caller limits the time
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            await self._open.wait()
            await link.run()
        except OSError:
            pass  # the broker is down, or one side closed: the link ends too
        finally:
            self._links.discard(link)
            link.close()

    def _release(self) -> None:
        self._delay_s = 0.0
        self._open.set()

    def _reset(self) -> None:
        for link in self._links:
            link.reset()

    def _renew(self) -> None:
        self._trap = None
        self.progress = Progress(self._guarantee)
        self._reset()

    async def pass_on(self, frame: Frame) -> bool:
        """Return True when a frame may pass, False if it never may."""
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        await self._open.wait()
        reached = self.progress.take(frame)
        trap = self._trap
        if trap is None or trap.step not in reached:
            return True
        self._trap = None
        if not trap.cut:
            self._spring(trap)
            await self._open.wait()  # a black hole that begins here holds this frame
            return True
        if passes(trap.step, self._guarantee):
            self._loop.call_later(trap.wait_s, self._spring, trap)
            return True
        if trap.step is Step.UNANSWERED:
            self._loop.call_later(trap.wait_s, self._spring, trap)
            await self._loop.create_future()  # until the link is cut
        self._spring(trap)
        return False

    def _spring(self, trap: Trap) -> None:
        trap.strike()
        if trap.cut:
            for link in self._links:
                link.close()
        trap.sprung.set()

    def read(self, body: bytes) -> Frame:
        """Return what is known of a request."""
        return read_request(body, *self._names)


class _Link:
    """One connection of the worker, and its connection to the broker."""

    def __init__(self, gate: Gate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._gate = gate
        self._down = (reader, writer)
        self._up: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._asked: dict[bytes, Frame] = {}  # by correlation id

    async def run(self) -> None:
        self._up = await asyncio.open_connection("127.0.0.1", self._gate.upstream)
        ways = [asyncio.create_task(self._requests()), asyncio.create_task(self._answers())]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    way.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    def close(self) -> None:
        """Close both sides as a process that dies does."""
        for _, writer in self._sides():
            writer.transport.abort()

    def reset(self) -> None:
        """Reset both sides."""
        for _, writer in self._sides():
            if (sock := writer.get_extra_info("socket")) is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    def _sides(self) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        return [self._down, *([self._up] if self._up else [])]

    async def _requests(self) -> None:
        assert self._up is not None
        while True:
            body = await read_frame(self._down[0])
            frame = self._gate.read(body)
            self._asked[body[4:8]] = replace(frame, answer=True)
            if await self._gate.pass_on(frame):
                await write_frame(self._up[1], body)

    async def _answers(self) -> None:
        assert self._up is not None
        while True:
            body = await read_frame(self._up[0])
            if await self._gate.pass_on(self._asked.pop(body[:4])):
                await write_frame(self._down[1], body)


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Read a request or an answer of Kafka's protocol, without its length."""
    size = int.from_bytes(await reader.readexactly(4), "big")
    return await reader.readexactly(size)


async def write_frame(writer: asyncio.StreamWriter, body: bytes) -> None:
    """Write a request or an answer with its length."""
    writer.write(len(body).to_bytes(4, "big") + body)
    await writer.drain()
