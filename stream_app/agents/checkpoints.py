"""Makes what was processed durable: outputs, then state, then offsets."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import faust
from faust.types import TP

from stream_app.agents.batches import Checkpoint
from stream_app.agents.processor import Processor
from stream_app.errors import ForeclickError
from stream_app.ops.health import Health
from stream_app.ops.metrics import Metrics
from stream_app.settings import Settings
from stream_app.transport.consumer import BatchConsumer
from stream_app.transport.producer import BatchProducer, Built

#: Seconds between two looks for users whose time to live is over.
EXPIRE_EVERY_S = 30.0


class FencedError(ForeclickError):
    """This worker may own its partitions no longer, so it must not write."""


class Checkpoints:
    """Checkpoints of one pipeline, one at a time."""

    def __init__(
        self,
        app: faust.App,
        settings: Settings,
        engine: Processor,
        metrics: Metrics,
        health: Health,
        turn: asyncio.Lock,
        drain: Callable[[], Awaitable[None]],
        in_thread: Callable[..., Awaitable[Any]],
    ) -> None:
        """`turn` is held by whoever uses the engine; `in_thread` calls a function in the engine's thread.

        `drain` finishes what is half done.
        """
        self._app, self._settings, self._engine = app, settings, engine
        self._metrics, self._health = metrics, health
        self._turn, self._drain, self._in_thread = turn, drain, in_thread
        self._one_at_a_time = asyncio.Lock()
        self._kind = {name: kind for kind, name in enumerate(settings.inputs)}
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

    def drop_acknowledged(self) -> None:
        """Forgets the outputs at the head that the broker has acknowledged."""
        while self.in_flight and self.in_flight[0].done() and self.in_flight[0].exception() is None:
            self.in_flight.popleft()

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
        """Makes what was processed so far durable, in this order.

        1. take a snapshot of the changed rows, between two turns;
        2. wait until all outputs that the snapshot includes are acknowledged;
        3. write the state records and wait until they are acknowledged;
        4. commit the source offsets that the snapshot includes.
        """
        async with self._one_at_a_time:
            with self.breaking():
                await self._in_order()

    @contextlib.contextmanager
    def breaking(self) -> Iterator[None]:
        """Around work that must not be saved where it fails half-way."""
        try:
            yield
        except BaseException:
            self.broken = True
            raise

    async def _in_order(self) -> None:
        start = time.perf_counter()
        async with self._turn:  # 1
            if self.broken:
                return
            await self._drain()
            outputs, self.in_flight = self.in_flight, deque()
            generation = self._app.consumer_generation_id
            snapshot = await self._in_thread(self._snapshot, generation)
        for acknowledged in outputs:  # 2
            await acknowledged
        if not snapshot:
            return
        self.check_lease()
        writing = [
            (batch, future)
            for checkpoint, batches in snapshot  # 3
            for batch, future in zip(
                batches,
                await self._producer.send_built(self._settings.changelog, checkpoint.partition, batches),
                strict=True,
            )
        ]
        for batch, future in writing:
            written = await future
            self.log_end[written.partition] = written.offset + batch.size
        self.check_lease()
        done = self._consumer.done
        for checkpoint, _ in snapshot:  # 4
            for topic, kind in self._kind.items():
                if checkpoint.positions[kind] > 0:
                    done[TP(topic, checkpoint.partition)] = checkpoint.positions[kind]
        if await self._consumer.commit():
            self._health.commit_succeeded()
            self._metrics.commits.labels("ok").inc()
        self._metrics.stage_seconds.observe(time.perf_counter() - start, "commit")

    def _snapshot(self, generation: int) -> list[tuple[Checkpoint, list[Built]]]:
        engine = self._engine
        now = time.monotonic()
        if now >= self._next_expiry:
            self._next_expiry = now + EXPIRE_EVERY_S
            for partition in engine.partitions:
                if engine.is_restored(partition):
                    self._metrics.evictions.labels("age").inc(engine.expire(partition))
        taken = [engine.checkpoint(p, generation) for p in engine.partitions]
        return [(c, self._producer.build_columns(*c.records.arrays())) for c in taken if c is not None]

    @property
    def _consumer(self) -> BatchConsumer:
        return self._app.consumer

    @property
    def _producer(self) -> BatchProducer:
        return self._app.producer
