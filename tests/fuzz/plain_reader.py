"""Record batches read in plain Python, as Kafka's Java consumer reads them: the reference of `record_batches.reader`.

The two share only the decompression and the numbers of the format.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.util import calc_crc32c

from stream_app.kafka.record_batches import reader as wire
from stream_app.kafka.record_batches.compression import pieces

_HEADER = struct.Struct(">qiibIhiqqqhii")

#: Offset, time, key, value, headers in packed form (empty without headers).
Seen = tuple[int, int, bytes | None, bytes | None, bytes]


class Read(NamedTuple):
    """What a consumer reads."""

    records: list[Seen]
    next: int
    damaged: bool
    aside: list[tuple[int, int]]  # offsets of each batch that was set aside
    compressed: bool
    longest: int  # bytes of the longest batch, expanded


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
    """These bytes are not a record."""


def read(
    raw: bytes, position: int, check_crcs: bool, committed: bool, aborted: Sequence[tuple[int, int]]
) -> Read | None:
    """Return what must be read of any bytes; None if a batch has an older format."""
    batches, damaged = _split(raw, check_crcs)
    if batches is None:
        return None
    records: list[Seen] = []
    aside: list[tuple[int, int]] = []
    pending = list(aborted)
    gone: set[int] = set()
    longest = 0
    for header, body in batches:
        after = header.base + header.last_delta + 1
        if committed:
            while pending and pending[0][1] <= header.base:
                gone.add(pending.pop(0)[0])
        state = _control(header, body, committed, gone)
        if state == "skip":
            position = max(position, after)
            continue
        found: list[tuple[int, Seen]] = []
        well = False
        if state == "records":
            plain, ended = _plain(header, body)
            longest = max(longest, len(plain))
            found, well = _records(header, plain, ended)
        deltas = [delta for delta, _ in found]
        beyond = max(deltas, default=0) > header.last_delta and not header.attributes & wire.CODEC_MASK
        if beyond and header.count == header.last_delta + 1:
            found = [(i, seen) for i, (_, seen) in enumerate(found)]  # the broker's own offsets
        highest = -1
        for delta, seen in found:
            if highest < delta <= header.last_delta:
                highest = delta
                if header.base + delta >= position:
                    position = header.base + delta + 1
                    records.append((header.base + delta, *seen[1:]))
            else:
                well = False
        position = max(position, after)
        if not well:
            aside.append((header.base, max(header.base, header.base + header.last_delta)))
    compressed = any(header.attributes & wire.CODEC_MASK for header, _ in batches)
    return Read(records, position, damaged, aside, compressed, longest)


def _split(raw: bytes, check_crcs: bool) -> tuple[list[tuple[_Header, bytes]] | None, bool]:
    """Return headers and bodies of the batches before the first incomplete or damaged one; None if one is older."""
    batches = []
    at = 0
    while len(raw) - at >= wire.AFTER_LENGTH:
        (length,) = struct.unpack_from(">i", raw, at + wire.LENGTH_AT)
        end = at + wire.AFTER_LENGTH + length
        if end > len(raw):
            break
        if end - at < wire._MIN_LEGACY_BYTES:
            return batches, True
        (magic,) = struct.unpack_from(">B", raw, at + wire.MAGIC_AT)
        if magic < wire.MAGIC:
            # Its checksum precedes the magic byte and covers everything from there on.
            fits = struct.pack(">I", zlib.crc32(raw[at + 16 : end])) == raw[at + 12 : at + 16]
            return (None, False) if fits else (batches, True)
        if magic > wire.MAGIC or end - at < wire.HEADER_BYTES:
            return batches, True
        header = _Header(*_HEADER.unpack_from(raw, at))
        if check_crcs and header.crc != calc_crc32c(raw[at + wire.ATTRIBUTES_AT : end]):
            return batches, True
        if not 0 <= header.base <= 2**62:
            return batches, True
        batches.append((header, raw[at + wire.HEADER_BYTES : end]))
        at = end
    return batches, False


def _control(header: _Header, body: bytes, committed: bool, gone: set[int]) -> str:
    """Return whether a batch has `records`, is invisible to consumers (`skip`), or is `odd`; end transactions."""
    control = bool(header.attributes & wire.CONTROL)
    if committed and control:
        if header.attributes & wire.CODEC_MASK or header.count <= 0:
            return "odd"
        try:
            (_, seen), _ = _record(body, 0)
        except _Malformed:
            return "odd"
        if len(seen[2] or b"") < 4:
            return "odd"
        if (seen[2] or b"")[:4] == bytes(4):
            gone.discard(header.producer)
    if control or (committed and header.attributes & wire.TRANSACTIONAL and header.producer in gone):
        return "skip"
    return "records" if header.count >= 0 else "odd"


def _plain(header: _Header, body: bytes) -> tuple[bytes, bool]:
    """Return the records uncompressed as far as possible, and whether that reached the end."""
    kind = header.attributes & wire.CODEC_MASK
    if not kind:
        return body, True
    parts = []
    try:
        for piece in pieces(kind, body):
            parts.append(piece)  # noqa: PERF402 - pieces before an error count
    except (CorruptRecordException, UnsupportedCodecError):
        return b"".join(parts), False
    return b"".join(parts), True


def _records(header: _Header, body: bytes, ended: bool) -> tuple[list[tuple[int, Seen]], bool]:
    """Return offset delta and record of each valid record, and whether all are valid."""
    found: list[tuple[int, Seen]] = []
    at = 0
    for i in range(header.count):
        try:
            (delta, seen), at = _record(body, at)
        except _Malformed:
            return found, False
        if i == header.count - 1 and (at != len(body) or not ended):
            return found, False
        time = (
            header.max_ms if header.attributes & wire.LOG_APPEND_TIME else _int64(header.first_ms + seen[1])
        )
        found.append((delta, (0, time, *seen[2:])))
    return found, True


def _int64(x: int) -> int:
    return (x + 2**63) % 2**64 - 2**63


def _number(data: bytes, at: int, end: int, size: int = 32) -> tuple[int, int]:
    bits = 0
    for i in range(-(-size // 7)):
        if at >= end:
            raise _Malformed
        byte = data[at]
        at += 1
        bits |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            bits &= 2**size - 1  # further bits are dropped
            return (bits >> 1) ^ -(bits & 1), at
    raise _Malformed


def _part(data: bytes, at: int, end: int) -> tuple[bytes | None, int]:
    """Return a part of a record (None if absent), and where it ends."""
    size, at = _number(data, at, end)
    if size > end - at:
        raise _Malformed
    return (None if size < 0 else data[at : at + size]), at + max(size, 0)


def _record(data: bytes, at: int) -> tuple[tuple[int, Seen], int]:
    """Return offset delta and record (its time as a delta), and where it ends."""
    length, at = _number(data, at, len(data))
    end = at + length
    if length < 1 or end > len(data):
        raise _Malformed
    time, at = _number(data, at + 1, end, 64)
    delta, at = _number(data, at, end)
    key, at = _part(data, at, end)
    value, at = _part(data, at, end)
    headers_at = at
    count, at = _number(data, at, end)
    if not 0 <= count <= end - headers_at:
        raise _Malformed
    for _ in range(count):
        name, at = _part(data, at, end)
        _, at = _part(data, at, end)
        if name is None:
            raise _Malformed
    if at != end:
        raise _Malformed
    return (delta, (0, time, key, value, data[headers_at:end] if count else b"")), end
