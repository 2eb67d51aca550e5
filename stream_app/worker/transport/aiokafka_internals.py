"""All uses of aiokafka's private attributes, in one place. The names are those of version 0.14.

If the installed release lacks one of them, the consumer or producer fails at its start, not later in operation.
"""

import asyncio
import collections
import contextlib
import copy
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, FetchResult, PartitionRecords
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerClosed, RecordListTooLargeError
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import JoinGroupRequest
from aiokafka.record.memory_records import MemoryRecords

from stream_app.worker.errors import IncompatibleAiokafka
from stream_app.worker.producers.transactional_producer import Member

__all__ = [
    "READ_COMMITTED", "Coordination", "FetchRequest", "FetchResult", "PartitionRecords", "batching_of", "builder_of",
    "coordination_of", "fetcher_of", "heartbeat", "member_of", "queue_batch", "stop_consumer",
]  # fmt: skip

# We also rely on: `FetchResult(partition_records=)`, kept in `_partition_records`; `type(x) is FetchResult` in
# `Fetcher.fetched_records`; no `await` in `Fetcher._proc_fetch_request` between the answer of `_client.send` and
# `_records[tp] = FetchResult(...)`; and the interface of `BatchBuilder`, which `SealedBatch` replaces.
_FETCHER = ("_client", "_records", "_fetch_task", "_pending_tasks")
_PARTITION_RECORDS = (
    "_tp", "_records", "_aborted_transactions", "_check_crcs", "_isolation_level", "next_fetch_offset",
)  # fmt: skip
_COORDINATOR = ("group_id", "generation", "member_id", "_group_instance_id", "_do_heartbeat")
_COORDINATION = (
    *_COORDINATOR, "_send_req", "_coordination_task", "_coordination_routine", "_pending_exception", "_subscription",
    "_session_timeout_ms", "check_errors", "request_rejoin", "_client", "_cluster", "_heartbeat_task",
    "_commit_refresh_task", "coordinator_id",
)  # fmt: skip
_ACCUMULATOR = (
    "_compression_type", "_batch_size", "_batches", "_txn_manager", "_append_batch", "_closed", "_exception",
)  # fmt: skip

#: How long a task may take to end before it is cancelled again, in seconds.
_STOP_S = 0.2


def fetcher_of(consumer: AIOKafkaConsumer) -> Fetcher:
    """The fetcher of a consumer that has started and has fetched nothing yet.

    Raises IncompatibleAiokafka if it lacks the attributes that we use.
    """
    fetcher = _known(consumer, ("_fetcher",))._fetcher
    _known(fetcher, _FETCHER)
    nothing = MemoryRecords(b"")
    sample = PartitionRecords(TopicPartition("", 0), nothing, None, 0, None, None, True, READ_COMMITTED)
    _known(sample, _PARTITION_RECORDS)
    if type(fetcher._records) is not collections.OrderedDict or fetcher._records:
        raise _refusal("an empty OrderedDict Fetcher._records")
    return fetcher


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Stops a consumer at once and closes all its connections, also during a rebalance.

    aiokafka's own `stop` has three problems. During a rebalance it waits until all other members have joined too.
    It may wait for ever for the fetcher: the fetcher cancels its requests, and then mistakes its own cancellation for
    theirs. And `stop` is itself cancelled, with its connections open, if a request of the fetcher is about to begin
    or waits after a failure.
    """
    coordinator, fetcher = consumer._coordinator, consumer._fetcher
    try:
        if getattr(coordinator, "_coordination_task", None) is not None:  # it is in a group
            await _end_coordination(coordinator)
        if fetcher is not None:
            await _end(fetcher._fetch_task, *fetcher._pending_tasks)
            fetcher._pending_tasks.clear()
        await consumer.stop()  # leaves the group
    finally:
        await consumer._client.close()


async def _end_coordination(coordinator: Any) -> None:
    await _end(coordinator._coordination_task)
    await _end(coordinator._heartbeat_task, coordinator._commit_refresh_task)
    node = coordinator.coordinator_id
    connection = coordinator._client._conns.get((node, ConnectionGroup.COORDINATION))
    if connection is not None and connection._requests:
        # The broker reads a connection's next request only after it has answered the previous one, such as a join.
        await connection.close(reason=CloseReason.SHUTDOWN)
        coordinator.coordinator_id = node
    if coordinator.member_id != JoinGroupRequest.UNKNOWN_MEMBER_ID:
        coordinator.generation = max(
            coordinator.generation, 1
        )  # without a generation aiokafka would not leave the group during a first join


async def _end(*tasks: "asyncio.Task[Any] | None") -> None:
    """Cancels tasks until they are done.

    One cancellation is not enough: a task that awaits another may mistake its own cancellation for the other's.
    """
    left = {task for task in tasks if task is not None and not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_STOP_S)


def member_of(consumer: AIOKafkaConsumer) -> Member:
    """The consumer's identity in its group. Raises IncompatibleAiokafka if it lacks the attributes that we use."""
    c = _known(_known(consumer, ("_coordinator",))._coordinator, _COORDINATOR)
    return Member(c.group_id, c.generation, c.member_id, c._group_instance_id)


