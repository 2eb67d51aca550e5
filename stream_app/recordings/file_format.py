"""The `*.stream` format, byte by byte: records as in Kafka, in compressed blocks that can be read independently.

A file is a head, blocks, and an end mark; integers are little-endian, checksums XXH3-64:

    head   b"FORECLCK", version u16, length u32, checksum u64,
           msgpack {"topics": {name: partitions}, "metadata": {}}
    block  b"blk\\0", length u32, records u64, checksum u64, zstd of a msgpack array of records, each an array
           [topic, partition, offset, timestamp, key, value, [[name, value], ...]]
    end    b"end\\0", length 0, records u64 (of the whole file), checksum u64

A block's checksum covers its length and record count too, so a reader detects a file cut at any byte, also
between two blocks (no end mark), and can follow a file that is still being written.
"""

import struct
from typing import Any

import msgspec
import xxhash

MAGIC = b"FORECLCK"
VERSION = 1

HEAD = struct.Struct("<8sHIQ")
BLOCK = struct.Struct("<4sIQQ")
_COVERED = struct.Struct("<4sIQ")  # what the checksum of a block covers in addition to its body
BLK, END = b"blk\0", b"end\0"

#: A record in a block; the value of a Kafka header may be null.
Row = tuple[str, int, int, int, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]


class Head(msgspec.Struct, frozen=True):
    """The head of a recording: its topics and metadata."""

    topics: dict[str, int]
    metadata: dict[str, Any]


def head(topics: dict[str, int], metadata: dict[str, Any]) -> bytes:
    """Return the first bytes of a recording."""
    body = msgspec.msgpack.encode(Head(topics, metadata))
    return HEAD.pack(MAGIC, VERSION, len(body), xxhash.xxh3_64_intdigest(body)) + body


def block(mark: bytes, body: bytes, count: int) -> bytes:
    """Return the bytes of a block of `count` records, or of the end mark."""
    return BLOCK.pack(mark, len(body), count, checksum(mark, body, count)) + body


def checksum(mark: bytes, body: bytes, count: int) -> int:
    """Return the XXH3-64 hash of the head and the body of a block."""
    digest = xxhash.xxh3_64(_COVERED.pack(mark, len(body), count))
    digest.update(body)
    return digest.intdigest()
