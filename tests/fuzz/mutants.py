"""Record batches with a correct checksum in which one field is wrong, unusual, or written in an unusual way."""

import random
import struct
from collections.abc import Callable
from typing import NamedTuple

from stream_app.kafka.record_batches import reader as wire
from tests.stream_app.batches import CODECS, T0, seal
from tests.stream_app.raw_batches import gzip, lz4, snappy, stored, varint, zstd

FIELDS = ("lengths", "deltas", "counts", "headers", "framing", "tail")
_COMPRESS: dict[str, Callable[..., bytes]] = {
    "none": lambda *blocks: b"".join(blocks),
    "gzip": gzip,
    "snappy": snappy,
    "lz4": lz4,
    "zstd": zstd,
}


class Mutant(NamedTuple):
    """A batch and its odd field."""

    codec: str
    field: str
    batch: bytes
    records: int


def mutant(draw: random.Random, codec: str, field: str) -> Mutant:
    """Return a batch of up to three records."""
    n = draw.randrange(1, 4)
    odd = draw.randrange(n)
    parts = [_record(draw, i, field if i == odd else "") for i in range(n)]
    count, last = n, n - 1
    if field == "counts" and draw.random() < 0.1:
        count = draw.choice((-1, 0, n - 1, n + 1, 2**31 - 1, -(2**31)))
        last = count - 1 if draw.random() < 0.7 else last
    body = _framed(draw, codec, parts, field)
    if field == "tail":
        body = _tailed(draw, codec, body)
    raw = bytearray(stored(body, n, CODECS[codec]))
    struct.pack_into(">i", raw, wire.COUNT_AT, max(min(count, 2**31 - 1), -(2**31)))
    struct.pack_into(">i", raw, wire.LAST_DELTA_AT, max(min(last, 2**31 - 1), -(2**31)))
    if field == "framing":
        _header(draw, raw)
    return Mutant(codec, field, seal(bytes(raw)), n)


def _written(draw: random.Random, x: int, odd: bool) -> bytes:
    """Return a varint of 32 bits; if `odd`, readers may decode it differently or refuse it."""
    if not odd or draw.random() < 0.2:
        return varint(x)
    bits = (x << 1 ^ x >> 31) & 0xFFFFFFFF
    what = draw.randrange(8)
    if what < 3:  # longer than necessary
        size = draw.randrange(2, 6)
        whole = bytearray((bits >> 7 * i & 0x7F) | 0x80 for i in range(size - 1))
        return bytes(whole) + bytes([bits >> 7 * (size - 1) & 0x7F]) if bits >> 7 * size == 0 else varint(x)
    if what < 7:  # bits beyond the 32nd
        whole = bytearray((bits >> 7 * i & 0x7F) | 0x80 for i in range(4))
        return bytes(whole) + bytes([bits >> 28 | draw.randrange(8) << 4])
    return varint(draw.choice((-(2**31), -2, -1, 0, 1, x - 1, x + 1, 2**31 - 1, 2**31, 2**40)))


def _record(draw: random.Random, number: int, field: str) -> bytes:
    """Return a record; the fields that `field` names may be odd."""
    lengths, deltas = field == "lengths", field == "deltas"

    def part(data: bytes | None) -> bytes:
        if data is None:
            x = draw.choice((-1, -2, -7, -(2**31))) if lengths and draw.random() < 0.5 else -1
            return _written(draw, x, lengths and draw.random() < 0.5)
        return _written(draw, len(data), lengths and draw.random() < 0.5) + data

    delta, time = _written(draw, number, deltas and draw.random() < 0.5), varint(draw.choice((0, 5, -7)))
    if deltas and draw.random() < 0.5:
        delta = varint(draw.choice((number - 1, number + 1, 0, -1, 7, 2**31 - 1)))
    if deltas and draw.random() < 0.5:
        longest = b"\x80" * 9
        time = draw.choice(
            (b"\x80\x00", longest[:8] + b"\x00", longest + b"\x7e", longest + b"\x00", varint(-(2**40)))
        )
    body = bytes([draw.randrange(256) if field == "framing" else 0]) + time + delta
    body += part(_some(draw)) + part(_some(draw)) + _headers(draw, field)
    return _written(draw, len(body), lengths and draw.random() < 0.3) + body


