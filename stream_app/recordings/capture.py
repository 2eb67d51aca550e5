"""Records Kafka topics to a recording, in the order of the records' times."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from heapq import merge
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError

from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.contract.times import span
from stream_app.kafka.errors import TopicError
from stream_app.kafka.partition_counts import partition_counts, require_all
from stream_app.kafka.security import PLAIN, explain
from stream_app.kafka.security.rights import Operation
from stream_app.recordings.recording import RecordingWriter

#: A partition with more buffered records than this is paused until slower partitions catch up.
_WAITING = 20_000
_POLL_MS = 200
#: Recording fails after so many seconds without records from a broker that still has some.
_STALL_S = 30.0
_FLUSH_S = 1.0


class CaptureStats(msgspec.Struct, frozen=True):
    """The result of a recording."""

    recording: str
    records: int
    seconds: float
    topics: dict[str, int]  #: number of records per topic, without the prefix
    stopped: bool  #: whether `stop` ended the recording
    span: str  #: times of the first and the last record, for people


async def record(
    brokers: Sequence[str],
    path: Path,
    *,
    topics: Sequence[str] = INPUT_TOPICS,
    prefix: str = "",
    offsets: Mapping[tuple[str, int], int] | None = None,
    since_ms: int | None = None,
    from_end: bool = False,
    follow: bool = False,
    limit: int | None = None,
    stop: asyncio.Event | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
    security: Mapping[str, Any] = PLAIN,
) -> CaptureStats:
    """Write the records that the topics have now to `path`; with `follow`, also new ones until `stop` is set.

    Reading starts at `offsets` (topic without prefix, partition). In all other partitions it starts at the first
    record stored at `since_ms` (Unix ms) or later, at the end with `from_end`, or else at the beginning. Only records
    of committed transactions are read; topics are named without the prefix. Records of different partitions are
    written in the order of their timestamps, as far as they have been fetched. `on_progress` gets the number of
    records so far. `security` is the result of `security_options`.

    Raises `TopicError` for a missing topic or an offset that is not there, `BrokerUnreachable` if no
    broker answers, `RecordingError` if the file cannot be written.
    """
    started = time.monotonic()
    names = {topic: prefix + topic for topic in topics}
    counts = await partition_counts(brokers, security, list(names.values()), Operation.READ)
    require_all(counts, list(names.values()))
    partitions = {topic: counts[name] for topic, name in names.items()}
    consumer = AIOKafkaConsumer(
        bootstrap_servers=list(brokers),
        **security,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
    )
    try:
        await consumer.start()
        places = [TopicPartition(prefix + topic, p) for topic, n in partitions.items() for p in range(n)]
        offsets = {**await _since(consumer, places, prefix, since_ms), **(offsets or {})}
        ends = await _seek(consumer, places, prefix, offsets, from_end)
        feed = _Feed(consumer, ends, prefix, follow)
        by_topic: Counter[str] = Counter()
        written = 0
        first: int | None = None
        last: int | None = None
        with RecordingWriter(path, partitions, {"made_by": "record"}) as writer:
            flushed = time.monotonic()
            while not (stop and stop.is_set()) and not feed.done() and written != limit:
                batch = (await feed.next())[: None if limit is None else limit - written]
                writer.extend(batch)
                by_topic.update(each.topic for each in batch)
                written += len(batch)
                if batch:
                    first, last = batch[0].timestamp if first is None else first, batch[-1].timestamp
                on_progress(written)
                if follow and time.monotonic() - flushed > _FLUSH_S:
                    writer.flush()
                    flushed = time.monotonic()
            stopped = bool(stop and stop.is_set())
    except KafkaConnectionError as error:
        raise await explain(brokers, security) from error
    except KafkaError as error:
        raise TopicError(f"the broker would not give the records of {', '.join(topics)}: {error}") from error
    finally:
        await consumer.stop()
    seconds = time.monotonic() - started
    return CaptureStats(str(path), written, seconds, dict(by_topic), stopped, span(first, last))


async def _since(
    consumer: Any, places: list[TopicPartition], prefix: str, since_ms: int | None
) -> dict[tuple[str, int], int]:
    """Return per partition the first offset stored at a time or later, or the end if there is no such record."""
    if since_ms is None:
        return {}
    consumer.assign(places)
    ends = await consumer.end_offsets(places)
    found = await consumer.offsets_for_times(dict.fromkeys(places, since_ms))
    return {
        (place.topic.removeprefix(prefix), place.partition): found[place].offset
        if found[place]
        else ends[place]
        for place in places
    }


async def _seek(
    consumer: Any,
    places: list[TopicPartition],
    prefix: str,
    offsets: Mapping[tuple[str, int], int],
    from_end: bool,
) -> dict[TopicPartition, int]:
    """Set the offset at which reading of each partition starts; return the current end of each."""
    consumer.assign(places)
    begins = await consumer.beginning_offsets(places)
    ends: dict[TopicPartition, int] = await consumer.end_offsets(places)
    unknown = set(offsets) - {(place.topic.removeprefix(prefix), place.partition) for place in places}
    if unknown:
        raise TopicError(f"there is no such partition to start in: {sorted(unknown)}")
    for place in places:
        wanted = offsets.get((place.topic.removeprefix(prefix), place.partition))
        if wanted is None:
            wanted = ends[place] if from_end else begins[place]
        if not begins[place] <= wanted <= ends[place]:
            raise TopicError(
                f"{place.topic}, partition {place.partition} holds offsets {begins[place]} to {ends[place]}: "
                f"it cannot be read from {wanted}"
            )
        # NOTE: seek_to_beginning straight after assign can leave the position at the end.
        consumer.seek(place, wanted)
    return ends


class _Feed:
    """Fetched records of all partitions, returned in the order of time."""

    def __init__(self, consumer: Any, ends: dict[TopicPartition, int], prefix: str, follow: bool) -> None:
        self._consumer = consumer
        self._ends = ends
        self._prefix = prefix
        self._follow = follow
        # Waiting records with the time by which they are ordered: the latest timestamp so far in their partition.
        self._waiting: dict[TopicPartition, list[tuple[int, Record]]] = {place: [] for place in ends}
        self._latest = dict.fromkeys(ends, -(2**63))
        self._unread = set(ends)  # partitions with records that were not read yet
        self._moved = time.monotonic()

    def done(self) -> bool:
        """Whether all records that existed at the start have been returned; never while following."""
        return not self._follow and not self._unread and not any(self._waiting.values())

    async def next(self) -> list[Record]:
        """Fetch, and return the records before which no unread record of another partition can belong."""
        hungry = [place for place, waiting in self._waiting.items() if len(waiting) < _WAITING]
        got = await self._consumer.getmany(*hungry, timeout_ms=_POLL_MS)
        for place, fetched in got.items():
            self._take(place, fetched)
        for place, end in self._ends.items():
            grown = (self._consumer.highwater(place) or 0) if self._follow else 0
            if await self._consumer.position(place) < max(end, grown):
                self._unread.add(place)
            else:
                self._unread.discard(place)
        if got or not self._unread:
            self._moved = time.monotonic()
        elif time.monotonic() - self._moved > _STALL_S:
            stuck = ", ".join(f"{place.topic}-{place.partition}" for place in sorted(self._unread))
            raise TopicError(
                f"the broker gave no record of {stuck} for {_STALL_S:g} s: look for an open transaction"
            )
        return self._give()

    def _take(self, place: TopicPartition, fetched: list[Any]) -> None:
        topic = place.topic.removeprefix(self._prefix)
        waiting, latest, end = self._waiting[place], self._latest[place], self._ends[place]
        for each in fetched:
            if not self._follow and each.offset >= end:
                break  # this record arrived after the start
            latest = max(latest, each.timestamp)
            headers = tuple((name, value) for name, value in each.headers)
            waiting.append(
                (
                    latest,
                    Record(
                        topic, place.partition, each.offset, each.timestamp, each.key, each.value, headers
                    ),
                )
            )
        self._latest[place] = latest

    def _give(self) -> list[Record]:
        """Return the records that are not later than the last record of any partition with unread records."""
        border = min((self._latest[place] for place in self._unread), default=2**63)
        ready = []
        for place, waiting in self._waiting.items():
            count = next((i for i, (moment, _) in enumerate(waiting) if moment > border), len(waiting))
            ready.append(waiting[:count])
            self._waiting[place] = waiting[count:]
        return [each for _, each in merge(*ready, key=lambda pair: pair[0])]
