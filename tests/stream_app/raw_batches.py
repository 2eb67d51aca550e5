"""Record batches written byte by byte, valid or not, as a client other than our producers may send them."""

import struct
import zlib
from collections.abc import Sequence

import cramjam
import xxhash
import zstandard

from stream_app.kafka.record_batches import reader as wire
from tests.stream_app.batches import T0, seal


def varint(x: int) -> bytes:
    """Return a zigzag varint of up to 64 bits, as Kafka writes lengths and deltas."""
    x = (x << 1 ^ x >> 63) & (1 << 64) - 1
    out = bytearray()
    while x > 0x7F:
        out.append(x & 0x7F | 0x80)
        x >>= 7
    return bytes([*out, x])


def part(data: bytes | None) -> bytes:
    """Return a key, a value, or a header's name or value, after its length."""
    return varint(-1) if data is None else varint(len(data)) + data


def record(
    number: int,
    key_: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[bytes, bytes | None]] = (),
    *,
    delta: bytes | None = None,
    key: bytes | None = None,
    tail: bytes | None = None,
    time: int = 0,
) -> bytes:
    """Return a record with an offset delta; `delta`, `key` and `tail` (the headers) replace its packed fields."""
    body = b"\0" + varint(time) + (varint(number) if delta is None else delta)
    body += (part(key_) if key is None else key) + part(value)
    packed = varint(len(headers)) + b"".join(part(name) + part(text) for name, text in headers)
    body += packed if tail is None else tail
    return varint(len(body)) + body


def stored(
    body: bytes, count: int, codec: int = 0, base: int = 0, first_ms: int = T0, attributes: int = 0
) -> bytes:
    """Return a batch of records with a correct checksum; with a `codec`, the records are already compressed."""
    last = count - 1
    tail = struct.pack(">hiqqqhii", codec | attributes, last, first_ms, first_ms, -1, -1, -1, count) + body
    head = struct.pack(">qiibI", base, wire.HEADER_BYTES - wire.AFTER_LENGTH + len(body), -1, wire.MAGIC, 0)
    return seal(head + tail)


def gzip(*blocks: bytes) -> bytes:
    """Return one gzip member."""
    stream = zlib.compressobj(wbits=31)
    return b"".join(map(stream.compress, blocks)) + stream.flush()


def snappy(*blocks: bytes) -> bytes:
    """Return the format of the xerial library."""
    packed = [bytes(cramjam.snappy.compress_raw(block)) for block in blocks]
    return (
        b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1) + b"".join(struct.pack(">i", len(p)) + p for p in packed)
    )


def lz4(*blocks: bytes, flags: int = 0x60, size: int = 0x40) -> bytes:
    """Return a frame of independent blocks of at most 64 KiB."""
    head = bytes([flags, size])
    packed = [bytes(cramjam.lz4.compress_block(block, store_size=False)) for block in blocks]
    found = struct.pack("<I", 0x184D2204) + head + bytes([xxhash.xxh32_intdigest(head) >> 8 & 0xFF])
    return found + b"".join(struct.pack("<I", len(p)) + p for p in packed) + bytes(4)


def zstd(*blocks: bytes) -> bytes:
    """Return one zstd frame."""
    return zstandard.ZstdCompressor().compress(b"".join(blocks))
