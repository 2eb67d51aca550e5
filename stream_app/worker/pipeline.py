"""Drives the processor in a worker: batches from the agent in, outputs and checkpoints out.

Work goes in turns of two halves, side by side in two threads: one ingests what has come and applies a micro-batch to
the rows; the other takes the micro-batch before it through the model and queues its outputs. While few events come,
one micro-batch goes through both halves in its turn, in one thread. Checkpoints run beside the turns and only borrow
one, with nothing half done, to take a snapshot.

What happens when:
- crash: outputs are acknowledged before the state that includes them is written, and state before offsets, so the
  next owner repeats some outputs at worst and recognises what a user's row already includes; exactly once, the
  transaction is aborted, and nothing of it was ever to be seen;
- a lane is lost (somebody else has the partition, or a request was not answered): what is in memory of the partition
  is forgotten, read back, and its source read again from the committed offsets;
- rebalance: the turn under way is finished, a checkpoint is made and committed, what is buffered is forgotten,
  since Faust seeks back to the committed offsets; state of partitions that stay is kept if nobody wrote it since;
- bad record: a dead letter, acknowledged before the offset behind it is committed;
- overload: partitions whose buffers are full are paused; outputs that are not acknowledged hold up the next turn.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import faust
from faust.types import TP
from mode import Service

from stream_app.contract.events import BadRecord
from stream_app.kafka.record_batches.size_limits import Room
from stream_app.ops.health import LOOP, PROCESSING, Health
from stream_app.ops.logging import get_logger
from stream_app.ops.metrics import Metrics
from stream_app.processing.micro_batch import StepOutput
from stream_app.processing.processor import Processor
from stream_app.settings import Settings
from stream_app.worker import telemetry
from stream_app.worker.checkpoints import Checkpoints
from stream_app.worker.gather import both, in_pool
from stream_app.worker.ownership import Ownership
from stream_app.worker.transactions.partition_producers import Lanes
from stream_app.worker.transport.backlog import MANY_BYTES, Backlog, Budget
from stream_app.worker.transport.consumer import BatchConsumer, FetchedBatch
from stream_app.worker.transport.producer import BatchProducer
from stream_app.worker.turn_stages import BuiltFor, Halves
from stream_app.worker.watches.minute_log import MinuteLog
from stream_app.worker.watches.positions import Positions
from stream_app.worker.watches.split_watch import SplitWatch

T = TypeVar("T")
log = get_logger(__name__)

#: Micro-batches whose outputs may be unacknowledged before the next one waits.
MAX_IN_FLIGHT = 8
#: The halves of two turns overlap where a micro-batch fills this share of `max_batch`; a smaller one is taken through
#: both in its own turn. At half load that answers a fifth sooner: with overlap an event waits for a turn more.
OVERLAP_FROM = 0.5
#: How long the checkpoint at shutdown may take, in seconds.
LAST_CHECKPOINT_S = 15.0
#: How long it waits at the end for what is still at work in its threads, in seconds.
LAST_TURN_S = 5.0
#: Seconds between two updates of the slow gauges (lag, users).
GAUGES_EVERY_S = 1.0


class Pipeline(Service):
    """The loop of a worker around its processor."""

    mundane_level = "debug"  # of "Starting..." and "Stopping..."

    def __init__(
        self,
        app: faust.App,
        settings: Settings,
        processor: Processor,
        metrics: Metrics,
        health: Health,
        room: Room,
    ) -> None:
        """`room`: what the topics that are written take."""
        super().__init__()
        self.app, self.settings, self.processor = app, settings, processor
        self.metrics, self.health = metrics, health
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._model_thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._halves = Halves(app, settings, processor, health, lambda: self._producer)
        self._pending: StepOutput | None = None  # advanced and not yet finished
        self._lanes = Lanes(
            settings.group,
            settings.changelog,
            settings.outputs,
            compression=settings.compression,
            timeout_ms=settings.transaction_timeout_ms,
            transactional=settings.guarantee == "exactly_once",
            room=room,
        )
        self._turn = asyncio.Lock()  # held by whoever uses the processor or the buffers below
        self._checkpoints = Checkpoints(
            app, settings, processor, metrics, health, self._lanes, self._turn, self._drain, self._in_thread
        )
        self._work = asyncio.Event()
        self._ownership = Ownership(
            app, settings, processor, metrics, health, self._lanes, self._checkpoints.log_end,
            self._turn, self._in_thread, self._work.set, self._fail,
        )  # fmt: skip
        self._backlog = Backlog(Budget(settings.buffered_records, settings.buffer_bytes))
        self._generation: int | None = None  # None while partitions are changing hands
        self._settled = asyncio.Event()  # not set while `on_assigned` is still to come or at work
        self._next_checkpoint = self._next_gauges = 0.0
        self._topic_index = {name: index for index, name in enumerate(settings.inputs)}
        self._split = SplitWatch(processor, metrics, health)
        self._positions = Positions(app, settings, processor, metrics, health)
        self._minute = MinuteLog(settings, processor, metrics, health)
        self._closing = False

    # --- what the agent and Faust call

    async def receive(self, batch: FetchedBatch) -> None:
        """Takes a fetched batch over; one of an older generation is dropped, since it will be fetched again."""
        # Faust lets batches of the new generation come while `on_assigned` is still at work. To drop one of
        # them would lose its records, since nobody seeks back for it.
        await self._settled.wait()
        if (batch.generation, batch.seek) != (self._generation, self._consumer.seeks):
            return
        if batch.tp.partition not in self.processor.partitions:
            return
        if self._backlog.add(batch):
            self._consumer.pause_partitions({batch.tp})
        self._work.set()

    async def on_assigned(self, app: faust.App, assigned: set[TP], **_: Any) -> None:
        """Takes on the partitions that came and lets go of those that went."""
        if self._closing:
            return
        mine = {tp.partition for tp in assigned if tp.topic in self._topic_index}
        self.metrics.rebalances.inc()
        self.health.set_assigned(len(mine))
        await self._ownership.stop_reading()
        async with self._turn:
            await self._drain()
            copies = self._consumer.copies - mine
            to_read = await self._ownership.change(mine, copies)
            self._backlog.forget()
            self._backlog.budget.share_by(len(mine) * len(self._topic_index))
            self._positions.forget()
            self._generation = app.consumer_generation_id
        self._settled.set()
        self.metrics.standby.set(len(copies))
        facts = {"to_recover": list(to_read), "copies": sorted(copies)}
        told = {name: each for name, each in facts.items() if each and each != sorted(mine)}
        log.info("partitions assigned", partitions=sorted(mine), **told)
        if to_read and not self._closing:
            self._ownership.read_back(to_read)
        else:
            self.health.set_recovered()
        self._work.set()

    async def on_revoked(self, app: faust.App, revoked: set[TP], **_: Any) -> None:
        """Finishes what is under way, commits it and forgets what is only buffered."""
        if self._closing:
            return  # `before_shutdown` does so
        self._settled.clear()
        self._generation = None
        self.health.set_assigned(None)
        await self._ownership.stop_reading()
        self._positions.compare()
        await self._checkpoints.make()
        async with self._turn:
            self._backlog.drop()
            await self._in_thread(self.processor.rewind)
        if revoked:  # Faust calls this at each start too
            log.info("partitions revoked", partitions=sorted({tp.partition for tp in revoked}))

    async def before_shutdown(self, app: faust.App, **_: Any) -> None:
        """The last checkpoint, while consumer and producer still run."""
        self._closing = True
        self._generation = None
        self._settled.set()
        self._work.set()
        await self._ownership.stop_reading()
        if self.app.crash_reason is not None:
            return
        try:
            await asyncio.wait_for(self._checkpoints.make(), LAST_CHECKPOINT_S)
        except TimeoutError:
            log.warning(
                "the broker did not take the last checkpoint: what it would have held is read again",
                waited_s=LAST_CHECKPOINT_S,
            )
        else:
            log.info("stopped cleanly", partitions=self.processor.partitions)

    async def look_up(self, user_id: str) -> dict[str, Any] | None:
        """All that is kept of a user, None where this worker does not hold them, or no longer."""
        return None if self._closing else await self._in_thread(self.processor.look_up, user_id)

    # --- the loop

    async def on_stop(self) -> None:
        """Ends the thread and the reader."""
        self._closing = True
        self._work.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._turn.acquire(), LAST_TURN_S)  # a rebalance may hold it
        await self._ownership.stop()
        self._thread.shutdown(wait=True)
        self._model_thread.shutdown(wait=True)

    @Service.task
    async def _run(self) -> None:
        """Turns, as long as there is work; checkpoints when they are due."""
        more = False
        try:
            while not self._closing:
                if not more:
                    await self._wait_for_work()
                more = await self._take_turn()
                now = time.monotonic()
                if now >= self._next_checkpoint and not self._checkpoints.busy:
                    self._next_checkpoint = now + self.settings.commit_interval_ms / 1000
                    self.add_future(self._timed_checkpoint())
                if now >= self._next_gauges:
                    self._next_gauges = now + GAUGES_EVERY_S
                    self._positions.look()
                    await self._in_thread(self._split.look)
                    end_of = self._consumer.end_of
                    telemetry.gauges(self.processor, end_of, self._topic_index, self.metrics, self.health)
                    self._minute.look()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await self._fail("processing", error)

    @Service.task
    async def _beat(self) -> None:
        """Shows that the event loop turns."""
        while not self.should_stop:
            self.health.beat(LOOP)
            await self.sleep(1.0)

    async def _wait_for_work(self) -> None:
        timeout = min(self.settings.commit_interval_ms, max(self.settings.max_idle_ms, 1)) / 1000
        if self._backlog.empty:
            timeout = self.settings.commit_interval_ms / 1000
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._work.wait(), timeout)
        self._work.clear()

    async def _take_turn(self) -> bool:
        """One turn; returns whether another one may find work at once."""
        async with self._turn:
            if self._generation is None or self._closing:
                return False
            with self._checkpoints.breaking():
                incoming = self._backlog.take()
                finished, self._pending = self._pending, None
                few = OVERLAP_FROM * self.settings.max_batch
                if finished is None:
                    done = await self._in_thread(self._halves.whole, incoming, few)
                else:
                    # One thread applies this micro-batch to the rows while another takes the one before it
                    # through the model.
                    done = await both(
                        self._in_thread(self._halves.advance, incoming),
                        self._in_model_thread(self._halves.finish, finished),
                    )
                (advanced, bad, letters), built = done
                if finished is None and built is not None:
                    finished = advanced
                else:
                    self._pending = advanced
                self.health.rest(PROCESSING)
                self._checkpoints.check_lease()
                await self._publish(finished, bad, [*(built or []), *letters])
                if self._pending is not None and self._pending.events < few:
                    await self._drain()
            self._resume_drained()
        many = sum(batch.batch.size() for _, _, batches in letters for batch in batches) > MANY_BYTES
        with self.health.waiting_for_broker():
            await self._checkpoints.room(0 if many else MAX_IN_FLIGHT)
        return self._pending is not None or bool(self._backlog.incoming)

    async def _drain(self) -> None:
        """Finishes the micro-batch that is only half done. Whoever calls it holds the turn."""
        finished, self._pending = self._pending, None
        if finished is not None:
            with self._checkpoints.breaking():
                built = await self._in_model_thread(self._halves.finish, finished)
                self._checkpoints.check_lease()
                await self._publish(finished, [], built)

    async def _publish(self, output: StepOutput | None, bad: list[BadRecord], built: list[BuiltFor]) -> None:
        start = time.perf_counter()
        futures: list[asyncio.Future[Any]] = []
        with self.health.waiting_for_broker():
            for topic, partition, batches in built:
                futures += await self._producer.send_built(topic, partition, batches)
        if futures:
            together = asyncio.gather(*futures)
            together.add_done_callback(lambda f: self._acknowledged(f, output, built))
            self._checkpoints.in_flight.append(together)
        telemetry.turn(self.metrics, output, bad, time.perf_counter() - start)

    def _acknowledged(
        self, done: "asyncio.Future[Any]", output: StepOutput | None, built: list[BuiltFor]
    ) -> None:
        if done.cancelled() or done.exception() is not None:
            return  # whoever awaits it at the checkpoint deals with it
        telemetry.acknowledged(self.metrics, output, built)

    def _resume_drained(self) -> None:
        """Resumes the topic partitions of which less is held now."""
        kept: list[tuple[TP, int, int]] = []
        for partition in self.processor.partitions:
            buffered, bad = self.processor.merge(partition).buffered, self.processor.bad_bytes(partition)
            for topic, topic_index in self._topic_index.items():
                if buffered[topic_index] or bad[topic_index]:
                    kept.append((TP(topic, partition), buffered[topic_index], bad[topic_index]))
        if drained := self._backlog.recount(kept):
            self._consumer.resume_partitions(drained)

    # --- checkpoints

    async def _timed_checkpoint(self) -> None:
        try:
            await self._checkpoints.make()
            if self._checkpoints.lost():
                await self._begin_anew()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await self._fail("a checkpoint", error)

    async def _begin_anew(self) -> None:
        """Forgets partitions whose lanes were lost and reads them back, if they are still this worker's.

        Where that cannot be now, the rebalance that follows finds them without a lane, or the next checkpoint does.
        """
        if not self._settled.is_set() or not await self._consumer.is_member():
            return
        async with self._turn:
            lost = self._checkpoints.lost()
            if not lost or self._ownership.recovering or self._generation is None:
                return
            await self._drain()
            # All partitions go back, since a fetch that is under way holds records of all of them. What the others
            # have read already they pass over.
            self._positions.compare()
            self._consumer.found = {}  # the state that is read back now is a later one
            await self._consumer.seek_to_committed()
            self._backlog.incoming.clear()
            await self._ownership.empty(lost)
            self._resume_drained()
            log.warning("partitions begin anew", partitions=lost)
            self._ownership.read_back(dict.fromkeys(lost, 0))

    # --- small things

    @property
    def _consumer(self) -> BatchConsumer:
        return self.app.consumer

    @property
    def _producer(self) -> BatchProducer | Lanes:
        return self._lanes if self._lanes.transactional else self.app.producer

    async def _in_model_thread(self, call: Callable[..., T], *args: Any) -> T:
        return await in_pool(self._model_thread, call, *args)

    async def _in_thread(self, call: Callable[..., T], *args: Any) -> T:
        return await in_pool(self._thread, call, *args)

    async def _fail(self, what: str, error: Exception) -> None:
        """Nothing can be trusted after an error here: stop, and let the restart read the state back."""
        log.error("worker stops", during=what, error=str(error) or type(error).__name__, exc_info=error)
        self._closing = True
        self._settled.set()
        self.health.commit_failed(str(error))
        self.metrics.commits.labels("failed").inc()
        await self.app.crash(error)
