"""Makes what was processed durable: outputs, then state, then offsets; or all three at once, in a transaction."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import faust
from aiokafka import TopicPartition
from faust.types import TP

from stream_app.ops.health import Health
from stream_app.ops.logging import get_logger
from stream_app.ops.metrics import Metrics
from stream_app.processing.micro_batch import Checkpoint
from stream_app.processing.processor import Processor
from stream_app.settings import Settings
from stream_app.worker.errors import FencedError, ProducerLostError
from stream_app.worker.transactions.partition_producers import Lanes
from stream_app.worker.transactions.transactional_producer import Member
from stream_app.worker.transport.consumer import BatchConsumer
from stream_app.worker.transport.producer import Built

log = get_logger(__name__)

#: Seconds between two looks for users whose time to live is over.
EXPIRE_EVERY_S = 30.0

#: A partition's part of a checkpoint, and its state records as they are written.
Part = tuple[Checkpoint, list[Built]]


class Checkpoints:
    """Checkpoints of one pipeline, one at a time."""

    def __init__(
        self,
        app: faust.App,
        settings: Settings,
        processor: Processor,
        metrics: Metrics,
        health: Health,
        lanes: Lanes,
        turn: asyncio.Lock,
        drain: Callable[[], Awaitable[None]],
        in_thread: Callable[..., Awaitable[Any]],
    ) -> None:
        """`turn` is held by whoever uses the processor; `in_thread` calls a function in the processor's thread.

        `lanes` write the state. `drain` finishes what is half done.
        """
        self._app, self._settings, self._processor = app, settings, processor
        self._metrics, self._health, self._lanes = metrics, health, lanes
        self._turn, self._drain, self._in_thread = turn, drain, in_thread
        self._one_at_a_time = asyncio.Lock()
        self._topic_index = {name: index for index, name in enumerate(settings.inputs)}
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
        """Partitions whose state here is worth nothing, since their lane was lost after it was read."""
        processor, lanes = self._processor, self._lanes
        return [p for p in processor.partitions if processor.is_restored(p) and not lanes.is_open(p)]

    async def room(self, most: int) -> None:
        """Returns once no more than `most` micro-batches have outputs that are not acknowledged.

        Raises what made outputs fail for good, but for a lost lane.
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
        """Raises FencedError once this process has stood still for longer than its session timeout.

        By then the group has given its partitions away, and what it would write now would lie over what their
        new owner has written.
        """
        stalled, limit = self._consumer.longest_stall_s, self._settings.session_timeout_ms / 1000
        if stalled > limit:
            raise FencedError(
                f"it stood still for {stalled:.1f} s, longer than its session timeout of {limit:g} s, "
                "so its partitions may have a new owner"
            )

    async def make(self) -> None:
        """Makes what was processed so far durable. A partition whose lane is lost has no part in it: see `lost`.

        At least once, in this order:

        1. take a snapshot of the changed rows, between two turns;
        2. wait until all outputs that the snapshot includes are acknowledged;
        3. write the state records and wait until they are acknowledged;
        4. commit the source offsets that the snapshot includes.

        Exactly once, each partition has a transaction:

        1. take the snapshot, and let what is queued from now on belong to the next transaction;
        2. wait until the outputs and the state records are acknowledged;
        3. send the source offsets into the transaction;
        4. end it. Turns go on meanwhile.
        """
        async with self._one_at_a_time:
            with self.breaking(), self._health.waiting_for_broker():
                start = time.perf_counter()
                if self._lanes.transactional:
                    await self._in_transactions()
                else:
                    await self._in_order()
                self._metrics.stage_seconds.observe(time.perf_counter() - start, "commit")

    @contextlib.contextmanager
    def breaking(self) -> Iterator[None]:
        """Around work that must not be saved where it fails half-way."""
        try:
            yield
        except BaseException:
            self.broken = True
            raise

    async def _in_order(self) -> None:
        async with self._turn:  # 1
            if self.broken:
                return
            parts = await self._take()
            outputs, self.in_flight = self.in_flight, deque()
        for acknowledged in outputs:  # 2
            await acknowledged
        if not parts:
            return
        self.check_lease()
        written = await asyncio.gather(*map(self._write_state, parts))  # 3
        self.check_lease()
        done = self._consumer.done
        for (checkpoint, _), is_written in zip(parts, written, strict=True):  # 4
            if is_written:
                done.update({TP(*tp): offset for tp, offset in self._offsets(checkpoint).items()})
        if await self._consumer.commit():
            self._committed()

    async def _write_state(self, part: Part) -> bool:
        """Whether the state of a partition could be written: it has had no other owner since."""
        checkpoint, batches = part
        futures = await self._lanes.send_built(self._settings.changelog, checkpoint.partition, batches)
        try:
            written = [await future for future in futures]
        except ProducerLostError as error:
            log.warning("state not written", partition=checkpoint.partition, why=str(error))
            return False
        self.log_end[checkpoint.partition] = written[-1].offset + batches[-1].size
        return True

    async def _in_transactions(self) -> None:
        async with self._turn:  # 1
            if self.broken:
                return
            parts = await self._take()
            if not parts:
                return
            member = self._consumer.member()
            for checkpoint, _ in parts:
                self._lanes.cut(checkpoint.partition)
        self.check_lease()
        committed = await asyncio.gather(*(self._commit(part, member) for part in parts))  # 2 to 4
        if any(committed):
            self._committed()

    async def _commit(self, part: Part, member: Member) -> bool:
        """Whether the transaction of a partition came to its end."""
        checkpoint, batches = part
        number = checkpoint.partition
        try:
            written = await self._lanes.commit(number, batches, self._offsets(checkpoint), member)
        except ProducerLostError as error:
            log.warning("transaction lost", partition=number, why=str(error))
            return False
        # Behind the last record the marker of the transaction has its place.
        self.log_end[number] = written[-1].offset + batches[-1].size + 1
        return True

    def _offsets(self, checkpoint: Checkpoint) -> dict[TopicPartition, int]:
        return {
            TopicPartition(topic, checkpoint.partition): checkpoint.positions[topic_index]
            for topic, topic_index in self._topic_index.items()
            if checkpoint.positions[topic_index] > 0
        }

    def _committed(self) -> None:
        self._health.commit_succeeded()
        self._metrics.commits.labels("ok").inc()

    async def _take(self) -> list[Part]:
        """The snapshot. Whoever calls it holds the turn."""
        await self._drain()
        parts: list[Part] = await self._in_thread(self._snapshot, self._app.consumer_generation_id)
        return parts

    def _snapshot(self, generation: int) -> list[Part]:
        processor = self._processor
        now = time.monotonic()
        if now >= self._next_expiry:
            self._next_expiry = now + EXPIRE_EVERY_S
            for partition in processor.partitions:
                if processor.is_restored(partition):
                    self._metrics.evictions.labels("age").inc(processor.expire(partition))
        taken = [processor.checkpoint(p, generation) for p in processor.partitions if self._lanes.is_open(p)]
        changelog = self._settings.changelog
        return [(c, self._lanes.build_columns(c.records, changelog)) for c in taken if c is not None]

    @property
    def _consumer(self) -> BatchConsumer:
        return self._app.consumer
