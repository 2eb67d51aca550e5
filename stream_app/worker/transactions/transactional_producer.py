"""A transactional producer of our own, one for each input partition.

Why not aiokafka's: it sends a request again that was not answered, with the same epoch, so that the first one,
delayed on its way, can end a later transaction (KIP-890 tells how); its offset commits carry no generation. Here
every request of a transaction is sent once. Where no answer comes the producer is lost: nothing more is written with
its epoch, and `initialise` gets a new epoch from the broker, which first ends what the old one left open. An answer
that says "not now" is certain, and only such requests are sent again.

What two processes with the same transactional id do to each other: the later `initialise` fences the earlier one. A
member of the group whose generation is over has its offsets refused, and with them the transaction.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.protocol.transaction import AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest

from stream_app.kafka.protocol.transactions import ImplicitEndTxn, Produce, TxnOffsetCommit
from stream_app.worker.errors import ProducerError, ProducerLostError, UnansweredError
from stream_app.worker.transactions.cluster import GROUP, TRANSACTION, Cluster
from stream_app.worker.transactions.fenced_producer import (
    PRODUCE_TIMEOUT_MS,
    FencedProducer,
    Waiting,
    Written,
)


class Member(NamedTuple):
    """Who commits source offsets."""

    group: str
    generation: int
    member_id: str
    instance_id: str | None


class TransactionalProducer(FencedProducer):
    """Queues record batches into transactions that follow one another.

    `cut` ends what the present transaction takes; what is queued from then on waits for the next.
    """

    def __init__(
        self,
        cluster: Cluster,
        transactional_id: str,
        timeout_ms: int,
        smaller: Callable[[str, Any], list[Any]] = lambda _topic, _batch: [],
    ) -> None:
        super().__init__(cluster, transactional_id, timeout_ms, smaller)
        self._named: set[TopicPartition] = set()  # those that the coordinator knows to be in the transaction
        self._next: list[tuple[TopicPartition, Waiting]] = []  # for the next transaction
        self._is_cut = False

    async def initialise(self) -> None:
        """As of every fenced producer; the first transaction begins."""
        self._is_cut = False
        await super().initialise()

    def _take_all(self) -> list[Waiting]:
        waiting = [*super()._take_all(), *(w for _, w in self._next)]
        self._next.clear()
        return waiting

    def cut(self) -> None:
        """What is queued from now on belongs to the next transaction, but for what `commit` brings."""
        self._is_cut = True

    async def commit(
        self,
        last: Sequence[tuple[TopicPartition, Any]],
        offsets: Mapping[TopicPartition, int],
        member: Member,
    ) -> list[Written]:
        """Ends the transaction: what was queued before the cut, `last`, and source offsets, all or nothing.

        Returns where `last` stands. Raises ProducerLostError where it was aborted or nobody knows,
        KafkaError where the broker refuses for good.
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
        # What is written outside of the coordinator's transaction is never ended by it.
        return self._cluster.implicit or tp in self._named

    def _request(self, batches: dict[TopicPartition, Any]) -> Produce:
        return Produce(self._cluster.implicit, self.id, PRODUCE_TIMEOUT_MS, batches)

    def _unanswered(self, error: UnansweredError) -> None:
        raise error  # it may arrive when the transaction is over

    async def _commit_offsets(self, offsets: Mapping[TopicPartition, int], member: Member) -> None:
        if member.generation < 0 or not member.member_id:
            # Kafka takes offsets of such a member for those of a consumer outside the group, and checks nothing.
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
