"""Reads topics as any consumer sees them, with librdkafka and no code of the product."""

import contextlib
import re
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

LIMIT_S = 30.0
_SILENT_S = 20.0  # a reader that hears nothing for so long gets a new client
_QUIET_POLLS = 60  # polls of one second without a record before reading fails
_ID = re.compile(rb'"id":"[^"]*?([a-z]+)-(\d+)-(\d+)"')


def consumer(bootstrap: str, isolation: str, **more: Any) -> Consumer:
    """Return a consumer outside any group."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "not-used",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": isolation,
            "reconnect.backoff.max.ms": 500,
            "log_level": 0,
            **more,
        }
    )


def partitions_of(reader: Consumer, topic: str) -> list[TopicPartition]:
    """Return all partitions of a topic, from their beginning."""
    found = reader.list_topics(topic, timeout=LIMIT_S).topics[topic].partitions
    return [TopicPartition(topic, p, 0) for p in found]


def read_topic(bootstrap: str, topic: str, isolation: str = "read_committed") -> Iterator[Any]:
    """Yield all records of a topic that the isolation level shows now, those of a partition in order."""
    with contextlib.closing(consumer(bootstrap, isolation, **{"enable.partition.eof": True})) as reader:
        partitions = partitions_of(reader, topic)
        reader.assign(partitions)
        left = {tp.partition for tp in partitions}
        quiet = 0
        while left:
            messages = reader.consume(5000, timeout=1.0)
            quiet = 0 if messages else quiet + 1
            assert quiet < _QUIET_POLLS, f"no record of {topic} for {quiet} s, partitions left: {left}"
            for message in messages:
                if (error := message.error()) is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise KafkaException(error)


def committed(bootstrap: str, group: str, topics: Iterable[str], partitions: int) -> dict[str, list[int]]:
    """Return the committed offsets of a group by topic and partition, -1001 if there is none."""
    asked = [TopicPartition(topic, p) for topic in topics for p in range(partitions)]
    with contextlib.closing(consumer(bootstrap, "read_committed", **{"group.id": group})) as reader:
        found: dict[str, list[int]] = {}
        for tp in reader.committed(asked, timeout=LIMIT_S):
            found.setdefault(tp.topic, []).append(tp.offset)
        return found


def ends(bootstrap: str, topics: Iterable[str], isolation: IsolationLevel) -> dict[tuple[str, int], int]:
    """Return the end offset of each partition at the isolation level."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    known = admin.list_topics(timeout=LIMIT_S).topics
    asked = {TopicPartition(t, p): OffsetSpec.latest() for t in topics for p in known[t].partitions}
    found = admin.list_offsets(asked, isolation_level=isolation, request_timeout=LIMIT_S)
    return {(tp.topic, tp.partition): each.result().offset for tp, each in found.items()}


class Seen:
    """Counts the predictions in the topic, without repeats, in its own thread."""

    def __init__(self, bootstrap: str, topic: str, isolation: str) -> None:
        self._bootstrap, self._isolation = bootstrap, isolation
        self._consumer = consumer(bootstrap, isolation)
        #: The next offset to read of each partition.
        self._next = {tp.partition: tp for tp in partitions_of(self._consumer, topic)}
        self._consumer.assign(list(self._next.values()))
        self._marks: dict[tuple[bytes, bytes], bytearray] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="seen", daemon=True)
        self.count = 0
        self.repeats = 0

    def start(self) -> "Seen":
        """Start to read."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive(), "the reader of the predictions did not end"
        self._consumer.close()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stopped.is_set():
            for message in self._consumer.consume(1000, timeout=0.1):
                # An error means that the broker is down: the checker reads the topic again at the end.
                if message.error() is not None:
                    continue
                last = time.monotonic()
                self._next[message.partition()].offset = message.offset() + 1
                if not message.key().startswith(b"end-"):
                    self._take(message.value())
            if time.monotonic() - last > _SILENT_S:
                self._reopen()
                last = time.monotonic()

    def _reopen(self) -> None:
        """Continue with a new client: after a restart of the broker one was seen that never read again."""
        self._consumer.close()
        self._consumer = consumer(self._bootstrap, self._isolation)
        self._consumer.assign(list(self._next.values()))

    def _take(self, value: bytes) -> None:
        found = _ID.search(value)
        assert found is not None, value
        marks = self._marks.setdefault((found[1], found[2]), bytearray())
        offset = int(found[3])
        if offset >= len(marks):
            marks.extend(bytes(offset + 1024 - len(marks)))
        self.count += not marks[offset]
        self.repeats += marks[offset]
        marks[offset] = 1
