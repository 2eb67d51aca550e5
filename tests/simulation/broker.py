"""The model of a Kafka cluster: logs, the coordinators, and what each request does to them."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)

from stream_app.kafka.protocol.transactions import ImplicitEndTxn, Produce, TxnOffsetCommit
from stream_app.kafka.record_batches.reader import PRODUCER_AT
from tests.simulation.coordinator import Transactions
from tests.simulation.group import Group
from tests.simulation.log import INVALID_EPOCH, PRODUCER, Log
from tests.simulation.schedule import Schedule

Answer = SimpleNamespace
Act = Callable[[], Any]
# COORDINATOR_LOAD_IN_PROGRESS, NOT_LEADER_OR_FOLLOWER, NOT_ENOUGH_REPLICAS_AFTER_APPEND
_LOADING, _NOT_LEADER, _TOO_FEW_AFTER = 14, 6, 20
_FENCED = 90


class Broker:
    """Everything that outlives the workers."""

    def __init__(
        self,
        topics: list[str],
        partitions: int,
        schedule: Schedule,
        loop: Any,
        session_s: float,
        implicit: bool,
        standbys: bool,
    ) -> None:
        """`implicit`: transactions have the second form. `standbys`: members are standbys of each other."""
        self.partitions, self.implicit, self.schedule = partitions, implicit, schedule
        self.logs = {TopicPartition(t, p): Log(t, p) for t in topics for p in range(partitions)}
        self.group = Group(partitions, session_s, loop.outside, loop.time, self._assign, standbys)
        self.transactions = Transactions(self.logs, self.group, loop.outside, schedule.marker_s)

    def _assign(self, partitions: int, members: list[str]) -> dict[str, list[int]]:
        """Return shares that the schedule rotates, so that partitions move in all possible ways."""
        turn = self.schedule.draw()
        shares: dict[str, list[int]] = {name: [] for name in members}
        for p in range(partitions):
            shares[members[(p + turn) % len(members)]].append(p)
        return shares

    # --- requests of the producers

    def act(self, request: Any) -> tuple[Act, Callable[[bool], Any]]:
        """Return what a request does on arrival, and its "not now" answer. Its content is fixed now."""
        if isinstance(request, Produce):
            # Copied, since the producer may change the bytes when it sends them again.
            batches = {tp: bytes(raw) for tp, raw in request._batches.items()}
            name, implicit = request._id, request._implicit
            return lambda: self._produce(name, implicit, batches), lambda half: self._produced(
                dict.fromkeys(batches, (_TOO_FEW_AFTER if half else _NOT_LEADER, -1))
            )
        if isinstance(request, InitProducerIdRequest):
            return (
                lambda: self._init(request),
                lambda _: Answer(error_code=_LOADING, producer_id=-1, producer_epoch=-1),
            )
        if isinstance(request, AddPartitionsToTxnRequest):
            return lambda: self._add(request), lambda _: self._added(request, _LOADING)
        if isinstance(request, AddOffsetsToTxnRequest):
            head = request._transactional_id, request._producer_id, request._producer_epoch
            return (
                lambda: Answer(error_code=self.transactions.add(*head, [], group=True)),
                lambda _: Answer(error_code=_LOADING),
            )
        if isinstance(request, TxnOffsetCommit):
            return lambda: self._offsets(request), lambda _: self._offsets_answer(request, _LOADING)
        assert isinstance(request, EndTxnRequest | ImplicitEndTxn), request
        return (
            lambda: self._end(request),
            lambda _: Answer(error_code=_LOADING, producer_id=-1, producer_epoch=-1),
        )

    def _produce(self, name: str | None, implicit: bool, batches: dict[TopicPartition, bytes]) -> Any:
        found = {}
        for tp, raw in batches.items():
            code, offset = 0, -1
            if implicit:
                assert name is not None
                id_, epoch, _ = PRODUCER.unpack_from(raw, PRODUCER_AT)
                code = self.transactions.add(name, id_, epoch, [tp])
                code = INVALID_EPOCH if code == _FENCED else code
            if not code:
                code, offset = self.logs[tp].append(raw)
            found[tp] = code, offset
        return self._produced(found)

    @staticmethod
    def _produced(found: dict[TopicPartition, tuple[int, int]]) -> Any:
        return Answer(responses=[(tp.topic, [(tp.partition, *each)], {}) for tp, each in found.items()])

    def _init(self, request: InitProducerIdRequest) -> Any:
        code, id_, epoch = self.transactions.init(
            request._transactional_id, request._transaction_timeout_ms / 1000
        )
        return Answer(error_code=code, producer_id=id_, producer_epoch=epoch)

    def _add(self, request: AddPartitionsToTxnRequest) -> Any:
        tps = [TopicPartition(topic, p) for topic, partitions in request._topics for p in partitions]
        head = request._transactional_id, request._producer_id, request._producer_epoch
        return self._added(request, self.transactions.add(*head, tps))

    @staticmethod
    def _added(request: AddPartitionsToTxnRequest, code: int) -> Any:
        return Answer(
            errors=[(topic, [(p, code) for p in partitions]) for topic, partitions in request._topics]
        )

    def _offsets(self, request: TxnOffsetCommit) -> Any:
        name, _, id_, epoch, generation, member, _ = request._head
        code = self.transactions.add(name, id_, epoch, [], group=True) if request._implicit else 0
        code = INVALID_EPOCH if code == _FENCED else code
        if not code:
            code = self.group.commit_in_transaction(id_, epoch, member, generation, request._offsets.items())
        return self._offsets_answer(request, code)

    @staticmethod
    def _offsets_answer(request: TxnOffsetCommit, code: int) -> Any:
        return Answer(topics=[(tp.topic, [(tp.partition, code, {})], {}) for tp in request._offsets])

    def _end(self, request: EndTxnRequest | ImplicitEndTxn) -> Any:
        implicit = isinstance(request, ImplicitEndTxn)
        head = (
            request._fields
            if isinstance(request, ImplicitEndTxn)
            else (request._transactional_id, request._producer_id, request._producer_epoch)
        )
        code, id_, epoch = self.transactions.end(*head, implicit=implicit)
        return Answer(error_code=code, producer_id=id_, producer_epoch=epoch)
