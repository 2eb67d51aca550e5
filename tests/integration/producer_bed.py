"""Shared by the tests of the fenced producers: topics, clients of both forms of the protocol, what readers see."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.producer.message_accumulator import BatchBuilder
from confluent_kafka import IsolationLevel

from stream_app.contract.topics import Topics
from stream_app.lab.broker import EmbeddedKafka
from stream_app.worker.options import ProducerOptions
from stream_app.worker.producers.cluster import Cluster
from stream_app.worker.producers.partition_producers import PartitionProducers
from stream_app.worker.producers.transactional_producer import Member, TransactionalProducer
from stream_app.worker.transport.aiokafka_internals import member_of
from stream_app.worker.transport.producer import BATCH_BYTES, Message, messages_built
from tests.faults.topics import ends
from tests.integration.faust_member import make, until
from tests.integration.harness import committed, read_all

#: Time in ms after which a client gives up a request; shorter if a test waits for that.
PATIENT_MS, IMPATIENT_MS = 30_000, 2_500
OPEN_MS = 60_000  # a transaction that no producer ends


class Bed:
    """Topics of a test, and the means to look at them."""

    def __init__(self, broker: EmbeddedKafka, prefix: str) -> None:
        self.bootstrap = broker.bootstrap
        self.source, self.topic, self.group = f"{prefix}in", f"{prefix}out", f"{prefix}group"
        make(self.bootstrap, self.source, partitions=2)  # one partition for each of two members
        make(self.bootstrap, self.topic, partitions=2)
        self.tp, self.other = TopicPartition(self.topic, 0), TopicPartition(self.topic, 1)

    def offsets(self, offset: int) -> dict[TopicPartition, int]:
        return {TopicPartition(self.source, 0): offset}

    def committed(self) -> int:
        """Return the group's offset."""
        return committed(self.bootstrap, self.group, [self.source], 2)[self.source][0]

    def values(self) -> list[bytes]:
        """Return what a reader of committed records finds in partition 0."""
        return [m.value() for m in read_all(self.bootstrap, self.topic) if m.partition() == 0]

    def end(self, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED) -> int:
        """Return the end of partition 0; for committed records, that is the start of the first open transaction."""
        return ends(self.bootstrap, [self.topic], isolation)[self.topic, 0]

    def hangs(self) -> bool:
        """Whether a transaction is open in partition 0."""
        return self.end() != self.end(IsolationLevel.READ_UNCOMMITTED)

    @contextlib.asynccontextmanager
    async def member(self) -> AsyncIterator[Callable[[], Member]]:
        """Provide a member of the group, as a function that returns its current identity in the group."""
        consumer = AIOKafkaConsumer(
            self.source,
            bootstrap_servers=self.bootstrap,
            group_id=self.group,
            enable_auto_commit=False,
            heartbeat_interval_ms=200,
        )
        await consumer.start()
        try:
            await until("the assignment", consumer.assignment)
            yield lambda: member_of(consumer)
        finally:
            await consumer.stop()

    async def settled(self, cluster: Cluster, member: Member) -> None:
        """Return when the end of an earlier transaction, if one was still to come, has arrived.

        The coordinator sends the ends of transactions in order.
        """
        later = TransactionalProducer(cluster, f"{self.topic}-later", OPEN_MS)
        await later.initialise()
        (written,) = await later.commit([(self.other, batch([b"later"]))], {}, member)
        at = self.topic, self.other.partition
        await until(
            "a later transaction to be readable",
            lambda: ends(self.bootstrap, [self.topic], IsolationLevel.READ_COMMITTED)[at] > written.offset,
        )


@contextlib.asynccontextmanager
async def client(port: int, topic: str, implicit: bool, timeout_ms: int) -> AsyncIterator[Cluster]:
    """Return a client that uses one of the two forms of the protocol."""
    cluster = Cluster(AIOKafkaClient(bootstrap_servers=f"127.0.0.1:{port}", request_timeout_ms=timeout_ms))
    await cluster.start([topic])
    try:
        assert cluster.implicit, "Kafka 4 supports the second form"
        cluster.implicit = implicit
        yield cluster
    finally:
        await cluster.stop()


@contextlib.asynccontextmanager
async def partition_producers(
    bed: Bed, port: int, transactional: bool, topic: str = ""
) -> AsyncIterator[PartitionProducers]:
    """Return the partition producers of a worker whose changelog is the topic of the test, or another one."""
    made = PartitionProducers(
        ProducerOptions(bed.group, "none", OPEN_MS, transactional), Topics((), {}, topic or bed.topic)
    )
    await made.start(bootstrap_servers=f"127.0.0.1:{port}", request_timeout_ms=PATIENT_MS)
    try:
        yield made
    finally:
        await made.stop()


def messages(values: Iterable[bytes]) -> list[Message]:
    return [(b"key", value, []) for value in values]


def batch(values: Sequence[bytes], transactional: bool = True) -> Any:
    """Return one record batch."""
    made = messages_built(
        lambda: BatchBuilder(BATCH_BYTES, 0, is_transactional=transactional), messages(values)
    )
    assert len(made) == 1
    return made[0].batch
