"""The two sides of a soak run: the sender of its events, and the reader that counts the predictions of each event."""

import asyncio
import itertools
import threading
import time
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from bench import steady
from bench.answers import _BEFORE_ID, _number_before
from bench.running import ITEMS, TOPICS
from stream_app.kafka.record_batches.builder import build
from stream_app.worker.transport.aiokafka_internals import queue_batch
from stream_app.worker.transport.fetch_hook import install_fetch_hook

PREFIX, PARTITIONS, USERS = "soak-", 4, 20_000
SHARES = (0.7, 0.2, 0.1)  # of clicks, browses, purchases
LIMIT_BYTES = 512 * 1024  # of a record batch
TICK_S = 0.01  # between two sends


class Sender(threading.Thread):
    """Sends events of all three topics until it is stopped; makes each event when it is due."""

    def __init__(self, bootstrap: str, rate: float) -> None:
        super().__init__(name="sender", daemon=True)
        self._broker, self._rate = bootstrap, rate
        self._random = np.random.default_rng(7)
        weights = 1.0 / np.arange(1, USERS + 1) ** 1.1, 1.0 / np.arange(1, ITEMS + 1)
        self._odds = [np.cumsum(w / w.sum()) for w in weights]
        self.stopped = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        """The thread."""
        try:
            asyncio.run(self._send())
        except BaseException as error:  # the main thread raises it
            self.error = error

    async def _send(self) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self._broker, acks=1)
        await producer.start()
        try:
            for topic in TOPICS:
                await producer.partitions_for(PREFIX + topic)
            start, sent = time.perf_counter(), 0
            waiting: list[asyncio.Future[Any]] = []
            while not self.stopped.is_set():
                due = int((time.perf_counter() - start) * self._rate)
                for future in waiting:
                    if future.done():
                        future.result()  # raises the error of a batch that was refused
                waiting = [future for future in waiting if not future.done()]
                waiting += self._queue(producer, sent, due)
                sent = due
                await asyncio.sleep(TICK_S)
            await asyncio.gather(*waiting)
        finally:
            await producer.stop()

    def _queue(self, producer: AIOKafkaProducer, first: int, end: int) -> list["asyncio.Future[Any]"]:
        """Queue the events with these numbers; return a future per record batch."""
        users, items = (np.searchsorted(o, self._random.random(end - first)).tolist() for o in self._odds)
        kinds = self._random.choice(len(TOPICS), end - first, p=SHARES)
        ms, futures = int(time.time() * 1000), []
        for kind, topic in enumerate(TOPICS):
            records = [
                (b"u%d" % users[i], value(users[i], items[i], ms, b"%d" % (first + i)), ms)
                for i in np.flatnonzero(kinds == kind).tolist()
            ]
            for partition, columns, _ in itertools.chain.from_iterable(
                steady.by_partition(records, PARTITIONS)
            ):
                if len(columns):
                    arrays = columns.arrays()
                    built = build(
                        *arrays, timestamp=ms, limit=LIMIT_BYTES, compression=0, transactional=False
                    )
                    place = TopicPartition(PREFIX + topic, partition)
                    futures += [queue_batch(producer, place, batch) for batch in built]
        return futures


def value(user: int, item: int, ts: int, event_id: bytes) -> bytes:
    """Return the value of an event."""
    return b'{"event_id":"%b","user_id":"u%d","item_id":"%d","ts":%d}' % (event_id, user, item, ts)


class Follower(threading.Thread):
    """Counts the predictions of each event as they arrive, with one byte of memory per event and no ids."""

    def __init__(self, bootstrap: str, topic: str, isolation: str) -> None:
        super().__init__(name="follower", daemon=True)
        self._arguments = bootstrap, topic, isolation
        self._counts = [[np.zeros(0, np.uint8) for _ in range(PARTITIONS)] for _ in TOPICS]
        self.seen = 0
        self.stopped = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        """The thread."""
        try:
            asyncio.run(self._follow(*self._arguments))
        except BaseException as error:  # the main thread raises it
            self.error = error

    async def _follow(self, bootstrap: str, topic: str, isolation: str) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, enable_auto_commit=False, isolation_level=isolation,
            auto_offset_reset="none",
        )  # fmt: skip
        await consumer.start()
        install_fetch_hook(consumer)
        try:
            places = [TopicPartition(topic, p) for p in range(PARTITIONS)]
            consumer.assign(places)
            for place in places:
                consumer.seek(place, 0)
            while not self.stopped.is_set():
                for (records,) in (await consumer.getmany(timeout_ms=500)).values():
                    self._mark(*_sources(records.data, records.spans, len(_BEFORE_ID) + len(PREFIX)))
        finally:
            await consumer.stop()

    def _mark(self, *columns: npt.NDArray[np.int64]) -> None:
        kind, partition, offset = columns
        for k in range(len(TOPICS)):
            for p in range(PARTITIONS):
                mine = offset[(kind == k) & (partition == p)]
                if len(mine):
                    have, most = self._counts[k][p], int(mine.max()) + 1
                    if most > len(have):
                        have = self._counts[k][p] = np.pad(have, (0, most + most // 4 - len(have)))
                    np.add.at(have, mine, 1)
        self.seen += len(kind)

    def verdict(self, ends: dict[tuple[int, int], int]) -> dict[str, int]:
        """Return the number of events, of those with none or several predictions, and of predictions of no event."""
        out = {"events": sum(ends.values()), "missing": 0, "repeated": 0, "unasked": 0}
        for (k, p), end in ends.items():
            counts = self._counts[k][p]
            out["missing"] += int((counts[:end] == 0).sum()) + max(0, end - len(counts))
            out["repeated"] += int((counts[:end] > 1).sum())
            out["unasked"] += int((counts[end:] > 0).sum())
        return out


@numba.njit
def _sources(data, spans, skip):  # type: ignore[no-untyped-def]
    """Return the topic index, partition and offset of the event that each prediction answers."""
    out = np.empty((3, len(spans)), np.int64)
    for i in range(len(spans)):
        first = spans[i]["value_at"] + skip
        end = first
        while data[end] != ord('"'):
            end += 1
        out[2, i], at = _number_before(data, end)
        out[1, i], _ = _number_before(data, at)
        out[0, i] = 0 if data[first] == ord("c") else 1 if data[first] == ord("b") else 2
    return out
