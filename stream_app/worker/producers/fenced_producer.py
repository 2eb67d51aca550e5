"""A producer that its successor fences: of all producers with the same transactional id, only the newest can write.

The broker counts epochs for each transactional id. `initialise` gets a new epoch, and the broker refuses requests
with an older one. So once the new owner of a partition has written to it, no delayed request of an earlier owner can
still be appended. Batches carry sequence numbers within the epoch, so a batch that is sent twice is appended once.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from aiokafka import TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.transaction import InitProducerIdRequest

from stream_app.kafka.protocol.transactions import Produce
from stream_app.worker.errors import NotSentError, ProducerError, ProducerLostError, UnansweredError
from stream_app.worker.producers.cluster import BACKOFF_S, TRANSACTION, Cluster, name_of

log = structlog.stdlib.get_logger(__name__)

# Kafka's protocol guide, "Error codes".
_DUPLICATE_SEQUENCE = 46
_TOO_LARGE = {10, 18}  # MESSAGE_TOO_LARGE, RECORD_LIST_TOO_LARGE: nothing of the batch was appended
_NO_COORDINATOR = {15, 16}  # COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR
# UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER, FENCED_LEADER_EPOCH
_STALE_LEADER = {3, 5, 6, 74}
# REQUEST_TIMED_OUT, COORDINATOR_LOAD_IN_PROGRESS, NOT_ENOUGH_REPLICAS(_AFTER_APPEND), CONCURRENT_TRANSACTIONS,
# KAFKA_STORAGE_ERROR: retriable. The broker has answered, so the request is not still under way; if a batch was
# appended in spite of the error, the broker recognises the repeat by its sequence number.
_NOT_NOW = {7, 14, 19, 20, 51, 56} | _NO_COORDINATOR | _STALE_LEADER

# ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, REBALANCE_IN_PROGRESS, OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_PRODUCER_EPOCH,
# INVALID_TXN_STATE, INVALID_PRODUCER_ID_MAPPING, UNKNOWN_PRODUCER_ID, FENCED_INSTANCE_ID, PRODUCER_FENCED,
# TRANSACTION_ABORTABLE: a new epoch may help, if this worker still owns the partition.
_NOT_THIS_EPOCH = {22, 25, 27, 45, 47, 48, 49, 59, 82, 90, 120}

#: How long retriable errors are tolerated, in seconds.
GIVE_UP_S = 30.0
#: How long the broker may take for a produce request, in ms.
PRODUCE_TIMEOUT_MS = 10_000
#: Most bytes of a produce request, unless a single batch is larger.
_REQUEST_BYTES = 4 * 1024 * 1024


class Written(NamedTuple):
    """The position of a record batch in the log."""

    partition: int
    offset: int  #: of its first record


@dataclass(slots=True, eq=False)
class Waiting:
    """A record batch that is not acknowledged yet, and the future of its position."""

    batch: Any
    written: "asyncio.Future[Written]"
    sealed: Any = None  # its bytes, once they carry an epoch and a sequence number


class FencedProducer:
    """Writes record batches; those of a partition stay in order. Not thread-safe: use it on one event loop only."""

    def __init__(
        self,
        cluster: Cluster,
        transactional_id: str,
        timeout_ms: int,
        smaller: Callable[[str, Any], list[Any]] = lambda _topic, _batch: [],
    ) -> None:
        """`timeout_ms`: the broker aborts a transaction that nobody has ended after this time.

        `smaller` returns smaller batches to replace one that its topic refuses as too large, or an empty list if that
        is impossible.
        """
        self.id = transactional_id
        self._smaller = smaller
        #: Why the producer cannot write, None if it can. A KafkaError is final: this process cannot correct it.
        self.lost: ProducerLostError | KafkaError | None = ProducerLostError("not initialised")
        self._cluster = cluster
        self._timeout_ms = timeout_ms
        self._producer_id, self._epoch = -1, -1
        self._sequences: dict[TopicPartition, int] = {}
        self._queue: dict[TopicPartition, deque[Waiting]] = {}
        self._sending: asyncio.Task[None] | None = None
        self._give_up_at = 0.0  # each acknowledgement moves it ahead

    # --- its life

    async def initialise(self) -> None:
        """Gets a new epoch. When it returns, a transaction that an earlier epoch left open is aborted.

        Waits for as long as the broker does not answer. Raises ProducerLostError or KafkaError if the broker refuses.
        """
        await self._stop_sending()
        request = lambda: InitProducerIdRequest(self.id, self._timeout_ms)  # noqa: E731
        while True:
            try:
                answer = await self._ask(TRANSACTION, self.id, request, lambda a: [a.error_code])
                break
            except UnansweredError as error:
                # Asking again is harmless: at worst it creates one more epoch.
                log.warning("asking for the producer id again", transactional_id=self.id, error=str(error))
                self._cluster.forget_coordinator(TRANSACTION, self.id)
                await asyncio.sleep(BACKOFF_S)
        self._begin(answer.producer_id, answer.producer_epoch)
        self.lost = None

    def lose(self, error: ProducerError | KafkaError) -> None:
        """Stops writing until `initialise` is called; the futures of all waiting batches fail."""
        if self.lost is not None:
            return
        final = isinstance(error, ProducerLostError | KafkaError)
        self.lost = error if final else ProducerLostError(str(error))
        for each in self._take_all():
            _fail(each.written, self.lost)

    async def close(self) -> None:
        """Stops sending. An open transaction stays open until it times out or a new epoch of its id begins."""
        self.lose(ProducerLostError(f"{self.id} was closed"))
        await self._stop_sending()

    def _take_all(self) -> list[Waiting]:
        waiting = [w for queue in self._queue.values() for w in queue]
        self._queue.clear()
        return waiting

    async def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
            self._sending = None

    def _begin(self, producer_id: int, epoch: int) -> None:
        if (producer_id, epoch) != (self._producer_id, self._epoch):
            self._sequences.clear()  # they count within an epoch
        self._producer_id, self._epoch = producer_id, epoch

    # --- writing

    def queue(self, tp: TopicPartition, batch: Any) -> "asyncio.Future[Written]":
        """Queues a record batch; returns a future of its position, which is set once the batch is acknowledged.

        If the producer is lost, the future fails with the same error.
        """
        waiting = Waiting(batch, asyncio.get_running_loop().create_future())
        if self.lost is not None:
            _fail(waiting.written, self.lost)
        else:
            self._enqueue(tp, waiting)
        return waiting.written

    def _enqueue(self, tp: TopicPartition, waiting: Waiting) -> None:
        self._queue.setdefault(tp, deque()).append(waiting)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        """Sends until no batch waits. Only one request per broker is under way, which keeps order and sequence."""
        self._give_up_at = time.monotonic() + GIVE_UP_S
        try:
            while self._queue:
                await self._before_sending()
                by_node = await self._heads_by_leader()
                await asyncio.gather(*(self._produce(node, chosen) for node, chosen in by_node.items()))
        except asyncio.CancelledError:
            raise
        except (ProducerError, KafkaError) as error:
            self.lose(error)
        except Exception as error:
            log.exception("unexpected error of a producer", transactional_id=self.id)
            self.lose(ProducerLostError(f"{self.id}: {error!r}"))

    async def _before_sending(self) -> None:
        """Sends the requests that the broker must get before the first batches of the queues."""

    def _may_send(self, tp: TopicPartition) -> bool:
        """Whether the broker has got the requests that must precede a batch of this partition."""
        return True

    async def _heads_by_leader(self) -> dict[int, dict[TopicPartition, Waiting]]:
        """The first batch of each partition, grouped by leading node, as many as fit into a request."""
        while True:
            try:
                by_node: dict[int, dict[TopicPartition, Waiting]] = {}
                for tp, queue in self._queue.items():
                    if not self._may_send(tp):
                        continue  # it was queued while `_before_sending` waited for the others
                    chosen = by_node.setdefault(self._cluster.leader(tp), {})
                    if not chosen or sum(w.batch.size() for w in chosen.values()) < _REQUEST_BYTES:
                        chosen[tp] = queue[0]
                return by_node
            except NotSentError as error:
                await self._patience(self._give_up_at, str(error))
                await self._cluster.refresh()

    async def _produce(self, node: int, batches: dict[TopicPartition, Waiting]) -> None:
        while batches:
            for tp, waiting in batches.items():
                if waiting.sealed is None:
                    batch, sequence = waiting.batch, self._sequences.get(tp, 0)
                    batch._set_producer_state(self._producer_id, self._epoch, sequence)
                    waiting.sealed = batch._build()
            refused: set[int] = set()
            try:
                answer = await self._cluster.ask(
                    node, self._request({tp: w.sealed for tp, w in batches.items()})
                )
            except (NotSentError, UnansweredError) as error:
                if isinstance(error, UnansweredError):
                    self._unanswered(error)
                await self._patience(self._give_up_at, str(error))
                await self._cluster.refresh()
                return  # the next round finds the new leader and sends them again
            for topic, partitions, _ in answer.responses:
                for partition, code, offset, *_ in partitions:
                    tp = TopicPartition(topic, partition)
                    if code in (0, _DUPLICATE_SEQUENCE):
                        self._acknowledge(tp, batches.pop(tp), offset)
                    elif code in _TOO_LARGE and (pieces := self._smaller(topic, batches[tp].batch)):
                        self._replace(tp, batches.pop(tp), pieces)
                    else:
                        refused.add(code)
                        _refuse(code, f"{topic}-{partition}")
            if refused:
                await self._patience(self._give_up_at, ", ".join(map(name_of, refused)))
            if refused & _STALE_LEADER:
                await self._cluster.refresh()
                return

    def _request(self, batches: dict[TopicPartition, Any]) -> Produce:
        return Produce(False, None, PRODUCE_TIMEOUT_MS, batches)

    def _unanswered(self, error: UnansweredError) -> None:
        """Raises if a request that was not answered must not be sent again."""

    def _replace(self, tp: TopicPartition, waiting: Waiting, pieces: list[Any]) -> None:
        """Replaces the first batch of a queue by smaller ones, which use its sequence number again."""
        queue = self._queue.get(tp)
        if not queue:
            return  # the producer was lost meanwhile
        queue.popleft()
        new = [Waiting(piece, asyncio.get_running_loop().create_future()) for piece in pieces]

        def all_are_written(whole: "asyncio.Future[list[Written]]") -> None:
            if whole.exception() is not None:
                _fail(waiting.written, self.lost or ProducerLostError(f"{self.id} is lost"))
            elif not waiting.written.done():
                waiting.written.set_result(whole.result()[0])

        asyncio.gather(*(each.written for each in new)).add_done_callback(all_are_written)
        queue.extendleft(reversed(new))

    def _acknowledge(self, tp: TopicPartition, waiting: Waiting, offset: int) -> None:
        self._give_up_at = time.monotonic() + GIVE_UP_S
        count = waiting.batch.record_count()
        self._sequences[tp] = (self._sequences.get(tp, 0) + count) & 0x7FFFFFFF
        queue = self._queue.get(tp)
        if queue:  # none if the producer was lost meanwhile
            queue.popleft()
            if not queue:
                del self._queue[tp]
        if not waiting.written.done():
            waiting.written.set_result(Written(tp.partition, offset))

    # --- requests

    async def _ask(
        self,
        coordinator_type: CoordinationType,
        key: str,
        request: Callable[[], Any],
        codes: Callable[[Any], Iterable[int]],
    ) -> Any:
        """Asks the coordinator until the answer has no error. Asks again only after retriable errors."""
        end = time.monotonic() + GIVE_UP_S
        while True:
            try:
                node = await self._cluster.coordinator(coordinator_type, key)
                answer = await self._cluster.ask(node, request(), of_coordinator=True)
            except NotSentError as error:
                self._cluster.forget_coordinator(coordinator_type, key)
                await self._patience(end, str(error))
                continue
            wrong = set(codes(answer)) - {0}
            if not wrong:
                return answer
            for code in wrong:
                _refuse(code, key)
            if wrong & _NO_COORDINATOR:
                self._cluster.forget_coordinator(coordinator_type, key)
            await self._patience(end, ", ".join(map(name_of, wrong)))

    async def _patience(self, end: float, why: str) -> None:
        if time.monotonic() > end:
            raise ProducerLostError(f"the broker did not accept {self.id} for {GIVE_UP_S:g} s: {why}")
        await asyncio.sleep(BACKOFF_S)


def _fail(written: "asyncio.Future[Written]", error: Exception) -> None:
    if not written.done():
        written.set_exception(error)
        written.exception()  # marks the error as retrieved, because callers may look at the producer instead


def _refuse(code: int, about: str) -> None:
    """Raises unless the error is retriable: ProducerLostError if a new epoch may help, otherwise KafkaError."""
    if code in _NOT_THIS_EPOCH:
        raise ProducerLostError(f"the broker refuses with {name_of(code)} ({about})")
    if code not in _NOT_NOW:
        raise for_code(code)(about)
