"""The fenced producers of a worker: one for each input partition that it owns.

All records that result from an input partition have the same partition number. With `exactly_once` the producer of
partition p writes partition p of the output topics and of the changelog, and the offsets of partition p of the
inputs, in one transaction after another. With `at_least_once` it writes the changelog only, outside transactions: so
a state record of an earlier owner, however late it arrives, can never overwrite a record of the current owner.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from stream_app.contract.message_columns import MessageColumns
from stream_app.contract.topics import Topics
from stream_app.kafka.record_batches.size_limits import SizeLimits
from stream_app.worker.errors import ProducerError, ProducerLostError
from stream_app.worker.gather import gather_all
from stream_app.worker.options import ProducerOptions
from stream_app.worker.producers.cluster import Cluster
from stream_app.worker.producers.fenced_producer import FencedProducer, Written
from stream_app.worker.producers.transactional_producer import Member, TransactionalProducer
from stream_app.worker.transport.producer import Built, Message, columns_built, messages_built

#: Codecs, as in the attributes of a record batch. Source: Kafka's protocol guide, "Record Batch".
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
#: Key of the record by which a new owner makes its epoch known to a changelog partition. It is not valid UTF-8, so no
#: user can have that name.
FENCE_KEY = b"\xff"


class PartitionProducers:
    """Has the part of the interface of `BatchProducer` that the pipeline uses."""

    def __init__(self, options: ProducerOptions, topics: Topics, sizes: SizeLimits | None = None) -> None:
        """`sizes`: the largest batches that the topics accept."""
        self._options, self.sizes = options, sizes or SizeLimits()
        self.transactional = options.transactional
        self._changelog = topics.changelog
        self._topics = [topics.changelog, *(topics.outputs.values() if options.transactional else ())]
        self._codec = CODECS[options.compression]
        self._cluster: Cluster | None = None
        self._producers: dict[int, FencedProducer] = {}

    async def start(self, **client: Any) -> None:
        """Connects. `client`: what an `AIOKafkaClient` takes. Raises KafkaError."""
        if self._cluster is None:
            cluster = Cluster(AIOKafkaClient(**client))
            await cluster.start(self._topics)
            self._cluster = cluster

    async def stop(self) -> None:
        """Closes all producers and disconnects."""
        await self.close(list(self._producers))
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            await cluster.stop()

    # --- partitions

    async def open(self, partitions: Iterable[int]) -> None:
        """Initialises the producers of partitions, concurrently; other owners of the partitions are fenced.

        When this returns, nothing that they wrote to the changelog is undecided or can still arrive. Raises
        ProducerLostError if the broker refuses.
        """
        # If one fails, none of the others may be left at work: all are opened again then.
        await gather_all(*(self._open(partition) for partition in partitions))

    async def _open(self, partition: int) -> None:
        assert self._cluster is not None, "not started"
        producer = self._producers.get(partition)
        if producer is None:
            make = TransactionalProducer if self.transactional else FencedProducer
            id_, timeout_ms = f"{self._options.group}-{partition}", self._options.timeout_ms
            producer = self._producers[partition] = make(self._cluster, id_, timeout_ms, self._smaller)
        producer.lose(ProducerLostError(f"{producer.id} gets a new epoch"))
        await producer.initialise()
        if not self.transactional:
            # A partition learns of an epoch from the first record that carries it, so write one. In transactions this
            # is not necessary: the marker of an aborted transaction has the same effect, and if there was no open
            # transaction, no record of one can still arrive.
            (fence,) = self.build([(FENCE_KEY, None, [])])
            await producer.queue(TopicPartition(self._changelog, partition), fence.batch)

    async def close(self, partitions: Iterable[int]) -> None:
        """Closes the producers of partitions that went to another worker."""
        closing = [self._producers.pop(p) for p in partitions if p in self._producers]
        await asyncio.gather(*(producer.close() for producer in closing))

    def lose_all(self, why: str) -> None:
        """Ends the epoch of all producers: they write nothing more until they are opened again."""
        for producer in self._producers.values():
            producer.lose(ProducerLostError(why))

    def is_open(self, partition: int) -> bool:
        """Whether a producer can write. Raises KafkaError if the broker refused its records for good."""
        producer = self._producers.get(partition)
        if producer is not None and isinstance(producer.lost, KafkaError):
            raise producer.lost
        return producer is not None and producer.lost is None

    # --- transactions

    def cut(self, partition: int) -> None:
        """See `TransactionalProducer.cut`."""
        self._transaction(partition).cut()

    async def commit(
        self,
        partition: int,
        batches: Sequence[Built],
        offsets: Mapping[TopicPartition, int],
        member: Member,
    ) -> list[Written]:
        """See `TransactionalProducer.commit`; `batches` are state records."""
        tp = TopicPartition(self._changelog, partition)
        last = [(tp, built.batch) for built in batches]
        return await self._transaction(partition).commit(last, offsets, member)

    def _transaction(self, partition: int) -> TransactionalProducer:
        producer = self._producers[partition]
        assert isinstance(producer, TransactionalProducer)
        return producer

    # --- the interface of `BatchProducer`

    def build(self, messages: Sequence[Message], topic: str = "") -> list[Built]:
        """See `BatchProducer.build`."""
        size = self.sizes.batch(topic)

        def batch() -> BatchBuilder:
            return BatchBuilder(size, self._codec, is_transactional=self.transactional)

        return messages_built(batch, [self.sizes.fitted(topic, each) for each in messages])

    def build_columns(self, messages: MessageColumns, topic: str = "") -> list[Built]:
        """See `BatchProducer.build_columns`."""
        return columns_built(
            self.sizes.fitted_columns(topic, messages),
            compression=self._codec, transactional=self.transactional, limit=self.sizes.batch(topic),
        )  # fmt: skip

    def _smaller(self, topic: str, batch: Any) -> list[Any]:
        """Smaller batches in place of one that its topic refuses as too large; none if that is impossible."""
        return [built.batch for built in self.build(self.sizes.refused(topic, batch), topic)]

    async def send_built(
        self, topic: str, partition: int, batches: Sequence[Built]
    ) -> list["asyncio.Future[Any]"]:
        """Queues record batches; returns a future for each, which fails if the producer is lost."""
        producer = self._producers.get(partition)
        if producer is None:
            raise ProducerError(f"partition {partition} has no producer here")
        tp = TopicPartition(topic, partition)
        return [producer.queue(tp, built.batch) for built in batches]
