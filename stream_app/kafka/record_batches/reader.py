"""Reads record batches of message format v2 from the bytes of a fetch into columns: the compiled part.

Layout and varints: Kafka's protocol guide, "Record Batch". A consumer sees the same batches and records as with
Kafka's own Java consumer (4.1: `DefaultRecord`, `DefaultRecordBatch`, `ByteUtils`, `CompletedFetch`), with which
`tests/fuzz/stored.py` compares this code. Two kernels read all ordinary batches of a fetch at once, because a
producer that does not linger writes one batch per record. `fetch_reader.py` handles odd batches.
"""

import zlib

import numpy as np

from stream_app.contract.record_columns import SPAN
from stream_app.kernels.crc32c import crc32c
from stream_app.kernels.jit import jit as _jit
from stream_app.kernels.memory import pointer_to

# Positions of the fields in a batch's header.
LENGTH_AT, MAGIC_AT, CRC_AT, ATTRIBUTES_AT, LAST_DELTA_AT = 8, 16, 17, 21, 23
FIRST_TIMESTAMP_AT, MAX_TIMESTAMP_AT, PRODUCER_AT, COUNT_AT = 27, 35, 43, 57
HEADER_BYTES = 61
AFTER_LENGTH = 12  # the length counts from here

MAGIC = 2
CODEC_MASK = 0x07
LOG_APPEND_TIME, TRANSACTIONAL, CONTROL = 0x08, 0x10, 0x20

MIN_RECORD_BYTES = 7  # length, attributes, two deltas, no key, no value, no headers
_MIN_LEGACY_BYTES = 26  # a message set of one empty message
_MAX_BASE = 1 << 62  # no offset of a batch overflows
_ABORT_BYTES = 4  # version and type in the key of a transaction marker: all 0 when it is an abort
_VARINT_BYTES, _VARLONG_BYTES = 5, 10

# Results of the kernels.
WELL, BAD_CRC, MALFORMED, LEGACY, ODD = range(5)
# Why `records_of` stopped: all records read, bytes are missing, a record is invalid, a record is too long.
THROUGH, MORE, NO_RECORD, LONG = range(4)


def is_legacy(raw: bytes, at: int) -> bool:
    """Whether the bytes are a message of format 0 or 1, by its checksum, which covers everything after it."""
    end = at + AFTER_LENGTH + int.from_bytes(raw[at + LENGTH_AT : at + AFTER_LENGTH])
    return zlib.crc32(raw[at + MAGIC_AT : end]) == int.from_bytes(raw[at + AFTER_LENGTH : at + MAGIC_AT])


@_jit
def _big_endian(data, at, size):  # type: ignore[no-untyped-def]
    """The signed integer of `size` bytes."""
    x = np.int64(np.int8(data[at]))
    for i in range(1, size):
        x = x << 8 | np.int64(data[at + i])
    return x


@_jit
def _varlong(data, at, end):  # type: ignore[no-untyped-def]
    """The zigzag integer of 64 bits at `at`, and its end: -1 if it is too long or does not end before `end`.

    As in Java, bits after the 64th are dropped.
    """
    if at < end and data[at] < 0x80:
        x = np.int64(data[at])
        return x >> 1 ^ -(x & 1), at + 1
    bits = np.uint64(0)
    for i in range(_VARLONG_BYTES):
        if at >= end:
            break
        byte = data[at]
        at += 1
        bits |= np.uint64(byte & 0x7F) << np.uint64(7 * i)
        if byte < 0x80:
            return np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1)), at
    return np.int64(0), np.int64(-1)


@_jit
def _varint(data, at, end):  # type: ignore[no-untyped-def]
    """The same as `_varlong` for 32 bits: lengths, offset deltas and counts."""
    if at < end and data[at] < 0x80:
        x = np.int64(data[at])
        return x >> 1 ^ -(x & 1), at + 1
    bits = np.int64(0)
    for i in range(_VARINT_BYTES):
        if at >= end:
            break
        byte = data[at]
        at += 1
        bits |= np.int64(byte & 0x7F) << 7 * i
        if byte < 0x80:
            bits &= 0xFFFFFFFF
            return bits >> 1 ^ -(bits & 1), at
    return np.int64(0), np.int64(-1)


@_jit
def survey(batches, check_crcs):  # type: ignore[no-untyped-def]
    """Checks the headers up to the first batch that is cut off or damaged.

    Returns the status, where that batch begins, an upper bound of the records before it in uncompressed batches, and
    whether any batch is compressed.
    """
    data = pointer_to(batches)
    at, count, compressed = np.int64(0), np.int64(0), False
    while len(batches) - at >= AFTER_LENGTH:
        length = _big_endian(data, at + LENGTH_AT, 4)
        end = at + AFTER_LENGTH + length
        if end > len(batches):
            break
        if end - at < _MIN_LEGACY_BYTES:
            return MALFORMED, at, count, compressed
        magic = data[at + MAGIC_AT]
        if magic < MAGIC:
            return LEGACY, at, count, compressed
        if magic > MAGIC or end - at < HEADER_BYTES:
            return MALFORMED, at, count, compressed
        if check_crcs:
            crc = np.uint32(_big_endian(data, at + CRC_AT, 4) & 0xFFFFFFFF)
            if crc != crc32c(data, at + ATTRIBUTES_AT, end):
                return BAD_CRC, at, count, compressed
        records = _big_endian(data, at + COUNT_AT, 4)
        base = _big_endian(data, at, 8)  # the checksum does not cover it
        if base < 0 or base > _MAX_BASE:
            return MALFORMED, at, count, compressed
        if data[at + ATTRIBUTES_AT + 1] & CODEC_MASK:
            compressed = True
        elif 0 < records <= (end - at - HEADER_BYTES) // MIN_RECORD_BYTES:
            count += records
        at = end
    return WELL, at, count, compressed


