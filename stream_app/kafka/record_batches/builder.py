"""Record batches of message format v2, from columns to the bytes of a produce request.

One pass writes each record at its final place. The producer later fills in its id, the sequence number and, after
these, the checksum, which have their places in the header. Layout: Kafka's protocol guide, "Record Batch".
"""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from aiokafka import codec

from stream_app.kafka.record_batches.reader import (
    AFTER_LENGTH,
    ATTRIBUTES_AT,
    COUNT_AT,
    CRC_AT,
    FIRST_TIMESTAMP_AT,
    HEADER_BYTES,
    LAST_DELTA_AT,
    LENGTH_AT,
    MAGIC,
    MAGIC_AT,
    MAX_TIMESTAMP_AT,
    PRODUCER_AT,
    TRANSACTIONAL,
)
from stream_app.kernels.crc32c import crc32c
from stream_app.kernels.jit import jit as _jit
from stream_app.kernels.memory import pointer_to

_LEADER_EPOCH_AT = 12
_PRODUCER = struct.Struct(">qhi")  # id, epoch, sequence number of the first record

_ENCODE: dict[int, Callable[[Any], bytes]] = {
    1: codec.gzip_encode,
    2: codec.snappy_encode,
    3: codec.lz4_encode,
    4: codec.zstd_encode,
}


class SealedBatch:
    """A finished record batch with the interface of aiokafka's `BatchBuilder` (0.14)."""

    def __init__(self, batch: npt.NDArray[np.uint8], count: int) -> None:
        self._batch = batch
        self._count = count
        self._sealed = False

    def append(self, **_: Any) -> None:
        """Returns None, which means that there is no room."""
        return None

    def close(self) -> None:
        """Does nothing: the batch is closed from the start."""

    def closed(self) -> bool:
        """Always True."""
        return True

    def record_count(self) -> int:
        """The number of records."""
        return self._count

    def size(self) -> int:
        """The number of bytes, after compression if there is any."""
        return len(self._batch)

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        _PRODUCER.pack_into(self._batch.data, PRODUCER_AT, producer_id, producer_epoch, base_sequence)
        self._sealed = False

    def _build(self) -> memoryview:
        if not self._sealed:
            struct.pack_into(">I", self._batch.data, CRC_AT, _checksum(self._batch))
            self._sealed = True
        return self._batch.data


def build(
    keys: npt.NDArray[np.uint8],
    key_at: npt.NDArray[np.int64],
    key_bytes: npt.NDArray[np.int32],
    values: npt.NDArray[np.uint8],
    value_at: npt.NDArray[np.int64],
    value_bytes: npt.NDArray[np.int32],
    *,
    timestamp: int,
    limit: int,
    compression: int = 0,
    transactional: bool = False,
) -> list[SealedBatch]:
    """Builds record batches of n records, in order, without headers.

    Record i has the key `keys[key_at[i] : key_at[i] + key_bytes[i]]`, or no key if `key_bytes[i]` is -1; the same
    holds for its value. `timestamp` is in Unix ms. A batch has at most `limit` bytes before compression, unless it is
    a single larger record. `compression` is the codec as in a batch's attributes. Raises ValueError if a record is
    outside its array.
    """
    columns = (
        _frozen(keys, np.uint8),
        _frozen(key_at, np.int64),
        _frozen(key_bytes, np.int32),
        _frozen(values, np.uint8),
        _frozen(value_at, np.int64),
        _frozen(value_bytes, np.int32),
    )
    sizes = {len(columns[i]) for i in (1, 2, 4, 5)}
    if len(sizes) != 1:
        raise ValueError("the columns of keys and values differ in length")
    built: list[SealedBatch] = []
    start, n = 0, sizes.pop()
    while start < n:
        batch, stop = _write(*columns, start, timestamp, limit, TRANSACTIONAL if transactional else 0)
        if stop == start:
            raise ValueError(f"record {start} lies outside of the arrays of keys and values")
        built.append(SealedBatch(_compress(batch, compression) if compression else batch, stop - start))
        start = stop
    return built


def _frozen(column: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any]:
    # numba would compile other versions for arrays that are writable or not contiguous.
    view = np.ascontiguousarray(column, dtype).view()
    view.flags.writeable = False
    return view


