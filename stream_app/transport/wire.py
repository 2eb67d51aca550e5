"""Record batches of message format v2, from the bytes of a fetch to columns.

Layout and varints: Kafka's protocol guide, "Record Batch". Which batches and records a consumer sees follows
aiokafka's `PartitionRecords` (0.14), the reference of the tests. Two kernels do all batches of a fetch, since a
producer that does not linger makes a batch of each record.
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError

from stream_app.columns import SPAN
from stream_app.pointer import pointer_to
from stream_app.transport.compression import decompress
from stream_app.transport.crc32c import crc32c

# Where the fields of a batch's header stand.
LENGTH_AT, MAGIC_AT, CRC_AT, ATTRIBUTES_AT, LAST_DELTA_AT = 8, 16, 17, 21, 23
FIRST_TIMESTAMP_AT, MAX_TIMESTAMP_AT, PRODUCER_AT, COUNT_AT = 27, 35, 43, 57
HEADER_BYTES = 61
AFTER_LENGTH = 12  # the length counts from here

MAGIC = 2
CODEC_MASK = 0x07
LOG_APPEND_TIME, TRANSACTIONAL, CONTROL = 0x08, 0x10, 0x20

_MIN_RECORD_BYTES = 7  # length, attributes, two deltas, no key, no value, no headers
_MIN_LEGACY_BYTES = 26  # a message set of one empty message
_MAX_DELTA = (1 << 31) - 1
_MAX_BASE = 1 << 62  # no offset of a batch overflows
_ABORT_BYTES = 4  # version and type in the key of a transaction marker: all 0 when it is an abort

# What a kernel came upon.
_WELL, _BAD_CRC, _MALFORMED, _LEGACY = range(4)

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


class Parsed(NamedTuple):
    """What a consumer sees of the bytes of one fetch."""

    data: npt.NDArray[np.uint8]  #: what the spans point into; read-only
    spans: npt.NDArray[np.void]  #: (records,) SPAN
    next: int  #: the fetch position behind these records
    error: Exception | None  #: why nothing behind `next` could be read, if that is so


def parse(
    raw: bytes,
    position: int,
    *,
    check_crcs: bool = True,
    committed: bool = True,
    aborted: Sequence[tuple[int, int]] = (),
) -> Parsed | None:
    """The records at and above a fetch position in the batches of one partition.

    `committed` leaves out the records of `aborted` transactions, (producer id, first offset) by rising offset, as
    the broker lists them. A batch that is cut off at the end is passed over. Without compressed batches the
    columns point into `raw`. Returns None where a batch has an older message format.
    """
    data = np.frombuffer(raw, np.uint8)
    status, stop, count, compressed = _survey(data, check_crcs)
    if status == _LEGACY:
        if _is_legacy(raw, stop):
            return None
        status = _BAD_CRC  # damaged where no checksum covers it
    # Each step ends at the first batch that is bad to it, so what a later one finds stands before that.
    error = _error(status)
    if compressed:
        expanded, refused = _expand(raw[:stop])
        data = np.frombuffer(expanded, np.uint8)
        status, stop, count, _ = _survey(data, False)
        error = _error(status) or refused or error
    listed = np.array(aborted, np.int64).reshape(-1, 2)
    status, spans, after = _records(data[:stop], count, position, committed, listed)
    return Parsed(data, spans, after, _error(status) or error)


def _is_legacy(raw: bytes, at: int) -> bool:
    """Whether the checksum of a message of format 0 or 1 fits, which covers all behind it."""
    end = at + AFTER_LENGTH + int.from_bytes(raw[at + LENGTH_AT : at + AFTER_LENGTH])
    return zlib.crc32(raw[at + MAGIC_AT : end]) == int.from_bytes(raw[at + AFTER_LENGTH : at + MAGIC_AT])


def _error(status: int) -> Exception | None:
    if status == _WELL:
        return None
    return CorruptRecordException("Invalid CRC" if status == _BAD_CRC else "Invalid record structure")


def _expand(raw: bytes) -> tuple[bytes, Exception | None]:
    """The same batches uncompressed, up to the first that cannot be, and why."""
    parts: list[bytes] = []
    at = 0
    while at < len(raw):
        end = at + AFTER_LENGTH + int.from_bytes(raw[at + LENGTH_AT : at + AFTER_LENGTH])
        kind = raw[at + ATTRIBUTES_AT + 1] & CODEC_MASK
        body = raw[at + HEADER_BYTES : end]
        header = bytearray(raw[at : at + HEADER_BYTES])
        at = end
        if kind:
            try:
                body = decompress(kind, body)
            except (CorruptRecordException, UnsupportedCodecError) as error:
                return b"".join(parts), error
            header[LENGTH_AT:AFTER_LENGTH] = (HEADER_BYTES - AFTER_LENGTH + len(body)).to_bytes(4)
            header[ATTRIBUTES_AT + 1] &= ~CODEC_MASK
        parts += (bytes(header), body)
    return b"".join(parts), None


@_jit
def _big_endian(data, at, size):  # type: ignore[no-untyped-def]
    """The signed integer of `size` bytes."""
    x = np.int64(np.int8(data[at]))
    for i in range(1, size):
        x = x << 8 | np.int64(data[at + i])
    return x


@_jit
def _varint(data, at, end):  # type: ignore[no-untyped-def]
    """The zigzag integer at `at` and where it ends; -1 where it does not end before `end` or within 64 bits."""
    if at < end and data[at] < 0x80:
        x = np.int64(data[at])
        return x >> 1 ^ -(x & 1), at + 1
    bits = np.uint64(0)
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        bits |= np.uint64(byte & 0x7F) << np.uint64(shift)
        if byte < 0x80:
            return np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1)), at
    return np.int64(0), np.int64(-1)


@_jit
def _survey(batches, check_crcs):  # type: ignore[no-untyped-def]
    """Walks the headers up to the first batch that is cut off or bad.

    Returns what is bad, where that batch begins, the records before it in batches that are not compressed (an upper
    bound of what can be parsed there), and whether a batch is compressed.
    """
    data = pointer_to(batches)
    at, count, compressed = np.int64(0), np.int64(0), False
    while len(batches) - at >= AFTER_LENGTH:
        length = _big_endian(data, at + LENGTH_AT, 4)
        end = at + AFTER_LENGTH + length
        if end > len(batches):
            break
        if end - at < _MIN_LEGACY_BYTES:
            return _MALFORMED, at, count, compressed
        magic = data[at + MAGIC_AT]
        if magic < MAGIC:
            return _LEGACY, at, count, compressed
        if magic > MAGIC or end - at < HEADER_BYTES:
            return _MALFORMED, at, count, compressed
        if check_crcs:
            crc = np.uint32(_big_endian(data, at + CRC_AT, 4) & 0xFFFFFFFF)
            if crc != crc32c(data, at + ATTRIBUTES_AT, end):
                return _BAD_CRC, at, count, compressed
        records = _big_endian(data, at + COUNT_AT, 4)
        base = _big_endian(data, at, 8)  # which the checksum does not cover
        if records < 0 or base < 0 or base > _MAX_BASE:
            return _MALFORMED, at, count, compressed
        if data[at + ATTRIBUTES_AT + 1] & CODEC_MASK:
            compressed = True
        else:
            if records > (end - at - HEADER_BYTES) // _MIN_RECORD_BYTES:
                return _MALFORMED, at, count, compressed
            count += records
        at = end
    return _WELL, at, count, compressed


@_jit
def _record(data, at, end, span):  # type: ignore[no-untyped-def]
    """Writes the span of one record, its offset and time as deltas; returns where it ends, -1 if it is malformed."""
    length, at = _varint(data, at, end)
    if at < 0 or length < 1 or length > end - at:
        return np.int64(-1)
    end = at + length
    at += 1  # attributes, of which there are none
    span.timestamp, at = _varint(data, at, end)
    if at < 0:
        return at
    span.offset, at = _varint(data, at, end)
    if at < 0 or span.offset < 0 or span.offset > _MAX_DELTA:
        return np.int64(-1)
    size, at = _varint(data, at, end)
    if at < 0 or size > end - at:
        return np.int64(-1)
    span.key_at, span.key_bytes = at, max(size, -1)
    at += max(size, 0)
    size, at = _varint(data, at, end)
    if at < 0 or size > end - at:
        return np.int64(-1)
    span.value_at, span.value_bytes = at, max(size, -1)
    at += max(size, 0)
    span.headers_at, span.headers_bytes = at, 0
    headers, at = _varint(data, at, end)
    if at < 0 or headers < 0 or headers > (end - at) // 2:
        return np.int64(-1)
    for part in range(2 * headers):  # a name and a value each, one byte at the least
        size, at = _varint(data, at, end)
        if at < 0 or size > end - at or (size < 0 and part % 2 == 0):
            return np.int64(-1)
        at += max(size, 0)
    if at != end:
        return np.int64(-1)
    if headers:
        span.headers_bytes = end - span.headers_at
    return at


@_jit
def _records(batches, count, position, committed, aborted):  # type: ignore[no-untyped-def]
    """The spans of what a consumer sees of batches that `_survey` has passed and that are not compressed.

    Returns what is bad, the spans (at most `count`) of the batches before that, and the position behind them.
    """
    data = pointer_to(batches)
    spans = np.empty(count, SPAN)
    scratch = np.empty(1, SPAN)
    n = np.int64(0)
    at = np.int64(0)
    listed = 0  # aborted transactions that began up to here
    gone = np.empty(len(aborted), np.int64)  # producers whose transaction is one of them and not over
    n_gone = 0
    while at < len(batches):
        base = _big_endian(data, at, 8)
        end = at + AFTER_LENGTH + _big_endian(data, at + LENGTH_AT, 4)
        attributes = data[at + ATTRIBUTES_AT + 1]
        after = base + _big_endian(data, at + LAST_DELTA_AT, 4) + 1
        first_ms = _big_endian(data, at + FIRST_TIMESTAMP_AT, 8)
        max_ms = _big_endian(data, at + MAX_TIMESTAMP_AT, 8)
        producer = _big_endian(data, at + PRODUCER_AT, 8)
        left = _big_endian(data, at + COUNT_AT, 4)
        at += HEADER_BYTES
        skip = False
        if committed:
            while listed < len(aborted) and aborted[listed, 1] <= base:
                known = False
                for i in range(n_gone):
                    known |= gone[i] == aborted[listed, 0]
                if not known:
                    gone[n_gone] = aborted[listed, 0]
                    n_gone += 1
                listed += 1
            if attributes & CONTROL:
                if left == 0 or _record(data, at, end, scratch[0]) < 0 or scratch[0].key_bytes < _ABORT_BYTES:
                    return _MALFORMED, spans[:n], position
                if _big_endian(data, scratch[0].key_at, _ABORT_BYTES) == 0:
                    for i in range(n_gone):
                        if gone[i] == producer:
                            n_gone -= 1
                            gone[i] = gone[n_gone]
                            break
            if attributes & TRANSACTIONAL:
                for i in range(n_gone):
                    skip |= gone[i] == producer
        if skip or attributes & CONTROL:
            position = max(position, after)
            at = end
            continue
        first, before = n, position
        for _ in range(left):
            span = spans[n]
            at = _record(data, at, end, span)
            if at < 0:
                return _MALFORMED, spans[:first], before
            span.offset += base
            if attributes & LOG_APPEND_TIME:
                span.timestamp = max_ms
            else:
                span.timestamp += first_ms
            # Of a batch the broker sends the whole, also where the position lies in its middle.
            if span.offset >= position:
                position = span.offset + 1
                n += 1
        if at != end:
            return _MALFORMED, spans[:first], before
        # Compaction keeps the last offset of a batch even where it has taken the last record.
        position = max(position, after)
    return _WELL, spans[:n], position
