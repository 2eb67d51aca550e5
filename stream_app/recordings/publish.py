"""Sends a recording, or any records, to Kafka at the recorded pace, at a constant rate or at full speed."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError

from stream_app.contract.partitioner import partitions_of
from stream_app.contract.received import with_received
from stream_app.contract.records import Record
from stream_app.kafka.errors import TopicError
from stream_app.kafka.partition_counts import partition_counts, require, require_alike
from stream_app.kafka.security import PLAIN, explain
from stream_app.kafka.security.rights import Operation
from stream_app.recordings.errors import RecordingError
from stream_app.recordings.pacing import due_times
from stream_app.recordings.recording import RecordingReader
from stream_app.recordings.replay_targets import Targets

#: Pause between two rounds of paced sending; short compared with the latencies measured with it.
TICK_S = 0.01
_BATCH_BYTES = 128 * 1024
#: Most batches in flight; together with `_BATCH_BYTES` this limits the memory of a replay.
_IN_FLIGHT = 64

Place = tuple[str, int]


class ReplayStats(msgspec.Struct, frozen=True):
    """The result of a replay; all in-sync replicas have acknowledged all `records`."""

    records: int
    bytes: int  #: size of all keys and values
    seconds: float
    topics: dict[str, int]  #: number of records per topic, without the prefix
    behind_s: float  #: the longest delay of a record after its due time
    stopped: bool  #: whether `stop` ended it before the last record


async def replay(
    source: Path | Iterable[Record],
    brokers: Sequence[str],
    *,
    prefix: str = "",
    topics: Sequence[str] | None = None,
    repartition: bool = False,
    speed: float | None = None,
    rate: float | None = None,
    limit: int | None = None,
    timestamps: Literal["recorded", "now"] = "recorded",
    stop: asyncio.Event | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
    security: Mapping[str, Any] = PLAIN,
) -> ReplayStats:
    """Send records of the inputs, or of `topics`, to the partitions that they were recorded from, in order.

    Records are sent unchanged, with one more header: when each was first stored (`stream_app.contract.received`).
    With `repartition` the key determines the partition, as in Kafka's own producer.

    `speed` is a factor of the recorded pace, `rate` records per second; with neither it runs as fast as the broker
    takes them. Keys, values, headers and (unless `timestamps` is "now") times are those recorded; a topic with
    LogAppendTime sets its own time. `on_progress` gets the number of records sent so far. `security` is what
    `security_options` returns.

    Raises `RecordingError` for a bad file, `TopicError` if a topic is missing, has another number of partitions
    than the recording, or must not be written to, or if the broker refuses a record, `BrokerUnreachable` if none
    answers, `PaceError` for an impossible pace.
    """
    due = due_times(speed, rate)
    stop = stop or asyncio.Event()
    reader = RecordingReader(source) if isinstance(source, Path) else None
    records: Iterable[Record] = source if reader is None else reader  # type: ignore[assignment]
    targets = Targets(reader, topics)
    names = [prefix + topic for topic in targets.wanted]
    counts = await partition_counts(brokers, security, names if reader else (), Operation.WRITE)
    if reader:
        require_alike(counts, prefix, targets.wanted, repartition)
    producer = _producer(brokers, security)
    try:
        await producer.start()
        sender = _Sender(producer, prefix, counts, timestamps == "now", on_progress)
        started = time.monotonic()
        now = behind = 0.0
        try:
            for number, recorded in enumerate(_first(targets.chosen(records), limit)):
                wanted = due(number, recorded.timestamp)
                if wanted > now:
                    await sender.flush()
                    now = await _wait_until(started, wanted, stop)
                behind = max(behind, now - wanted)
                record = _prepared(recorded, counts.get(prefix + recorded.topic) if repartition else None)
                if not sender.add(record):
                    await sender.make_room(record)
                if stop.is_set():
                    break
        except RecordingError:  # a broken file: the records before the break are sent
            await sender.finish()
            raise
        await sender.finish()
    except (KafkaConnectionError, KafkaTimeoutError) as error:
        raise await explain(brokers, security) from error
    finally:
        await producer.stop()
    seconds = time.monotonic() - started
    # Without a pace, records have no due time and are never late.
    paced = speed is not None or rate is not None
    return ReplayStats(
        sender.sent, sender.bytes, seconds, dict(sender.topics), behind if paced else 0.0, stop.is_set()
    )


def _producer(brokers: Sequence[str], security: Mapping[str, Any]) -> Any:
    return AIOKafkaProducer(
        bootstrap_servers=list(brokers),
        **security,
        enable_idempotence=True,  # retries neither duplicate nor reorder records
        acks="all",
        linger_ms=0,
        max_batch_size=_BATCH_BYTES,
    )


def _first(records: Iterable[Record], limit: int | None) -> Iterator[Record]:
    for number, record in enumerate(records):
        if number == limit:
            return
        yield record


def _prepared(record: Record, partitions: int | None) -> Record:
    """Return the record to send, with the time at which it was first stored and its partition (of `partitions`)."""
    place = record.partition
    if partitions is not None:
        place = place % partitions if record.key is None else _partition_of(record.key, partitions)
    return record._replace(partition=place, headers=with_received(record))


@lru_cache(maxsize=1 << 16)
def _partition_of(key: bytes, partitions: int) -> int:
    return int(partitions_of([key], partitions)[0])


async def _wait_until(started: float, due: float, stop: asyncio.Event) -> float:
    """Sleep until `due` seconds after `started`, at least one tick; return the seconds since then."""
    wake = max(started + due, time.monotonic() + TICK_S)
    with suppress(TimeoutError):
        async with asyncio.timeout(wake - time.monotonic()):
            await stop.wait()
    return max(time.monotonic() - started, due)


class _Sender:
    """Open batches per partition, and the batches in flight."""

    def __init__(
        self,
        producer: Any,
        prefix: str,
        counts: Mapping[str, int],
        stamp_now: bool,
        on_progress: Callable[[int], None],
    ) -> None:
        self.sent = self.bytes = 0
        self.topics: Counter[str] = Counter()
        self._producer = producer
        self._prefix = prefix
        self._counts = counts
        self._stamp_now = stamp_now
        self._on_progress = on_progress
        self._open: dict[Place, Any] = {}
        self._in_flight: deque[tuple[Place, Any]] = deque()

    def add(self, record: Record) -> bool:
        """Add the record to its open batch; return False if there is no open batch with room."""
        batch = self._open.get((record.topic, record.partition))
        if batch is None:
            return False
        stamp = None if self._stamp_now else record.timestamp
        added = batch.append(
            timestamp=stamp, key=record.key, value=record.value, headers=list(record.headers)
        )
        if added is None:
            return False
        self.bytes += len(record.key or b"") + len(record.value or b"")
        return True

    async def make_room(self, record: Record) -> None:
        """Send the full batch of the record's partition, and put the record into a new one."""
        place = record.topic, record.partition
        if place in self._open:
            await self._send(place)
        else:
            require(self._counts, self._prefix + place[0], place[1] + 1)
        self._open[place] = self._producer.create_batch()
        if not self.add(record):  # the first record of a batch always fits
            raise AssertionError(f"an empty batch took no record of {place}")

    async def flush(self) -> None:
        """Send all open batches."""
        for place in list(self._open):
            await self._send(place)

    async def finish(self) -> None:
        """Send all open batches and wait until the broker has acknowledged everything."""
        await self.flush()
        while self._in_flight:
            await self._settle()

    async def _send(self, place: Place) -> None:
        while self._in_flight and (len(self._in_flight) >= _IN_FLIGHT or self._in_flight[0][1].done()):
            await self._settle()
        batch = self._open.pop(place)
        topic, partition = place
        future = await self._producer.send_batch(batch, self._prefix + topic, partition=partition)
        self._in_flight.append((place, future))
        count = batch.record_count()
        self.sent += count
        self.topics[topic] += count
        self._on_progress(self.sent)

    async def _settle(self) -> None:
        (topic, partition), future = self._in_flight.popleft()
        try:
            await future
        except (KafkaConnectionError, KafkaTimeoutError):
            raise
        except KafkaError as error:
            raise TopicError(
                f"the broker refused records for {self._prefix}{topic}, partition {partition}: {error}; "
                "compare the topic's max.message.bytes and timestamp settings with the recording"
            ) from error
