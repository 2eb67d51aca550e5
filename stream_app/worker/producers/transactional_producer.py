"""A transactional producer, one for each input partition.

aiokafka's own producer has two problems. If a request is not answered, it sends it again with the same epoch: a first
request that was only delayed can then end a later transaction (see KIP-890). And its offset commits carry no
generation.

Here every request of a transaction is sent once. If no answer comes, the producer is lost: it writes nothing more
with its epoch, and `initialise` gets a new epoch from the broker, which first aborts the transaction that the old
epoch left open. Only a request that was answered with a retriable error is sent again, because it is certainly no
longer under way.

If two processes use the same transactional id, the later `initialise` fences the earlier process. If a member of the
group commits with an old generation, the broker refuses its offsets, and the transaction is aborted.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.protocol.transaction import AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest

from stream_app.kafka.protocol.transactions import ImplicitEndTxn, Produce, TxnOffsetCommit
from stream_app.worker.errors import ProducerError, ProducerLostError, UnansweredError
from stream_app.worker.producers.cluster import GROUP, TRANSACTION, Cluster
from stream_app.worker.producers.fenced_producer import (
    PRODUCE_TIMEOUT_MS,
    FencedProducer,
    Waiting,
    Written,
)


class Member(NamedTuple):
    """The member of the group that commits source offsets."""

    group: str
    generation: int
    member_id: str
    instance_id: str | None


class TransactionalProducer(FencedProducer):
    """Puts queued record batches into consecutive transactions.

    `cut` closes the current transaction to new batches: those queued later wait for the next transaction.
    """

    def __init__(
        self,
        cluster: Cluster,
        transactional_id: str,
        timeout_ms: int,
        smaller: Callable[[str, Any], list[Any]] = lambda _topic, _batch: [],
    ) -> None:
        super().__init__(cluster, transactional_id, timeout_ms, smaller)
        self._named: set[TopicPartition] = set()  # partitions that the transaction includes
        self._next: list[tuple[TopicPartition, Waiting]] = []  # for the next transaction
        self._is_cut = False

    async def initialise(self) -> None:
        """See `FencedProducer.initialise`. The first transaction begins."""
        self._is_cut = False
        await super().initialise()

    def _take_all(self) -> list[Waiting]:
        waiting = [*super()._take_all(), *(w for _, w in self._next)]
        self._next.clear()
        return waiting

    def cut(self) -> None:
        """Batches that are queued from now on belong to the next transaction, except those passed to `commit`."""
        self._is_cut = True

    async def commit(
        self,
        last: Sequence[tuple[TopicPartition, Any]],
        offsets: Mapping[TopicPartition, int],
        member: Member,
    ) -> list[Written]:
        """Commits the batches queued before the cut, the batches `last` and the source offsets, all or nothing.

        Returns the positions of `last`. Raises ProducerLostError if the transaction was aborted or its outcome is
        unknown, and KafkaError if the broker refuses for good.
        """
        try:
            written = [await w for w in [self._enqueue_now(tp, batch) for tp, batch in last]]
            while self._sending is not None and not self._sending.done():
                await asyncio.wait([self._sending])
            if self.lost is not None:
                raise self.lost
            await self._commit_offsets(offsets, member)
            await self._end()
        except asyncio.CancelledError:
            self.lose(ProducerLostError(f"the commit of {self.id} was interrupted"))
            raise
        except KafkaError as error:
            self.lose(error)
            raise
        except ProducerError as error:
            self.lose(error)
            raise ProducerLostError(f"the transaction of {self.id} is lost: {error}") from error
        self._is_cut = False
        held, self._next = self._next, []
        for tp, waiting in held:
            self._enqueue(tp, waiting)
        return written

    # --- in order, each step once

    def _begin(self, producer_id: int, epoch: int) -> None:
        super()._begin(producer_id, epoch)
        self._named.clear()

    def _enqueue_now(self, tp: TopicPartition, batch: Any) -> "asyncio.Future[Written]":
        if self.lost is not None:
            raise self.lost
        waiting = Waiting(batch, asyncio.get_running_loop().create_future())
        super()._enqueue(tp, waiting)
        return waiting.written

    def _enqueue(self, tp: TopicPartition, waiting: Waiting) -> None:
        if self._is_cut:
            self._next.append((tp, waiting))
        else:
            super()._enqueue(tp, waiting)

    async def _before_sending(self) -> None:
        new = self._queue.keys() - self._named
        if self._cluster.implicit or not new:
            return
        topics: dict[str, list[int]] = {}
        for tp in new:
            topics.setdefault(tp.topic, []).append(tp.partition)
        await self._ask(
            TRANSACTION,
            self.id,
            lambda: AddPartitionsToTxnRequest(self.id, self._producer_id, self._epoch, list(topics.items())),
            lambda answer: [code for _, partitions in answer.errors for _, code in partitions],
        )
        self._named |= new

    def _may_send(self, tp: TopicPartition) -> bool:
        # If a partition is not part of the transaction, the coordinator never ends the records written there.
        return self._cluster.implicit or tp in self._named

    def _request(self, batches: dict[TopicPartition, Any]) -> Produce:
        return Produce(self._cluster.implicit, self.id, PRODUCE_TIMEOUT_MS, batches)

    def _unanswered(self, error: UnansweredError) -> None:
        raise error  # the request may still arrive after the transaction has ended

    async def _commit_offsets(self, offsets: Mapping[TopicPartition, int], member: Member) -> None:
        if member.generation < 0 or not member.member_id:
            # Kafka treats such offsets as those of a consumer without a group, and checks no generation.
            raise ProducerLostError("this worker is not a member of the group at the moment")
        group = member.group
        if not self._cluster.implicit:
            await self._ask(
                TRANSACTION,
                self.id,
                lambda: AddOffsetsToTxnRequest(self.id, self._producer_id, self._epoch, group),
                lambda answer: [answer.error_code],
            )
        head = (
            self.id, group, self._producer_id, self._epoch, member.generation, member.member_id, member.instance_id,
        )  # fmt: skip
        await self._ask(
            GROUP,
            group,
            lambda: TxnOffsetCommit(self._cluster.implicit, head, offsets),
            lambda answer: [code for _, partitions, _ in answer.topics for _, code, _ in partitions],
        )

    async def _end(self) -> None:
        make: Callable[[], Any] = lambda: (  # noqa: E731
            ImplicitEndTxn(self.id, self._producer_id, self._epoch)
            if self._cluster.implicit
            else EndTxnRequest(self.id, self._producer_id, self._epoch, True)
        )
        answer = await self._ask(TRANSACTION, self.id, make, lambda answer: [answer.error_code])
        if self._cluster.implicit:
            self._begin(answer.producer_id, answer.producer_epoch)
        else:
            self._begin(self._producer_id, self._epoch)
