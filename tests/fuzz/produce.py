"""Sends record batches unchanged with Produce v7, as any client with the right Write on a topic can."""

import socket
import struct
from collections.abc import Mapping


class RawProducer:
    """One connection to one broker that leads all partitions."""

    def __init__(self, bootstrap: str) -> None:
        host, port = bootstrap.rsplit(":", 1)
        self._address = (host, int(port))
        self._socket = socket.create_connection(self._address, 60)

    def send_each(self, topic: str, batches: Mapping[int, bytes]) -> dict[int, tuple[int, int]]:
        """Like `send`; if the broker closes the connection, send each batch alone to find the cause (error -1)."""
        try:
            return self.send(topic, batches)
        except ConnectionError:
            self._socket.close()
            self._socket = socket.create_connection(self._address, 60)
            if len(batches) == 1:
                return dict.fromkeys(batches, (-1, -1))
            found = {}
            for partition, batch in batches.items():
                found |= self.send_each(topic, {partition: batch})
            return found

    def send(self, topic: str, batches: Mapping[int, bytes]) -> dict[int, tuple[int, int]]:
        """Send a batch to each partition in one request; return the error code and base offset of each."""
        body = struct.pack(">hhi", 0, 7, 1) + _text("raw") + struct.pack(">hhi", -1, 1, 30_000)
        body += struct.pack(">i", 1) + _text(topic) + struct.pack(">i", len(batches))
        body += b"".join(struct.pack(">ii", p, len(batch)) + batch for p, batch in batches.items())
        self._socket.sendall(struct.pack(">i", len(body)) + body)
        answer = self._take(struct.unpack(">i", self._take(4))[0])
        at = 4 + 4  # correlation id, number of topics
        at += 2 + struct.unpack_from(">h", answer, at)[0] + 4
        found = {}
        for _ in batches:
            partition, error, offset = struct.unpack_from(">ihq", answer, at)
            at += 4 + 2 + 8 + 8 + 8  # also the append time and the start of the log
            found[partition] = (error, offset)
        return found

    def _take(self, size: int) -> bytes:
        parts = b""
        while len(parts) < size:
            got = self._socket.recv(size - len(parts))
            if not got:
                raise ConnectionError("the broker closed the connection")
            parts += got
        return parts

    def close(self) -> None:
        """Disconnects."""
        self._socket.close()


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()