def _headers(draw: random.Random, field: str) -> bytes:
    odd = field == "headers"
    n = draw.choice((0, 1, 2, 5)) if odd or draw.random() < 0.2 else 0
    packed = b""
    for _ in range(n):
        name = draw.choice((b"", b"h", "ü€😀".encode(), b"foreclick.reason"))
        if odd and draw.random() < 0.5:
            name = draw.randbytes(draw.randrange(1, 9))
        packed += _written(draw, len(name), odd and draw.random() < 0.2) + name
        value = _some(draw)
        size = draw.choice((-1, -5)) if value is None and odd else -1 if value is None else len(value)
        packed += _written(draw, size, odd and draw.random() < 0.2) + (value or b"")
    count = n
    if odd and draw.random() < 0.05:
        count = draw.choice((n - 1, n + 1, -1, 2**31 - 1))
    return _written(draw, count, field == "counts" and draw.random() < 0.9) + packed


def _some(draw: random.Random) -> bytes | None:
    size = draw.choice((None, 0, 1, 9, 70, 200))
    return None if size is None else draw.randbytes(size // 2) + bytes(size - size // 2)


def _framed(draw: random.Random, codec: str, parts: list[bytes], field: str) -> bytes:
    """Return the records compressed; an odd framing has several blocks, frames or members."""
    body = b"".join(parts)
    if field != "framing":
        return _COMPRESS[codec](body)
    cut = draw.randrange(1, len(body))
    a, b = body[:cut], body[cut:]
    what = draw.randrange(5)
    if codec == "gzip":
        whole = bytearray(gzip(body) if what < 2 else gzip(a) + gzip(b))
        if what == 1 or what == 3:
            whole[3] |= draw.choice((1, 0x20, 0x40, 0x80, 2))
            whole[4:10] = draw.randbytes(6)
        if what == 4:
            whole[3] |= 0x18
            whole[10:10] = b"name\0comment\0"
        return bytes(whole)
    if codec == "snappy":
        if what == 0:
            return snappy(body)[20:]
        whole = bytearray((snappy(a, b), snappy(a) + snappy(b), snappy(a, b"", b), snappy(body))[what - 1])
        if what == 4 or draw.random() < 0.3:
            whole[8:16] = draw.randbytes(8)
        return bytes(whole)
    if codec == "lz4":
        flags, size = (
            draw.choice((0x60, 0x60, 0x64, 0x60, 0x62, 0x61, 0x40, 0x20)),
            draw.choice((0x40, 0x50, 0x60, 0x70)),
        )
        if what == 0:
            size = draw.choice((0x30, 0x41, 0xC0, size))
        return lz4(*((a, b) if what > 2 else (body,)), flags=flags, size=size) + (
            b"abcd" if flags & 4 else b""
        )
    if codec == "zstd":
        skip = struct.pack("<II", 0x184D2A50 | draw.randrange(16), 3) + b"abc"
        return (
            zstd(a) + zstd(b),
            zstd(a) + skip + zstd(b),
            skip + zstd(body),
            zstd(body) + skip,
            zstd(body) + zstd(b""),
        )[what]
    return body


def _tailed(draw: random.Random, codec: str, body: bytes) -> bytes:
    """Return the bytes with some added at the end, or removed."""
    more = draw.randbytes(draw.choice((1, 2, 3, 3, 4, 7, 18, 27, 60)))
    what = draw.randrange(10)
    if what == 0:
        return body[: -draw.randrange(1, min(9, len(body)))]
    if what < 3 and codec != "none":
        again = _COMPRESS[codec](b"" if what == 1 else b"more")
        return body + again[: draw.randrange(1, len(again) + 1)]
    if what < 6 and codec == "snappy":
        return body + more[:3]
    # The broker's reader of snappy believes the length of a block: 512 MB end a broker with a small heap.
    return body + (b"\0\0" + more if codec == "snappy" else more)


def _header(draw: random.Random, raw: bytearray) -> None:
    """Return fields of the batch's header that a producer may choose."""
    what = draw.randrange(6)
    if what == 0:
        struct.pack_into(">q", raw, 0, draw.choice((-1, 5, 2**62, 2**63 - 1)))
    elif what == 1:
        struct.pack_into(">i", raw, 12, draw.choice((-1, 0, 7, 2**31 - 1)))
    elif what == 2:
        raw[wire.ATTRIBUTES_AT] = draw.randrange(256)
    elif what == 3:
        raw[wire.ATTRIBUTES_AT + 1] |= draw.choice((0x08, 0x40, 0x80, 0x20, 0x10))
    elif what == 4:
        struct.pack_into(">q", raw, wire.MAX_TIMESTAMP_AT, draw.choice((-1, 0, T0 + 9, 2**40)))
    else:
        time = draw.choice((-1, 0, 1, T0 - 10**9))
        struct.pack_into(">qq", raw, wire.FIRST_TIMESTAMP_AT, time, time)