@_jit
def _record(data, at, end, span):  # type: ignore[no-untyped-def]
    """Writes the span of one record, with deltas for offset and time; returns its end, -1 if it is invalid."""
    length, at = _varint(data, at, end)
    if at < 0 or length < 1 or length > end - at:
        return np.int64(-1)
    end = at + length
    at += 1  # attributes, which have no meaning yet
    span.timestamp, at = _varlong(data, at, end)
    if at < 0:
        return at
    span.offset, at = _varint(data, at, end)
    if at < 0:
        return at
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
    for part in range(2 * headers):  # name and value of each header, at least one byte each
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
def records(batches, at, count, position, committed, aborted, gone, counts):  # type: ignore[no-untyped-def]
    """The spans of the records that a consumer sees in batches from `at` on, up to the first odd batch.

    `survey` must have accepted the batches. A batch is odd if it is still compressed or not well-formed, or if its
    offset deltas do not ascend or exceed the last one in its header. Returns ODD or WELL, the spans (at most
    `count`), the fetch position after them, and where the odd batch begins. `gone` (transactions,) and `counts` (2,)
    keep between calls the producers whose aborted transactions have not ended yet.
    """
    data = pointer_to(batches)
    spans = np.empty(count, SPAN)
    scratch = np.empty(1, SPAN)
    n = np.int64(0)
    while at < len(batches):
        batch = at
        base = _big_endian(data, at, 8)
        end = at + AFTER_LENGTH + _big_endian(data, at + LENGTH_AT, 4)
        attributes = data[at + ATTRIBUTES_AT + 1]
        last = _big_endian(data, at + LAST_DELTA_AT, 4)
        first_ms = _big_endian(data, at + FIRST_TIMESTAMP_AT, 8)
        max_ms = _big_endian(data, at + MAX_TIMESTAMP_AT, 8)
        producer = _big_endian(data, at + PRODUCER_AT, 8)
        left = _big_endian(data, at + COUNT_AT, 4)
        at += HEADER_BYTES
        skip = False
        if committed:
            while counts[0] < len(aborted) and aborted[counts[0], 1] <= base:
                known = False
                for i in range(counts[1]):
                    known |= gone[i] == aborted[counts[0], 0]
                if not known:
                    gone[counts[1]] = aborted[counts[0], 0]
                    counts[1] += 1
                counts[0] += 1
            if attributes & CONTROL:
                if attributes & CODEC_MASK or left <= 0 or _record(data, at, end, scratch[0]) < 0:
                    return ODD, spans[:n], position, batch
                if scratch[0].key_bytes < _ABORT_BYTES:
                    return ODD, spans[:n], position, batch
                if _big_endian(data, scratch[0].key_at, _ABORT_BYTES) == 0:
                    for i in range(counts[1]):
                        if gone[i] == producer:
                            counts[1] -= 1
                            gone[i] = gone[counts[1]]
                            break
            if attributes & TRANSACTIONAL:
                for i in range(counts[1]):
                    skip |= gone[i] == producer
        if skip or attributes & CONTROL:
            position = max(position, base + last + 1)
            at = end
            continue
        if attributes & CODEC_MASK or left < 0 or left > (end - at) // MIN_RECORD_BYTES:
            return ODD, spans[:n], position, batch
        first, before, delta = n, position, np.int64(-1)
        for _ in range(left):
            span = spans[n]
            at = _record(data, at, end, span)
            if at < 0 or span.offset <= delta or span.offset > last:
                return ODD, spans[:first], before, batch
            delta = span.offset
            span.offset += base
            if attributes & LOG_APPEND_TIME:
                span.timestamp = max_ms
            else:
                span.timestamp += first_ms
            # The broker sends whole batches, even if the fetch position is in the middle of one.
            if span.offset >= position:
                position = span.offset + 1
                n += 1
        if left and at != end:
            return ODD, spans[:first], before, batch
        # Compaction keeps the last offset of a batch even if it has removed the last record.
        position = max(position, base + last + 1)
        at = end
    return WELL, spans[:n], position, at


@_jit
def records_of(batch, at, count, longest):  # type: ignore[no-untyped-def]
    """Reads at most `count` records from `at` on. The batch may continue after these bytes.

    Does not check the offsets. Offset and time of a span are deltas. Returns why it stopped (THROUGH, MORE,
    NO_RECORD, LONG), the spans, and where the next record begins.
    """
    data, end = pointer_to(batch), np.int64(len(batch))
    spans = np.empty(max(0, min(count, (end - at) // MIN_RECORD_BYTES + 1)), SPAN)
    n = np.int64(0)
    while n < count:
        length, start = _varint(data, at, end)
        if start < 0:
            return MORE if end - at < _VARINT_BYTES else NO_RECORD, spans[:n], at
        if length > longest:
            return LONG, spans[:n], at
        if length > end - start:
            return MORE, spans[:n], at
        after = _record(data, at, end, spans[n])
        if after < 0:
            return NO_RECORD, spans[:n], at
        at = after
        n += 1
    return THROUGH, spans[:n], at
