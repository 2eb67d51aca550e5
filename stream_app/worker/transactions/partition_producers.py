"""The fenced producers of a worker: a lane for each input partition that it owns.

All that is made of an input partition has the same partition number. Under `exactly_once` a lane writes partition p
of the output topics and of the changelog, and the offsets of partition p of the inputs, in one transaction after the
other. Under `at_least_once` it writes the changelog, outside transactions: so that a state record of an earlier
owner, however long it was on its way, never lies over one of the present owner.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from stream_app.contract.message_columns import MessageColumns
from stream_app.contract.outputs import NO_HEADERS
from stream_app.errors import ForeclickError
from stream_app.kafka.record_batches.size_limits import Room
from stream_app.worker.errors import ProducerLostError
from stream_app.worker.gather import together
from stream_app.worker.transactions.cluster import Cluster
from stream_app.worker.transactions.fenced_producer import FencedProducer, Written
from stream_app.worker.transactions.transactional_producer import Member, TransactionalProducer
from stream_app.worker.transport.producer import Built, Message, columns_built, messages_built

#: Codecs, as in the attributes of a record batch. Source: Kafka's protocol guide, "Record Batch".
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
#: Key of a record by which a new owner makes its epoch known to a changelog partition. It is no UTF-8, so no user is
#: called that.
FENCE_KEY = b"\xff"


class Lanes:
    """Has the interface of `BatchProducer` as far as the pipeline uses it."""

    def __init__(
        self,
        group: str,
        changelog: str,
        outputs: Iterable[str],
        *,
        compression: str,
        timeout_ms: int,
        transactional: bool,
        room: Room | None = None,
    ) -> None:
        """`changelog`, `outputs`: topics. `timeout_ms`: after which the broker aborts a transaction left open."""
        self.room = room or Room()
        self._group, self._timeout_ms, self.transactional = group, timeout_ms, transactional
        self._changelog, self._topics = changelog, [changelog, *(outputs if transactional else ())]
        self._codec = CODECS[compression]
        self._cluster: Cluster | None = None
        self._lanes: dict[int, FencedProducer] = {}

    async def start(self, **client: Any) -> None:
        """Connects. `client`: what an `AIOKafkaClient` takes. Raises KafkaError."""
        if self._cluster is None:
            cluster = Cluster(AIOKafkaClient(**client))
            await cluster.start(self._topics)
            self._cluster = cluster

    async def stop(self) -> None:
        """Closes all lanes and disconnects."""
        await self.close(list(self._lanes))
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            await cluster.stop()

    # --- partitions

    async def open(self, partitions: Iterable[int]) -> None:
        """Initialises the lanes of partitions, at once; other owners of them are fenced.

        When this returns, nothing that they wrote to the changelog is undecided or still to come. Raises
        ProducerLostError where the broker refuses.
        """
        # None may be left behind at work where another fails: the lanes are opened again then.
        await together(*(self._open(partition) for partition in partitions))

    async def _open(self, partition: int) -> None:
        assert self._cluster is not None, "not started"
        lane = self._lanes.get(partition)
        if lane is None:
            kind = TransactionalProducer if self.transactional else FencedProducer
            id_ = f"{self._group}-{partition}"
            lane = self._lanes[partition] = kind(self._cluster, id_, self._timeout_ms, self._smaller)
        lane.lose(ProducerLostError(f"{lane.id} begins anew"))
        await lane.initialise()
        if not self.transactional:
            # A partition learns of an epoch by the first record that carries it. The marker of an aborted transaction
            # does the same, and where there is none to abort nothing of it can arrive any more.
            (fence,) = self.build([(FENCE_KEY, None, NO_HEADERS)])
            await lane.queue(TopicPartition(self._changelog, partition), fence.batch)

    async def close(self, partitions: Iterable[int]) -> None:
        """Forgets the lanes of partitions that went to somebody else."""
        closing = [self._lanes.pop(p) for p in partitions if p in self._lanes]
        await asyncio.gather(*(lane.close() for lane in closing))

    def is_open(self, partition: int) -> bool:
        """Whether a lane can write. Raises KafkaError where the broker refused for good what it wrote."""
        lane = self._lanes.get(partition)
        if lane is not None and isinstance(lane.lost, KafkaError):
            raise lane.lost
        return lane is not None and lane.lost is None

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
        lane = self._lanes[partition]
        assert isinstance(lane, TransactionalProducer)
        return lane

    # --- as of `BatchProducer`

    def build(self, messages: Sequence[Message], topic: str = "") -> list[Built]:
        """See `BatchProducer.build`."""
        size = self.room.batch(topic)

        def batch() -> BatchBuilder:
            return BatchBuilder(size, self._codec, is_transactional=self.transactional)

        return messages_built(batch, [self.room.fitted(topic, each) for each in messages])

    def build_columns(self, messages: MessageColumns, topic: str = "") -> list[Built]:
        """See `BatchProducer.build_columns`."""
        return columns_built(
            self.room.fitted_columns(topic, messages),
            compression=self._codec, transactional=self.transactional, limit=self.room.batch(topic),
        )  # fmt: skip

    def _smaller(self, topic: str, batch: Any) -> list[Any]:
        """A batch that its topic refuses as too large, as smaller ones; none where that cannot be done."""
        return [built.batch for built in self.build(self.room.refused(topic, batch), topic)]

    async def send_built(
        self, topic: str, partition: int, batches: Sequence[Built]
    ) -> list["asyncio.Future[Any]"]:
        """Queues record batches in their lane; a future for each, which fails where the lane is lost."""
        lane = self._lanes.get(partition)
        if lane is None:
            raise ForeclickError(f"no lane for partition {partition}")
        tp = TopicPartition(topic, partition)
        return [lane.queue(tp, built.batch) for built in batches]
