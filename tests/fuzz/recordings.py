"""Tests the reader of recordings on arbitrary bytes: it returns records that were written, or a clear error."""

import os
import random
import struct
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import xxhash
import zstandard

from stream_app.contract.records import Record
from stream_app.recordings import file_format as layout
from stream_app.recordings.errors import RecordingError
from stream_app.recordings.recording import RecordingReader
from tests.fuzz.mutate import mutate

PER_ROUND = 2000
TOPICS = {"clicks": 4, "browses": 4, "purchases": 4}
_EDGES = (0, 1, 2, 23, 24, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
_LONG_EDGES = (0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)


class File:
    """A file in memory that can be opened by its path."""

    def __init__(self) -> None:
        self._number = os.memfd_create("fuzz")
        self.path = Path(f"/proc/self/fd/{self._number}")

    def hold(self, data: bytes) -> None:
        """Replace the content."""
        os.ftruncate(self._number, 0)
        os.pwrite(self._number, data, 0)

    def close(self) -> None:
        """Free the memory."""
        os.close(self._number)


@cache
def corpus() -> tuple[tuple[bytes, tuple[list[Record], ...]], ...]:
    """Return heads of recordings, and the records of the blocks after them."""
    draw = random.Random(1)
    made = []
    for n in range(40):
        blocks = []
        for _ in range(n % 4):
            records = []
            for i in range(draw.randrange(1, 6)):
                headers = tuple((draw.choice("ab"), draw.randbytes(3)) for _ in range(draw.choice((0, 0, 2))))
                key = draw.choice((None, b"", b"u17"))
                value = draw.choice((None, b"", b'{"user_id":"u17","ts":%d}' % i, draw.randbytes(40)))
                topic = draw.choice(list(TOPICS))
                records.append(
                    Record(topic, draw.randrange(4), i, draw.choice((0, -1, 2**62)), key, value, headers)
                )
            blocks.append(records)
        made.append((layout.head(TOPICS, {"made": "by a test", "n": [n]}), tuple(blocks)))
    return tuple(made)


class RecordingsTarget:
    """One round is some thousand files."""

    def __init__(self) -> None:
        self._pack = msgspec.msgpack.Encoder()
        self._compress = zstandard.ZstdCompressor(level=1)

    def round(self, seed: str, number: int) -> Counter[Any]:
        """Return the outcomes of one round by kind. Raises AssertionError if a record was never written."""
        draw = random.Random(seed)
        outcomes: Counter[Any] = Counter()
        file = File()
        try:
            for _ in range(PER_ROUND):
                data, truth = self._one(draw)
                file.hold(data)
                try:
                    outcomes[check(file.path, truth, twice=draw.random() < 0.1)] += 1
                except Exception as error:
                    raise AssertionError(f"{error!r} for the file {data!r}") from error
        finally:
            file.close()
        return outcomes

    def _one(self, draw: random.Random) -> tuple[bytes, list[Record] | None]:
        """Return a file and the records that it may give; None if checksums were computed for changed bytes."""
        head, blocks = draw.choice(corpus())
        truth: list[Record] | None = [record for block in blocks for record in block]
        parts = [head] if draw.random() < 0.93 else [_bad_head(head, draw)]
        for block in blocks:
            body = struct.pack(">BI", 0xDD, len(block)) + b"".join(map(self._pack.encode, block))
            if draw.random() < 0.35:
                truth = None
                parts.append(self._bad_block(body, len(block), draw))
            else:
                parts.append(layout.block(layout.BLK, self._compress.compress(body), len(block)))
        count = sum(map(len, blocks))
        parts.append(
            layout.block(layout.END, b"", count if draw.random() < 0.95 else draw.choice(_LONG_EDGES))
        )
        if draw.random() < 0.1 and len(parts) > 2:
            at = draw.randrange(1, len(parts))
            parts[at:at] = [parts[draw.randrange(len(parts))]]
            truth = None
        data = b"".join(parts)
        while draw.random() < 0.3:
            data = mutate(data, draw)
        return data, truth

    def _bad_block(self, body: bytes, count: int, draw: random.Random) -> bytes:
        """Return a block with a mistake in its rows, compression, length or count, and a matching checksum."""
        where = draw.randrange(4)
        if where == 0:
            body = mutate(body, draw)
        elif where == 1:
            nested = draw.random() < 0.01
            body = (
                draw.choice(_NESTED) if nested else struct.pack(">BI", 0xDD, draw.choice(_EDGES)) + body[5:]
            )
        packed = self._compress.compress(body)
        if where == 2:
            packed = (
                mutate(packed, draw) if draw.random() < 0.9 else _declared(packed, draw.choice(_LONG_EDGES))
            )
        if where == 3:
            count = draw.choice(_LONG_EDGES)
        block = layout.block(layout.BLK, packed, count)
        if draw.random() < 0.05:
            length = struct.pack("<I", draw.choice(_EDGES))
            block = block[:4] + length + block[8:]
        return block


def _declared(packed: bytes, size: int) -> bytes:
    """Return a zstd frame with a wrong content size of eight bytes. Source: RFC 8878, section 3.1.1.1."""
    single = packed[4] & 0x20  # then there is no window size
    old = (1 if single else 0, 2, 4, 8)[packed[4] >> 6]
    window = b"" if single else packed[5:6]
    flags = bytes([packed[4] & 0x3F | 0xC0])
    return packed[:4] + flags + window + struct.pack("<Q", size) + packed[5 + len(window) + old :]


_NESTED = [b"\x91" * 5000 + b"\x01", b"\xdd\x00\x00\x00\x01" * 3000, b"\x81\xa1a" * 3000 + b"\x01"]


def _bad_head(head: bytes, draw: random.Random) -> bytes:
    """Return a head with a mistake and a matching checksum."""
    body = mutate(head[layout.HEAD.size :], draw)
    if draw.random() < 0.02:
        nested = draw.choice(_NESTED)
        body = b"\x82\xa6topics\x80\xa8metadata\x81\xa1a" + nested
    version = layout.VERSION if draw.random() < 0.9 else draw.randrange(2**16)
    return layout.HEAD.pack(layout.MAGIC, version, len(body), xxhash.xxh3_64_intdigest(body)) + body


def check(path: Path, truth: list[Record] | None, twice: bool) -> tuple[str, ...]:
    """Return the outcome of reading the file; fail if its records are not the first ones of `truth`."""
    try:
        reader = RecordingReader(path)
    except RecordingError as error:
        return "head", type(error).__name__
    records: list[Record] = []
    ended = "whole"
    try:
        for block in reader.blocks():
            records += block
    except RecordingError as error:
        ended = type(error).__name__
        assert getattr(error, "records", None) == len(records)
    if truth is not None:
        assert records == truth[: len(records)], "records that were never written"
        assert ended != "whole" or records == truth, "records are missing without an error"
    if twice:
        lenient = RecordingReader(path, strict=False)
        assert list(lenient) == records
        assert type(lenient.broken).__name__ == (ended if ended != "whole" else "NoneType")
        if ended == "whole":
            assert reader.count() == len(records)
        assert reader.count() >= 0
    return "body", ended, str(min(len(records), 3))
