"""Limits the connections of the web port: their number, and the time for each request and each answer.

aiohttp waits for ever for the rest of a request, and asyncio accepts connections until no file descriptor is left,
although the connections to the brokers need descriptors too. So the port has its own accept loop: a connection beyond
the limit replaces the one that has been idle for longest, and overdue connections are closed.
"""

import asyncio
import contextlib
import resource
import socket
import ssl
from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

#: Most connections at one time.
MOST = 100
#: Seconds for a whole request, counted from the start of the connection or from the end of the previous answer. The
#: TLS handshake is included.
REQUEST_S = 10.0
#: Seconds for an answer, including the time that the client takes to read it.
ANSWER_S = 30.0
#: Seconds between two checks for overdue connections.
EVERY_S = 0.5
#: Seconds before accepting again after no descriptor was left: meanwhile closed descriptors become free.
PAUSE_S = 0.05
#: Seconds between two log lines about the same problem.
SAID_S = 10.0
#: Seconds that each connection has for its request before a newer connection may replace it.
GRACE_S = 0.2
#: Connections that the kernel queues until we accept them. They need no descriptor of ours. A client that finds the
#: queue full tries again only after a second.
BACKLOG = 1024

log = structlog.stdlib.get_logger(__name__)


def most_connections() -> int:
    """The limit of the web port's connections: a quarter of the process's descriptors, but at most `MOST`."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if files == resource.RLIM_INFINITY else max(4, min(MOST, files // 4))


class _Connection:
    """One connection: the protocol object that serves it, and the time at which it becomes overdue."""

    def __init__(self, protocol: web.RequestHandler, due: float) -> None:
        self.protocol = protocol
        self.due = due
        self.answering = False
        self.dropped = False
        self.opening: asyncio.Task[None] | None = None  # until the TLS handshake is over

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return self.opening is None and self.protocol.transport is None

    def close(self) -> None:
        """Closes the connection at once, without waiting for the client."""
        self.dropped = True
        if self.opening is not None and not self.opening.done():
            self.opening.cancel()
        elif isinstance(self.protocol.transport, asyncio.Transport):
            self.protocol.transport.abort()

    def opened(self, accepted: socket.socket) -> None:
        """Called when the handshake has ended: with success, with an error, or cancelled before it began."""
        self.opening = None
        if self.protocol.transport is None:
            accepted.close()
        elif self.dropped:
            self.close()


class Connections:
    """All connections of one port."""

    def __init__(self, clock: Callable[[], float] | None = None, most: int | None = None) -> None:
        """`clock` in seconds, by default the event loop's; `most` is `most_connections()` by default."""
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._most = most_connections() if most is None else most
        # Ordered by the time since which each connection waits for a request.
        self._all: dict[web.RequestHandler, _Connection] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, protocol: web.RequestHandler) -> _Connection:
        """Adds a connection. If there are too many, closes the one that has waited longest for a request."""
        if len(self._all) >= self._most:
            self._forget_gone()
        while len(self._all) >= self._most:
            waiting = (each for each in self._all.values() if not each.answering)
            self._drop(next(waiting, next(iter(self._all.values()))))
        connection = self._all[protocol] = _Connection(protocol, self._clock() + REQUEST_S)
        return connection

    async def wait_for_room(self) -> None:
        """Returns once there is room, or once a connection that has had `GRACE_S` for its request may be replaced."""
        while len(self._all) >= self._most:
            self._forget_gone()
            oldest = next((each for each in self._all.values() if not each.answering), None)
            age_s = GRACE_S if oldest is None else self._clock() - (oldest.due - REQUEST_S)
            if len(self._all) < self._most or age_s >= GRACE_S:
                return
            await asyncio.sleep(GRACE_S - age_s)

    def close_overdue(self) -> None:
        """Closes the connections that have taken too long."""
        self._forget_gone()
        now = self._clock()
        for connection in [each for each in self._all.values() if each.due <= now]:
            self._drop(connection)

    def make_room(self) -> None:
        """Closes half of the connections that wait for a request, because the process has no descriptor left."""
        self._forget_gone()
        waiting = [each for each in self._all.values() if not each.answering]
        for connection in waiting[: (len(waiting) + 1) // 2]:
            self._drop(connection)

    def close_opening(self) -> None:
        """Cancels TLS handshakes. The server closes the other connections itself."""
        for connection in self._all.values():
            if connection.opening is not None:
                connection.close()

    @web.middleware
    async def watch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Middleware that sets the deadline of each answer, and then that of the next request."""
        connection = self._all.get(request.protocol)
        if connection is None:
            return await handler(request)
        connection.answering, connection.due = True, self._clock() + ANSWER_S
        try:
            return await handler(request)
        finally:
            if self._all.pop(request.protocol, None) is not None:  # it becomes the last in the order
                self._all[request.protocol] = connection
            connection.answering, connection.due = False, self._clock() + REQUEST_S

    def _forget_gone(self) -> None:
        for connection in [each for each in self._all.values() if each.gone]:
            del self._all[connection.protocol]

    def _drop(self, connection: _Connection) -> None:
        del self._all[connection.protocol]
        connection.close()


class Port(web.BaseSite):
    """A site of aiohttp with its own accept loop, within the limits of `connections`."""

    def __init__(
        self,
        runner: web.AppRunner,
        connections: Connections,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(runner, ssl_context=tls, backlog=BACKLOG)
        self._at = (host, port)
        self._connections = connections
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._said_until = 0.0

    @property
    def name(self) -> str:
        """The address as a URL."""
        host, port = self._at
        return f"{'http' if self._ssl_context is None else 'https'}://{host}:{port}"

    async def start(self) -> None:
        """Listens. Raises OSError if the address is in use or not an address of this machine."""
        await super().start()
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(*self._at, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, kind, protocol, _, address in dict.fromkeys(found):
                self._sockets.append(_listen(family, kind, protocol, address))
        except OSError:
            for each in self._sockets:
                each.close()
            raise
        for each in self._sockets:
            self._spawn(self._accept(each))
        self._spawn(self._watch())

    async def stop(self) -> None:
        """Stops accepting connections, and stops the site."""
        self._connections.close_opening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for each in self._sockets:
            each.close()
        await super().stop()

    def _spawn(self, work: "asyncio._CoroutineLike[None]") -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._connections.wait_for_room()
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:  # no descriptor or no memory is left, or the client has gone
                self._say(error)
                self._connections.make_room()
                await asyncio.sleep(PAUSE_S)
                continue
            self._take(accepted)
            await asyncio.sleep(0)  # `sock_accept` may return without giving other tasks a turn

    def _say(self, error: OSError) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._said_until:
            log.warning("the web port cannot accept", reason=error.strerror)
            self._said_until = now + SAID_S

    def _take(self, accepted: socket.socket) -> None:
        server = self._runner.server
        if server is None:  # it is being shut down
            accepted.close()
            return
        connection = self._connections.add(server())
        connection.opening = self._spawn(self._open(connection, accepted))
        connection.opening.add_done_callback(lambda _: connection.opened(accepted))

    async def _open(self, connection: _Connection, accepted: socket.socket) -> None:
        limit = None if self._ssl_context is None else REQUEST_S
        with contextlib.suppress(OSError):  # a client that speaks no TLS, or that was too slow
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection.protocol, accepted, ssl=self._ssl_context, ssl_handshake_timeout=limit
            )

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            self._connections.close_overdue()


def _listen(family: int, kind: int, protocol: int, address: Any) -> socket.socket:
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):  # as in asyncio, `[::]` means IPv6 only
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.setblocking(False)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
