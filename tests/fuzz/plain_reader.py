"""Record batches read in plain Python, step by step from Kafka's protocol guide: what `wire.parse` is compared with.

It shares with it only the decompression and the numbers of the format.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.util import calc_crc32c

from stream_app.transport import wire
from stream_app.transport.compression import decompress

_HEADER = struct.Struct(">qiibIhiqqqhii")

Span = tuple[int, int, int, int, int, int, int, int]
#: Offset, time, where key, value and headers stand, and the size of each, in the order of SPAN.


class Read(NamedTuple):
    """What a consumer sees, as `wire.Parsed`; `compressed`: the spans point into other bytes than those given."""

    spans: list[Span]
    next: int
    error: type[Exception] | None
    compressed: bool


class _Header(NamedTuple):
    base: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_delta: int
    first_ms: int
    max_ms: int
    producer: int
    epoch: int
    sequence: int
    count: int


class _Malformed(Exception):
    """Bytes that are no record."""


def read(
    raw: bytes, position: int, check_crcs: bool, committed: bool, aborted: Sequence[tuple[int, int]]
) -> Read | None:
    """As `wire.parse`, which it must agree with on all bytes."""
    batches, error = _split(raw, check_crcs)
    if batches is None:
        return None
    compressed = any(header.attributes & wire.CODEC_MASK for header, _ in batches)
    spans: list[Span] = []
    pending = list(aborted)
    gone: set[int] = set()
    shift = 0  # where a batch begins once those before it are uncompressed
    plain: list[tuple[_Header, bytes]] = []
    for header, body in batches:
        # All batches are uncompressed before the first record is read.
        try:
            plain.append((header, _plain(header, body)))
        except (CorruptRecordException, UnsupportedCodecError) as bad:
            error = type(bad)
            break
        if header.attributes & wire.CODEC_MASK and header.count > len(plain[-1][1]) // wire._MIN_RECORD_BYTES:
            plain.pop()
            error = CorruptRecordException
            break
    for header, body in plain:
        while pending and pending[0][1] <= header.base:
            gone.add(pending.pop(0)[0])
        try:
            found = _batch(header, body, shift + wire.HEADER_BYTES, committed, gone)
        except _Malformed:
            return Read(spans, position, CorruptRecordException, compressed)
        for span in found:
            if span[0] >= position:
                spans.append(span)
                position = span[0] + 1
        position = max(position, header.base + header.last_delta + 1)
        shift += wire.HEADER_BYTES + len(body)
    return Read(spans, position, error, compressed)


def _split(raw: bytes, check_crcs: bool) -> tuple[list[tuple[_Header, bytes]] | None, type[Exception] | None]:
    """Headers and bodies of the batches before the first that is cut off or bad; None where one is older."""
    batches = []
    at = 0
    while len(raw) - at >= wire.AFTER_LENGTH:
        (length,) = struct.unpack_from(">i", raw, at + wire.LENGTH_AT)
        end = at + wire.AFTER_LENGTH + length
        if end > len(raw):
            break
        if end - at < wire._MIN_LEGACY_BYTES:
            return batches, CorruptRecordException
        (magic,) = struct.unpack_from(">B", raw, at + wire.MAGIC_AT)
        if magic < wire.MAGIC:
            # Its checksum stands before the magic byte and covers all from there.
            fits = struct.pack(">I", zlib.crc32(raw[at + 16 : end])) == raw[at + 12 : at + 16]
            return (None, None) if fits else (batches, CorruptRecordException)
        if magic > wire.MAGIC or end - at < wire.HEADER_BYTES:
            return batches, CorruptRecordException
        header = _Header(*_HEADER.unpack_from(raw, at))
        body = raw[at + wire.HEADER_BYTES : end]
        if check_crcs and header.crc != calc_crc32c(raw[at + wire.ATTRIBUTES_AT : end]):
            return batches, CorruptRecordException
        if header.count < 0 or not 0 <= header.base <= 2**62:
            return batches, CorruptRecordException
        if not header.attributes & wire.CODEC_MASK and header.count > len(body) // wire._MIN_RECORD_BYTES:
            return batches, CorruptRecordException
        batches.append((header, body))
        at = end
    return batches, None


def _plain(header: _Header, body: bytes) -> bytes:
    kind = header.attributes & wire.CODEC_MASK
    return decompress(kind, body) if kind else body


def _batch(header: _Header, body: bytes, at: int, committed: bool, gone: set[int]) -> list[Span]:
    """The records of a batch whose body stands at `at`; none where a consumer does not see them."""
    hidden = bool(header.attributes & wire.CONTROL)
    if committed:
        if hidden:
            if not header.count:
                raise _Malformed
            span, _ = _record(body, 0)
            if span[5] < 4:
                raise _Malformed
            if body[span[2] : span[2] + 4] == bytes(4):
                gone.discard(header.producer)
        if header.attributes & wire.TRANSACTIONAL:
            hidden = hidden or header.producer in gone
    if hidden:
        return []
    spans = []
    inside = 0
    for _ in range(header.count):
        span, inside = _record(body, inside)
        time = (
            header.max_ms if header.attributes & wire.LOG_APPEND_TIME else _int64(header.first_ms + span[1])
        )
        spans.append((header.base + span[0], time, span[2] + at, span[3] + at, span[4] + at, *span[5:]))
    if inside != len(body):
        raise _Malformed
    return spans


def _int64(x: int) -> int:
    return (x + 2**63) % 2**64 - 2**63


def _number(data: bytes, at: int, end: int) -> tuple[int, int]:
    bits = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _Malformed
        byte = data[at]
        at += 1
        bits |= (byte & 0x7F) << shift
        if byte < 0x80:
            bits &= 2**64 - 1
            return (bits >> 1) ^ -(bits & 1), at
    raise _Malformed


def _part(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Where a part of a record stands, its size (-1 for none), and where it ends."""
    size, at = _number(data, at, end)
    if size > end - at:
        raise _Malformed
    return at, max(size, -1), at + max(size, 0)


def _record(data: bytes, at: int) -> tuple[Span, int]:
    length, at = _number(data, at, len(data))
    end = at + length
    if length < 1 or end > len(data):
        raise _Malformed
    time, at = _number(data, at + 1, end)
    delta, at = _number(data, at, end)
    if not 0 <= delta < 2**31:
        raise _Malformed
    key_at, key_bytes, at = _part(data, at, end)
    value_at, value_bytes, at = _part(data, at, end)
    headers_at = at
    count, at = _number(data, at, end)
    if not 0 <= count <= end - headers_at:
        raise _Malformed
    for _ in range(count):
        if _number(data, at, end)[0] < 0:
            raise _Malformed
        _, _, at = _part(data, at, end)
        _, _, at = _part(data, at, end)
    if at != end:
        raise _Malformed
    return (
        delta,
        time,
        key_at,
        value_at,
        headers_at,
        key_bytes,
        value_bytes,
        end - headers_at if count else 0,
    ), end