def _compress(batch: npt.NDArray[np.uint8], compression: int) -> npt.NDArray[np.uint8]:
    """The batch with its records compressed; the batch itself if that would not make it smaller."""
    body = _ENCODE[compression](batch[HEADER_BYTES:].tobytes())
    if HEADER_BYTES + len(body) >= len(batch):
        return batch
    smaller = np.frombuffer(bytearray(batch[:HEADER_BYTES].data) + body, np.uint8)
    struct.pack_into(">i", smaller.data, LENGTH_AT, len(smaller) - AFTER_LENGTH)
    smaller[ATTRIBUTES_AT + 1] |= compression
    return smaller


@_jit
def _checksum(batch):  # type: ignore[no-untyped-def]
    return crc32c(pointer_to(batch), ATTRIBUTES_AT, len(batch))


@_jit
def _varint_size(x):  # type: ignore[no-untyped-def]
    x = x << 1 ^ x >> 63
    size = 1
    while x > 0x7F:
        x >>= 7
        size += 1
    return size


@_jit
def _put_varint(out, at, x):  # type: ignore[no-untyped-def]
    x = x << 1 ^ x >> 63
    while x > 0x7F:
        out[at] = np.uint8(x & 0x7F | 0x80)
        x >>= 7
        at += 1
    out[at] = np.uint8(x)
    return at + 1


@_jit
def _put_number(out, at, x, size):  # type: ignore[no-untyped-def]
    for i in range(size):
        out[at + i] = np.uint8(x >> 8 * (size - 1 - i) & 0xFF)


@_jit
def _put_part(out, at, part, start, size):  # type: ignore[no-untyped-def]
    at = _put_varint(out, at, size)
    for i in range(size):
        out[at + i] = part[start + i]
    return at + max(size, 0)


@_jit
def _record_size(delta, key, value):  # type: ignore[no-untyped-def]
    """Bytes of a record after its length field. Attributes, time delta and header count take one byte each."""
    size = 3 + _varint_size(delta) + _varint_size(key) + _varint_size(value)
    return size + max(key, 0) + max(value, 0)


@_jit
def _write(  # type: ignore[no-untyped-def]
    keys, key_at, key_bytes, values, value_at, value_bytes, start, timestamp, limit, attributes
):
    """Writes as many records as fit, from `start` on; returns the batch and the next `start` (unchanged on error)."""
    total = np.int64(HEADER_BYTES)
    stop = start
    while stop < len(key_at):
        key, value = np.int64(max(key_bytes[stop], -1)), np.int64(max(value_bytes[stop], -1))
        if key >= 0 and (key_at[stop] < 0 or key > len(keys) - key_at[stop]):
            break
        if value >= 0 and (value_at[stop] < 0 or value > len(values) - value_at[stop]):
            break
        size = _record_size(np.int64(stop - start), key, value)
        size += _varint_size(size)
        if stop > start and total + size > limit:
            break
        total += size
        stop += 1
    batch = np.empty(total, np.uint8)
    out, key_data, value_data = pointer_to(batch), pointer_to(keys), pointer_to(values)
    _put_number(out, 0, np.int64(0), 8)  # base offset, which the broker sets
    _put_number(out, LENGTH_AT, total - AFTER_LENGTH, 4)
    _put_number(out, _LEADER_EPOCH_AT, np.int64(-1), 4)
    out[MAGIC_AT] = np.uint8(MAGIC)
    _put_number(out, CRC_AT, np.int64(0), 4)
    _put_number(out, ATTRIBUTES_AT, np.int64(attributes), 2)
    _put_number(out, LAST_DELTA_AT, np.int64(stop - start - 1), 4)
    _put_number(out, FIRST_TIMESTAMP_AT, np.int64(timestamp), 8)
    _put_number(out, MAX_TIMESTAMP_AT, np.int64(timestamp), 8)
    _put_number(out, PRODUCER_AT, np.int64(-1), 8)
    _put_number(out, PRODUCER_AT + 8, np.int64(-1), 2)
    _put_number(out, PRODUCER_AT + 10, np.int64(-1), 4)
    _put_number(out, COUNT_AT, np.int64(stop - start), 4)
    at = np.int64(HEADER_BYTES)
    for i in range(start, stop):
        key, value = np.int64(max(key_bytes[i], -1)), np.int64(max(value_bytes[i], -1))
        at = _put_varint(out, at, _record_size(np.int64(i - start), key, value))
        out[at] = np.uint8(0)  # attributes
        out[at + 1] = np.uint8(0)  # time as a delta
        at = _put_varint(out, at + 2, np.int64(i - start))
        at = _put_part(out, at, key_data, key_at[i], key)
        at = _put_part(out, at, value_data, value_at[i], value)
        out[at] = np.uint8(0)  # headers
        at += 1
    return batch, stop
