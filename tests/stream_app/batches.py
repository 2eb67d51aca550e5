"""Record batches by aiokafka's own builder, and what aiokafka's own reader reads of them: the reference."""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import strategies as st

from stream_app.contract.record_columns import RecordColumns
from stream_app.kafka.record_batches import reader as wire
from stream_app.kafka.record_batches.chunked_reader import Unreadable
from stream_app.kafka.record_batches.fetch_reader import LegacyFormatError, read

TP = TopicPartition("clicks", 3)
T0 = 1_700_000_000_000
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


class Part(NamedTuple):
    """One record of a batch."""

    delta: int  # its offset minus the batch's first offset
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


def seal(batch: bytes) -> bytes:
    """Return the batch with a correct checksum."""
    crc = calc_crc32c(batch[wire.ATTRIBUTES_AT :])
    return batch[: wire.CRC_AT] + struct.pack(">I", crc) + batch[wire.ATTRIBUTES_AT :]


def batch(
    parts: Sequence[Part],
    base: int = 0,
    *,
    codec: int = 0,
    producer: int = -1,
    attributes: int = 0,
    last: int | None = None,
    max_timestamp: int | None = None,
) -> bytes:
    """Return one record batch; with extra attribute bits, and another last offset delta, as after compaction."""
    builder = DefaultRecordBatchBuilder(
        2,
        codec,
        is_transactional=0,
        producer_id=producer,
        producer_epoch=0,
        base_sequence=0,
        batch_size=1 << 30,
    )
    for part in parts:
        assert builder.append(part.delta, part.timestamp, part.key, part.value, list(part.headers)), "no room"
    raw = bytearray(builder.build())
    struct.pack_into(">q", raw, 0, base)
    raw[wire.ATTRIBUTES_AT + 1] |= attributes
    if last is not None:
        struct.pack_into(">i", raw, wire.LAST_DELTA_AT, last)
    if max_timestamp is not None:
        struct.pack_into(">q", raw, wire.MAX_TIMESTAMP_AT, max_timestamp)
    return seal(bytes(raw))


class Parsed(NamedTuple):
    """Everything that is read of one fetch."""

    data: np.ndarray
    spans: np.ndarray
    next: int
    error: Exception | None  # why nothing after `next` could be read: the next fetch would begin with it
    unreadable: list[Unreadable]
    pieces: int


def parse(raw: bytes, position: int = 0, **options: Any) -> Parsed | None:
    """Return the pieces of a fetch as one; None if a batch has an older message format."""
    parts = [RecordColumns.none(*TP)]
    unreadable: list[Unreadable] = []
    error: Exception | None = None
    pieces = 0
    try:
        for piece in read(raw, position, **options):
            assert piece.next >= position
            position = piece.next
            parts.append(RecordColumns(*TP, piece.data, piece.spans))
            unreadable += piece.unreadable
            pieces += 1
        status, stop, *_ = wire.survey(np.frombuffer(raw, np.uint8), options.get("check_crcs", True))
        if status != wire.WELL and stop:
            list(read(raw[stop:], position, **options))
    except LegacyFormatError:
        return None
    except CorruptRecordException as damage:
        error = damage
    whole = parts[1] if len(parts) == 2 else RecordColumns.concat(parts)
    return Parsed(whole.data, whole.spans, position, error, unreadable, pieces)


def marker(base: int, producer: int, *, abort: bool) -> bytes:
    """Return the control batch that ends a transaction."""
    part = Part(0, T0, struct.pack(">hh", 0, 0 if abort else 1), struct.pack(">hi", 0, 0))
    return batch([part], base, producer=producer, attributes=wire.TRANSACTIONAL | wire.CONTROL)


def reference(
    raw: bytes, position: int = 0, *, committed: bool = True, aborted: Sequence[tuple[int, int]] = ()
) -> PartitionRecords:
    """Return aiokafka's own reader of the bytes of a fetch."""
    level = READ_COMMITTED if committed else READ_UNCOMMITTED
    return PartitionRecords(TP, MemoryRecords(raw), list(aborted), position, None, None, True, level)


def seen(record: Any) -> tuple[Any, ...]:
    """Return the compared parts of a record, aiokafka's or ours."""
    place = (record.topic, record.partition, record.offset)
    return (*place, record.timestamp, record.key, record.value, tuple(record.headers))


_BYTES = st.one_of(st.none(), st.binary(max_size=12), st.binary(min_size=60, max_size=300))
_HEADERS = st.lists(st.tuples(st.text(max_size=5), st.one_of(st.none(), st.binary(max_size=80))), max_size=3)


class Log(NamedTuple):
    """A piece of a partition's log as a broker sends it, with its list of aborted transactions."""

    batches: list[bytes]
    nexts: list[int]  # the offset after each batch
    aborted: list[tuple[int, int]]


@st.composite
def logs(draw: st.DrawFn, codecs: Sequence[int] = tuple(CODECS.values())) -> Log:
    """Draw batches with gaps between and in them, of several producers, with some transactions aborted."""
    offset = draw(st.integers(0, 1 << 40))
    batches: list[bytes] = []
    nexts: list[int] = []
    aborted: list[tuple[int, int]] = []
    began: dict[int, int] = {}  # first offset of a producer's open transaction
    for _ in range(draw(st.integers(1, 6))):
        offset += draw(st.sampled_from([0, 0, 1, 5]))
        producer = draw(st.integers(7, 9))
        if producer in began and draw(st.booleans()):
            abort = draw(st.booleans())
            first = began.pop(producer)
            if abort:
                aborted.append((producer, first))
            batches.append(marker(offset, producer, abort=abort))
            offset += 1
        else:
            parts, delta = [], -1
            for _ in range(draw(st.integers(1, 5))):
                delta += draw(st.sampled_from([1, 1, 1, 4, 70]))
                time = T0 + draw(st.integers(-(10**6), 10**12))
                parts.append(Part(delta, time, draw(_BYTES), draw(_BYTES), tuple(draw(_HEADERS))))
            last = delta + draw(st.sampled_from([0, 0, 3]))
            bits = draw(st.sampled_from([0, wire.LOG_APPEND_TIME]))
            if draw(st.booleans()):
                bits |= wire.TRANSACTIONAL
                began.setdefault(producer, offset)
            batches.append(
                batch(
                    parts, offset, codec=draw(st.sampled_from(codecs)), producer=producer, attributes=bits,
                    last=last, max_timestamp=T0 + draw(st.integers(0, 1000)),
                )
            )  # fmt: skip
            offset += last + 1
        nexts.append(offset)
    return Log(batches, nexts, sorted(aborted, key=lambda a: a[1]))
