"""Makes progress durable: outputs, then state, then offsets; or all three at once, in a transaction."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import structlog
from aiokafka import TopicPartition
from faust.types import TP

from stream_app.processing.micro_batch import Checkpoint
from stream_app.worker.context import WorkerContext
from stream_app.worker.errors import FencedError, ProducerLostError
from stream_app.worker.options import CheckpointOptions
from stream_app.worker.producers.partition_producers import PartitionProducers
from stream_app.worker.producers.transactional_producer import Member
from stream_app.worker.state_thread import StateThread
from stream_app.worker.transport.producer import Built

log = structlog.stdlib.get_logger(__name__)

#: Seconds between two searches for users whose time to live is over.
EXPIRE_EVERY_S = 30.0

#: A partition's part of a checkpoint, and its state records as they are written.
Part = tuple[Checkpoint, list[Built]]


class Checkpoints:
    """Checkpoints of one pipeline, one at a time."""

    def __init__(
        self,
        context: WorkerContext,
        producers: PartitionProducers,
        state_thread: StateThread,
        drain: Callable[[], Awaitable[None]],
        options: CheckpointOptions,
    ) -> None:
        """`producers` write the state. `drain` completes the micro-batch that has passed only its first stage."""
        self._context, self._producers, self._state_thread = context, producers, state_thread
        self._drain, self._options = drain, options
        self._one_at_a_time = asyncio.Lock()
        self._writing: asyncio.Task[None] | None = None  # the steps of a checkpoint that wait for the broker
        self._giving_up = False
        self._next_expiry = 0.0
        #: Outputs queued since the last checkpoint, oldest first.
        self.in_flight: deque[asyncio.Future[Any]] = deque()
        #: End of the changelog of each partition after our own last write.
        self.log_end: dict[int, int] = {}
        #: A turn or a checkpoint failed half-way: the state may include events whose outputs are not out, so
        #: nothing of it may be written or committed any more.
        self.broken = False

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is under way."""
        return self._one_at_a_time.locked()

    def lost(self) -> list[int]:
        """Partitions whose state in memory is void, because their producer was lost after it was read."""
        processor, producers = self._context.processor, self._producers
        return [p for p in processor.partitions if processor.is_restored(p) and not producers.is_open(p)]

    async def await_outputs(self, most: int) -> None:
        """Returns once at most `most` micro-batches have outputs that are not acknowledged.

        Raises the error that made outputs fail for good, except for that of a lost producer.
        """
        while len(self.in_flight) > most:
            await asyncio.wait([self.in_flight[0]])
            while self.in_flight and self.in_flight[0].done():
                self._settle(self.in_flight.popleft())

    @staticmethod
    def _settle(acknowledged: "asyncio.Future[Any]") -> None:
        with contextlib.suppress(ProducerLostError):
            acknowledged.result()

    def check_lease(self) -> None:
        """Raises FencedError if this process has stood still for longer than its session timeout.

        By then the group has assigned its partitions to others, and what it would write now could overwrite what
        their new owner has written.
        """
        stalled, limit = self._context.consumer.longest_stall_s, self._options.session_timeout_s
        if stalled > limit:
            raise FencedError(
                f"it stood still for {stalled:.1f} s, longer than its session timeout of {limit:g} s, "
                "so its partitions may have a new owner"
            )

    async def make(self) -> None:
        """Makes what was processed so far durable, except for partitions whose producer is lost: see `lost`.

        At least once, in this order:

        1. take a snapshot of the changed rows, between two turns;
        2. wait until all outputs that the snapshot includes are acknowledged;
        3. write the state records and wait until they are acknowledged;
        4. commit the source offsets that the snapshot includes.

        Exactly once, each partition has a transaction:

        1. take the snapshot; what is queued from now on belongs to the next transaction;
        2. wait until the outputs and the state records are acknowledged;
        3. send the source offsets into the transaction;
        4. end it. Turns go on meanwhile.
        """
        async with self._one_at_a_time:
            with self.breaking(), self._context.health.waiting_for_broker():
                start = time.perf_counter()
                transactional = self._producers.transactional
                await (self._in_transactions() if transactional else self._in_order())
                self._context.metrics.stage_seconds.observe(time.perf_counter() - start, "commit")

    async def make_at_revoke(self) -> bool:
        """As `make`, but gives up after the budget of a revoke; returns whether the checkpoint is complete.

        The group waits for this worker while it makes the checkpoint. If it gives up, all partition producers are
        lost: nothing more of the state in memory is ever written, an open transaction is aborted, and the events
        since the last checkpoint are processed again by the next owner, also if that is this worker.
        """
        limit_s = self._options.revoke_s
        making = asyncio.ensure_future(self.make())
        try:
            await asyncio.wait([making], timeout=limit_s)
            if making.done():
                making.result()
                return True
            log.warning("the checkpoint at a revoke is given up", limit_s=limit_s)
            await self._give_up(making)
            return False
        finally:
            making.cancel()  # if this was cancelled itself

    async def _give_up(self, making: "asyncio.Task[None]") -> None:
        self._giving_up = True
        try:
            limit_s = self._options.revoke_s
            self._producers.lose_all(f"the checkpoint at a revoke took longer than {limit_s:g} s")
            # Of this checkpoint, or of an earlier one that it waits for. The snapshot is not interrupted, because it
            # borrows the threads of the turns; it waits for no broker.
            if self._writing is not None:
                self._writing.cancel()
            self._context.consumer.end_commit()
            await asyncio.wait([making])
            making.result()
        finally:
            self._giving_up = False

    @contextlib.contextmanager
    def breaking(self) -> Iterator[None]:
        """Around work after which nothing may be saved if it fails half-way."""
        try:
            yield
        except BaseException:
            self.broken = True
            raise

    async def _until_given_up(self, write: Any) -> None:
        """Runs the steps that wait for the broker; returns early if `_give_up` ends them."""
        if self._giving_up:
            write.close()
            return
        self._writing = writing = asyncio.ensure_future(write)
        try:
            await asyncio.wait([writing])
        except asyncio.CancelledError:
            writing.cancel()
            await asyncio.wait([writing])
            raise
        if not writing.cancelled():
            writing.result()

    # --- at least once

    async def _in_order(self) -> None:
        async with self._state_thread.turn:  # 1
            if self.broken:
                return
            parts = await self._take()
            if not parts:
                return
            outputs, self.in_flight = self.in_flight, deque()
        await self._until_given_up(self._write_in_order(parts, outputs))

    async def _write_in_order(self, parts: list[Part], outputs: "deque[asyncio.Future[Any]]") -> None:
        for acknowledged in outputs:  # 2
            await asyncio.shield(acknowledged)  # a checkpoint that is given up does not end the sending
        self.check_lease()
        written = await asyncio.gather(*map(self._write_state, parts))  # 3
        self.check_lease()
        consumer = self._context.consumer
        for (checkpoint, _), is_written in zip(parts, written, strict=True):  # 4
            if is_written:
                consumer.done.update({TP(*tp): offset for tp, offset in self._offsets(checkpoint).items()})
        if await consumer.commit():
            self._committed()

    async def _write_state(self, part: Part) -> bool:
        """Writes the state of a partition; returns False if it has another owner by now."""
        checkpoint, batches = part
        changelog = self._context.topics.changelog
        try:
            futures = await self._producers.send_built(changelog, checkpoint.partition, batches)
            written = [await future for future in futures]
        except ProducerLostError as error:
            log.warning("state not written", partition=checkpoint.partition, why=str(error))
            return False
        self.log_end[checkpoint.partition] = written[-1].offset + batches[-1].size
        return True

    # --- exactly once

    async def _in_transactions(self) -> None:
        async with self._state_thread.turn:  # 1
            if self.broken:
                return
            parts = await self._take()
            if not parts:
                return
            member = self._context.consumer.member()
            for checkpoint, _ in parts:
                self._producers.cut(checkpoint.partition)
        await self._until_given_up(self._write_in_transactions(parts, member))

    async def _write_in_transactions(self, parts: list[Part], member: Member) -> None:
        self.check_lease()
        committed = await asyncio.gather(*(self._commit(part, member) for part in parts))  # 2 to 4
        if any(committed):
            self._committed()

    async def _commit(self, part: Part, member: Member) -> bool:
        """Commits the transaction of a partition; returns whether it was committed."""
        checkpoint, batches = part
        number = checkpoint.partition
        try:
            written = await self._producers.commit(number, batches, self._offsets(checkpoint), member)
        except ProducerLostError as error:
            log.warning("transaction lost", partition=number, why=str(error))
            return False
        # The marker of the transaction comes after the last record and takes an offset.
        self.log_end[number] = written[-1].offset + batches[-1].size + 1
        return True

    # --- both

    def _offsets(self, checkpoint: Checkpoint) -> dict[TopicPartition, int]:
        return {
            TopicPartition(topic, checkpoint.partition): checkpoint.positions[index]
            for topic, index in self._context.topics.index.items()
            if checkpoint.positions[index] > 0
        }

    def _committed(self) -> None:
        self._context.health.commit_succeeded()
        self._context.metrics.commits.labels("ok").inc()

    async def _take(self) -> list[Part]:
        """Takes the snapshot. The caller must hold the turn."""
        await self._drain()
        generation = self._context.app.consumer_generation_id
        parts: list[Part] = await self._state_thread.call(self._snapshot, generation)
        return parts

    def _snapshot(self, generation: int) -> list[Part]:
        processor = self._context.processor
        now = time.monotonic()
        if now >= self._next_expiry:
            self._next_expiry = now + EXPIRE_EVERY_S
            for partition in processor.partitions:
                if processor.is_restored(partition):
                    expired = processor.expire(partition)
                    self._context.metrics.evictions.labels("age").inc(expired)
        taken = [
            processor.checkpoint(p, generation) for p in processor.partitions if self._producers.is_open(p)
        ]
        changelog = self._context.topics.changelog
        return [(c, self._producers.build_columns(c.records, changelog)) for c in taken if c is not None]