async def heartbeat(consumer: AIOKafkaConsumer) -> bool:
    """Sends a heartbeat; returns whether the consumer is still a member of its group."""
    coordinator = _known(_known(consumer, ("_coordinator",))._coordinator, _COORDINATOR)
    if coordinator.member_id == JoinGroupRequest.UNKNOWN_MEMBER_ID:
        return False
    try:
        return bool(await coordinator._do_heartbeat())
    except KafkaError:
        return False  # aiokafka's own heartbeats get the same error, and `GroupWatch` handles it


Send = Callable[[Any], Awaitable[Any]]


class Coordination:
    """A consumer's membership of its group. Must be used on the event loop of that consumer."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator
        self.name: str = coordinator.group_id  #: the group's name
        self.instance: str | None = coordinator._group_instance_id
        self.session_ms: int = coordinator._session_timeout_ms

    @property
    def membership(self) -> tuple[int, str]:
        """The generation and the member id."""
        return self._coordinator.generation, self._coordinator.member_id

    @property
    def topics(self) -> Iterable[str]:
        """The topics that the consumer has subscribed to."""
        return self._coordinator._subscription.topics or ()

    def put_between(self, ask: Send) -> Send:
        """Routes all requests to the group through `ask` from now on; returns the function that sends them."""
        send: Send = self._coordinator._send_req
        self._coordinator._send_req = ask
        return send

    def failure(self) -> BaseException | None:
        """The error that stopped the coordination; None while it works."""
        task = self._coordinator._coordination_task
        if task.done() and not task.cancelled() and task.exception() is not None:
            return task.exception()
        error: BaseException | None = self._coordinator._pending_exception
        return error

    def ask_for_unknown_topics(self) -> None:
        """Asks the broker again for topics that it did not know: aiokafka does so only when its metadata expires.

        The group leader assigns the partitions that it knows of. Once it learns of more, all members join again.
        """
        partitions_of = self._coordinator._cluster.partitions_for_topic
        if not all(partitions_of(topic) for topic in self.topics):
            self._coordinator._client.force_metadata_update()

    def go_on(self) -> None:
        """Joins the group again after a failure."""
        c = self._coordinator
        c.request_rejoin()
        if c._coordination_task.done():
            c._coordination_task = asyncio.create_task(c._coordination_routine())
        # The error it raises is known already. The call clears it, and the coordination goes on; heartbeats begin
        # with the join.
        with contextlib.suppress(KafkaError):
            c.check_errors()


def coordination_of(consumer: AIOKafkaConsumer) -> Coordination:
    """The coordination of a consumer in a group. Raises IncompatibleAiokafka if it lacks attributes that we use."""
    return Coordination(_known(_known(consumer, ("_coordinator",))._coordinator, _COORDINATION))


def batching_of(producer: AIOKafkaProducer) -> tuple[int, bool]:
    """The codec of a producer, as in a batch's attributes, and whether it writes in transactions.

    Raises IncompatibleAiokafka if it lacks the attributes that we use.
    """
    accumulator = _known(_known(producer, ("_message_accumulator",))._message_accumulator, _ACCUMULATOR)
    transactions = accumulator._txn_manager
    transactional = transactions is not None and transactions.transactional_id is not None
    return accumulator._compression_type, transactional


def builder_of(producer: AIOKafkaProducer, size: int) -> Callable[[], BatchBuilder]:
    """A function that returns an empty batch of a producer, of at most `size` bytes unless one record is larger."""
    compression, transactional = batching_of(producer)
    return lambda: BatchBuilder(size, compression, is_transactional=transactional)


def queue_batch(
    producer: AIOKafkaProducer,
    tp: TopicPartition,
    batch: Any,
    smaller: Callable[[Any], list[Any]] = lambda _: [],
) -> "asyncio.Future[Any]":
    """Queues a sealed batch behind those that wait for the same partition; returns a future of its acknowledgement.

    aiokafka's `send_batch` would first wait until the queue is empty, so no second batch of a partition would be
    ready while the first one is being sent. The caller limits how many batches wait. The partition's leader must be
    known, and a transactional producer must be in a transaction. `smaller` returns smaller sealed batches to replace
    one that the broker refuses as too large, or an empty list if that is impossible. Raises the error that stopped
    the producer.
    """
    accumulator = producer._message_accumulator
    if accumulator._closed:
        raise ProducerClosed
    if accumulator._exception is not None:
        raise copy.copy(accumulator._exception)
    queued = accumulator._append_batch(batch, tp)
    queued.failure = _Refusal(accumulator, queued, smaller)
    return asyncio.shield(queued.future)


class _Refusal:
    """Replaces `MessageBatch.failure`: if the batch is too large, queues smaller batches in its place.

    The producer sends one batch of a partition at a time, so no later sequence number has been assigned. The broker
    did not use the number of the refused batch, so it can be assigned again.
    """

    def __init__(self, accumulator: Any, queued: MessageBatch, smaller: Callable[[Any], list[Any]]) -> None:
        self._accumulator, self._queued, self._smaller = accumulator, queued, smaller
        self._fail = queued.failure  # the original bound method

    def __call__(self, exception: Exception) -> None:
        too_large = isinstance(exception, MessageSizeTooLargeError | RecordListTooLargeError)
        pieces = self._smaller(self._queued._builder) if too_large else []
        if not pieces:
            self._fail(exception)
            return
        accumulator, queued = self._accumulator, self._queued
        accumulator._txn_manager.increment_sequence_number(queued.tp, -queued.record_count)
        waiting = accumulator._batches[queued.tp]
        behind = list(waiting)
        waiting.clear()
        new = []
        for piece in pieces:
            new.append(accumulator._append_batch(piece, queued.tp))
            new[-1].failure = _Refusal(accumulator, new[-1], self._smaller)
        waiting.extend(behind)
        asyncio.gather(*(each.future for each in new)).add_done_callback(self._all_are_written)

    def _all_are_written(self, pieces: "asyncio.Future[list[Any]]") -> None:
        whole = self._queued.future
        if whole.done():
            return
        if pieces.cancelled() or pieces.exception() is not None:
            whole.set_exception(pieces.exception() or ProducerClosed())
        else:
            whole.set_result(pieces.result()[0])


def _known(thing: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        if not hasattr(thing, name):
            raise _refusal(f"{type(thing).__name__}.{name}")
    return thing


def _refusal(what: str) -> IncompatibleAiokafka:
    return IncompatibleAiokafka(
        f"aiokafka {aiokafka.__version__} has not {what}, which the transport needs: install aiokafka 0.14"
    )
