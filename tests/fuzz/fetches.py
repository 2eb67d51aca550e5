"""Bytes of fetch responses: record batches as sent by an intact, a damaged or a hostile broker."""

import random
import struct
from functools import cache

from aiokafka.record.util import calc_crc32c

from stream_app.kafka.record_batches import reader as wire
from tests.fuzz.mutate import mutate
from tests.stream_app.batches import CODECS, T0, Part, batch, marker
from tests.stream_app.raw_batches import varint

CORPUS = 400
#: Values of a header's fields at the limits.
_EDGES = (-(2**31), -2, -1, 0, 1, 2, 7, 8, 48, 49, 50, 60, 61, 2**16, 2**31 - 1)
_LONG_EDGES = (-(2**63), -1, 0, 1, 2**31, 2**62, 2**62 + 1, 2**63 - 1)
_INTS = (wire.LENGTH_AT, wire.LAST_DELTA_AT, wire.COUNT_AT)
_LONGS = (0, wire.FIRST_TIMESTAMP_AT, wire.MAX_TIMESTAMP_AT, wire.PRODUCER_AT)
_BYTES = (wire.MAGIC_AT, wire.ATTRIBUTES_AT, wire.ATTRIBUTES_AT + 1)


_VARINTS = [
    *map(varint, (-(2**63), -(2**31), -2, -1, 0, 1, 6, 7, 63, 64, 127, 128, 2**31 - 1, 2**31, 2**62, 2**63 - 1)),
    b"\x80", b"\xff" * 9 + b"\x01", b"\xff" * 9 + b"\x7f", b"\xff" * 11 + b"\x01", b"\x80\x80\x80\x00", b"",
]  # fmt: skip


class Fetch:
    """One input: the bytes, and what else the consumer knows."""

    __slots__ = ("aborted", "check_crcs", "committed", "position", "raw")

    def __init__(
        self, raw: bytes, position: int, check_crcs: bool, committed: bool, aborted: list[tuple[int, int]]
    ) -> None:
        self.raw = raw
        self.position = position
        self.check_crcs = check_crcs
        self.committed = committed
        self.aborted = aborted

    def __repr__(self) -> str:
        return repr({name: getattr(self, name) for name in self.__slots__})


class Fetches:
    """An endless, seeded stream of fetches."""

    def __init__(self, seed: str) -> None:
        self._draw = random.Random(seed)
        self._corpus = _corpus()

    def one(self) -> Fetch:
        """Return the next fetch: some batches, damaged in seven of eight cases."""
        draw = self._draw
        base = draw.choice((0, 0, 5, 1 << 40))
        start = base
        parts = []
        damaged = draw.random() < 0.875
        which = draw.randrange(4)
        for i in range(draw.randrange(1, 4)):
            raw, span = draw.choice(self._corpus)
            raw = struct.pack(">q", base) + raw[8:]
            base += span + draw.choice((0, 0, 0, 3))
            if damaged and (i == which or draw.random() < 0.3):
                raw = self._damage(raw)
            parts.append(raw)
        whole = b"".join(parts)
        if draw.random() < 0.1:
            whole = mutate(whole, draw)
        aborted = []
        if draw.random() < 0.4:
            firsts = sorted(draw.randrange(start - 2, base + 2) for _ in range(draw.randrange(1, 4)))
            aborted = [(draw.randrange(7, 10), first) for first in firsts]
        position = draw.choice((start, start, start, 0, (start + base) // 2, base))
        return Fetch(whole, position, draw.random() < 0.9, draw.random() < 0.8, aborted)

    def _damage(self, raw: bytes) -> bytes:
        draw = self._draw
        bad = bytearray(raw)
        while True:
            what = draw.randrange(8)
            if what == 0:
                struct.pack_into(">i", bad, draw.choice(_INTS), draw.choice(_EDGES))
            elif what == 1:
                struct.pack_into(">q", bad, draw.choice(_LONGS), draw.choice(_LONG_EDGES))
            elif what == 2:
                bad[draw.choice(_BYTES)] = draw.choice((0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 48, 255, 127, 128))
            elif what == 3:
                count = struct.unpack_from(">i", bad, wire.COUNT_AT)[0]
                struct.pack_into(">i", bad, wire.COUNT_AT, (count + draw.choice((-1, 1))) & 0x7FFFFFFF)
            elif what == 4:
                at = draw.randrange(wire.HEADER_BYTES, len(bad) + 1)
                bad[at : at + draw.randrange(3)] = draw.choice(_VARINTS)
            else:
                bad[wire.HEADER_BYTES :] = mutate(bytes(bad[wire.HEADER_BYTES :]), draw)
            if draw.random() < 0.7:
                break
        if draw.random() < 0.8:  # otherwise the length stays wrong after added or removed bytes
            length = struct.unpack_from(">i", bad, wire.LENGTH_AT)[0]
            if length == len(raw) - wire.AFTER_LENGTH:
                struct.pack_into(">i", bad, wire.LENGTH_AT, len(bad) - wire.AFTER_LENGTH)
        if draw.random() < 0.9:
            struct.pack_into(">I", bad, wire.CRC_AT, calc_crc32c(bytes(bad[wire.ATTRIBUTES_AT :])))
        return bytes(bad)


@cache
def _corpus() -> list[tuple[bytes, int]]:
    """Return well-formed batches that begin at 0, and how many offsets each has; the same in every round."""
    draw = random.Random(1)
    made = []
    for i in range(CORPUS):
        producer = 7 + i % 3
        if i % 8 == 0:
            made.append((marker(0, producer, abort=i % 16 == 0), 1))
            continue
        codec = draw.choice(list(CODECS.values())) if i % 3 == 0 else 0
        bits = draw.choice((0, 0, wire.LOG_APPEND_TIME)) | draw.choice((0, wire.TRANSACTIONAL))
        parts, delta = [], -1
        for _ in range(draw.randrange(1, 5)):
            delta += draw.choice((1, 1, 1, 4, 70))
            headers = tuple(
                (draw.choice(("", "h", "ü")), _some(draw)) for _ in range(draw.choice((0, 0, 1, 3)))
            )
            parts.append(
                Part(delta, T0 + draw.choice((0, 5, -(10**6), 10**12)), _some(draw), _some(draw), headers)
            )
        last = delta + draw.choice((0, 0, 3))
        made.append(
            (
                batch(
                    parts, codec=codec, producer=producer, attributes=bits, last=last, max_timestamp=T0 + 9
                ),
                last + 1,
            )
        )
    return made


def _some(draw: random.Random) -> bytes | None:
    size = draw.choice((None, 0, 1, 5, 30, 63, 64, 130))
    return None if size is None else draw.randbytes(size // 2) + bytes(size - size // 2)
