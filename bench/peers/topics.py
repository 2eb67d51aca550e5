"""Creates, measures, reads and deletes the topics of the comparison, with librdkafka."""

import time
from collections.abc import Iterator
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from stream_app.lab.commands.bench import BenchError

PARTITIONS = 4
LIMIT_S = 30.0
SILENCE_S = 20.0


class Output(NamedTuple):
    """A record of the output topic."""

    key: bytes | None
    value: bytes
    time_ms: int  # when the broker appended it


class Topics:
    """The topics of one broker."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._admin = self._client()

    def create(self, name: str, *, append_time: bool = False) -> None:
        """Create a topic and return once it can be used; with `append_time` its records get the broker's time.

        Raises KafkaException if it cannot be created, BenchError if it is not usable in time.
        """
        config = {"message.timestamp.type": "LogAppendTime"} if append_time else {}
        for future in self._admin.create_topics([NewTopic(name, PARTITIONS, 1, config=config)]).values():
            future.result(LIMIT_S)
        self.length(name)  # clients that ask for the topic next should find it with a leader

    def length(self, name: str) -> int:
        """Return how many records a topic has, including transaction markers. Raises BenchError."""
        wanted = {TopicPartition(name, number): OffsetSpec.latest() for number in range(PARTITIONS)}
        end = time.monotonic() + LIMIT_S
        while True:
            try:
                found = self._admin.list_offsets(wanted, request_timeout=LIMIT_S)
                return sum(future.result(LIMIT_S).offset for future in found.values())
            except KafkaException as error:
                if time.monotonic() > end:
                    raise BenchError(f"the length of the topic {name} cannot be read: {error}") from error
            time.sleep(0.05)
            self._admin = self._client()  # the old client may have cached that the topic did not exist

    def _client(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def read(self, name: str) -> Iterator[Output]:
        """Yield all committed records of a topic, those of a partition in order. Raises BenchError."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "not-used",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "fetch.message.max.bytes": 8 << 20,
            }
        )
        consumer.assign([TopicPartition(name, number, 0) for number in range(PARTITIONS)])
        ended: set[int] = set()
        heard = time.monotonic()
        try:
            while len(ended) < PARTITIONS:
                messages = consumer.consume(10_000, 0.25)
                if messages:
                    heard = time.monotonic()
                elif time.monotonic() > heard + SILENCE_S:
                    raise BenchError(f"reading {name} made no progress for {SILENCE_S:.0f} s")
                for message in messages:
                    if (error := message.error()) is None:
                        yield Output(message.key(), message.value(), message.timestamp()[1])
                    elif error.code() == KafkaError._PARTITION_EOF:
                        ended.add(message.partition())
                    else:
                        raise BenchError(f"reading {name} failed: {error}")
        finally:
            consumer.close()

    def remove(self, part: str) -> None:
        """Delete all topics whose names contain `part`: those of a run and the internal topics of its system."""
        names = [name for name in self._admin.list_topics(timeout=LIMIT_S).topics if part in name]
        if names:
            for future in self._admin.delete_topics(names).values():
                future.result(LIMIT_S)
