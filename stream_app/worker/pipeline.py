"""Drives the processor in a worker: batches from the agent in, outputs and checkpoints out.

A turn has two stages, which run side by side in two threads: the apply stage decodes new records and applies a
micro-batch to the rows; the predict stage takes the micro-batch before it through the model and builds its outputs.
While only few events arrive, one micro-batch passes both stages in its own turn, in one thread. Checkpoints run
beside the turns and hold up only one of them, between two micro-batches, to take a snapshot.

What happens when:
- crash: outputs are acknowledged before the state that includes them is written, and state before offsets. So the
  next owner repeats at most some outputs, and recognises events that a user's row already includes. Exactly once, the
  transaction is aborted, and read-committed consumers never see anything of it;
- a partition producer is lost (another worker has the partition, or a request was not answered): the state of the
  partition in memory is discarded and read back, and its inputs are read again from the committed offsets;
- rebalance: the current turn is completed, a checkpoint is made and committed, and what is only buffered is
  discarded, because Faust seeks back to the committed offsets. The state of partitions that stay is kept if nobody
  wrote it since. A checkpoint that exceeds its budget is given up: see `Checkpoints.make_at_revoke`;
- bad record: a dead letter, which is acknowledged before the offset after it is committed;
- overload: partitions whose buffers are full are paused; outputs that are not acknowledged delay the next turn.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import faust
import structlog
from faust.types import TP
from mode import Service

from stream_app.processing.micro_batch import StepOutput
from stream_app.worker import telemetry
from stream_app.worker.checkpoints import Checkpoints
from stream_app.worker.context import WorkerContext
from stream_app.worker.errors import TopologyError
from stream_app.worker.gather import both, in_pool
from stream_app.worker.options import WorkerOptions
from stream_app.worker.ownership import Ownership
from stream_app.worker.producers.partition_producers import PartitionProducers
from stream_app.worker.state_thread import StateThread
from stream_app.worker.transport.backlog import MANY_BYTES, Backlog, Budget
from stream_app.worker.transport.consumer_thread import FetchedBatch
from stream_app.worker.transport.producer import BatchProducer
from stream_app.worker.turn_stages import Applied, BuiltFor, TurnStages
from stream_app.worker.watches.minute_log import MinuteLog
from stream_app.worker.watches.positions import Positions
from stream_app.worker.watches.split_user_watch import SplitWatch

T = TypeVar("T")
log = structlog.stdlib.get_logger(__name__)

#: Micro-batches whose outputs may be unacknowledged before the next one waits.
MAX_IN_FLIGHT = 8
#: The stages of two turns overlap if a micro-batch fills this share of `max_batch`; a smaller one passes both stages
#: in its own turn. At half load that answers a fifth sooner, because with overlap an event waits one turn longer.
OVERLAP_FROM = 0.5
#: How long the checkpoint at shutdown may take, in seconds.
LAST_CHECKPOINT_S = 15.0
#: How long the shutdown waits for what is still at work in the threads, in seconds.
LAST_TURN_S = 5.0
#: Seconds between two updates of the slow gauges (lag, users).
GAUGES_EVERY_S = 1.0
_NOTHING = Applied(None, [], [])


class Pipeline(Service):
    """The loop of a worker around its processor."""

    mundane_level = "debug"  # of "Starting..." and "Stopping..."

    def __init__(self, context: WorkerContext, options: WorkerOptions, producers: PartitionProducers) -> None:
        super().__init__()
        self.context, self.options = context, options
        self.app, self.processor = context.app, context.processor
        self.metrics, self.health = context.metrics, context.health
        self._producers = producers
        self._state_thread = StateThread()
        self._turn = self._state_thread.turn
        self._model_thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._stages = TurnStages(context, lambda: self._producer)
        self._pending: StepOutput | None = None  # applied and not yet predicted
        self._few = OVERLAP_FROM * options.turns.max_batch
        self._checkpoints = Checkpoints(
            context, producers, self._state_thread, self._drain, options.checkpoints
        )
        self._work = asyncio.Event()
        self._ownership = Ownership(
            context, producers, self._state_thread, self._checkpoints.log_end, self._recovery_ended, options
        )
        self._backlog = Backlog(Budget(options.turns.buffered_records, options.turns.buffer_bytes))
        self._generation: int | None = None  # None while partitions are changing hands
        self._settled = asyncio.Event()  # not set while `on_assigned` is still to come or at work
        self._next_checkpoint = self._next_gauges = 0.0
        self._index = context.topics.index
        self._split = SplitWatch(context)
        self._positions = Positions(context)
        self._minute = MinuteLog(context, options.web_url)
        self._closing = False

    async def on_start(self) -> None:
        """Raises TopologyError if the app has another agent than the one that feeds this pipeline."""
        names = sorted(self.app.agents)
        if len(names) > 1:
            raise TopologyError(
                f"the app of a worker has one agent, and this one has {len(names)} ({', '.join(names)}): run other "
                "agents in a Faust app of their own, because this one commits only the offsets of its checkpoints"
            )

    # --- what the agent and Faust call

    async def receive(self, batch: FetchedBatch) -> None:
        """Takes a fetched batch; one of an older generation is dropped, because it will be fetched again."""
        # Faust delivers batches of the new generation while `on_assigned` is still at work. Dropping one of
        # them would lose its records, because nothing seeks back for it.
        await self._settled.wait()
        if (batch.generation, batch.seek) != (self._generation, self.context.consumer.seeks):
            return
        if batch.tp.partition not in self.processor.partitions:
            return
        if self._backlog.add(batch):
            self.context.consumer.pause_partitions({batch.tp})
        self._work.set()

    async def on_assigned(self, app: faust.App, assigned: set[TP], **_: Any) -> None:
        """Takes on the partitions that came and lets go of those that went."""
        if self._closing:
            return
        mine = {tp.partition for tp in assigned if tp.topic in self._index}
        self.metrics.rebalances.inc()
        self.health.set_assigned(len(mine))
        await self._ownership.stop_reading()
        async with self._turn:
            await self._drain()
            standbys = self.context.consumer.standbys - mine
            to_read = await self._ownership.change(mine, standbys)
            self._backlog.forget()
            self._backlog.budget.share_by(len(mine) * len(self._index))
            self._positions.forget()
            self._generation = app.consumer_generation_id
        self._settled.set()
        self.metrics.standby.set(len(standbys))
        facts = {"to_recover": list(to_read), "standbys": sorted(standbys)}
        shown = {name: each for name, each in facts.items() if each and each != sorted(mine)}
        log.info("partitions assigned", partitions=sorted(mine), **shown)
        if to_read and not self._closing:
            self._ownership.read_back(to_read)
        else:
            self.health.set_recovered()
        self._work.set()

    async def on_revoked(self, app: faust.App, revoked: set[TP], **_: Any) -> None:
        """Completes the current turn, makes a checkpoint and discards what is only buffered."""
        if self._closing:
            return  # `before_shutdown` makes the last checkpoint
        self._settled.clear()
        self._generation = None
        self.health.set_assigned(None)
        await self._ownership.stop_reading()
        self._positions.compare()
        await self._checkpoints.make_at_revoke()
        async with self._turn:
            self._backlog.drop()
            await self._state_thread.call(self.processor.rewind)
        if revoked:  # Faust calls this at each start too
            log.info("partitions revoked", partitions=sorted({tp.partition for tp in revoked}))

    async def before_shutdown(self, app: faust.App, **_: Any) -> None:
        """Makes the last checkpoint while consumer and producer still run."""
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
                "the broker did not accept the last checkpoint in time: its events are processed again",
                waited_s=LAST_CHECKPOINT_S,
            )
        else:
            log.info("stopped cleanly", partitions=self.processor.partitions)

    async def look_up(self, user_id: str) -> dict[str, Any] | None:
        """The state of a user, None if this worker does not (or no longer) hold it."""
        return None if self._closing else await self._state_thread.call(self.processor.look_up, user_id)

    # --- the loop

    async def on_stop(self) -> None:
        """Stops the threads and disconnects."""
        self._closing = True
        self._work.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._turn.acquire(), LAST_TURN_S)  # a rebalance may hold it
        await self._ownership.stop()
        self._state_thread.stop()
        self._model_thread.shutdown(wait=True)

    @Service.task
    async def _run(self) -> None:
        """Takes turns while there is work, and starts checkpoints when they are due."""
        more = False
        try:
            while not self._closing:
                if not more:
                    await self._wait_for_work()
                more = await self._take_turn()
                now = time.monotonic()
                if now >= self._next_checkpoint and not self._checkpoints.busy:
                    self._next_checkpoint = now + self.options.turns.commit_interval_s
                    self.add_future(self._timed_checkpoint())
                if now >= self._next_gauges:
                    self._next_gauges = now + GAUGES_EVERY_S
                    self._positions.look()
                    await self._state_thread.call(self._split.look)
                    telemetry.gauges(self.context)
                    self._minute.look()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await self._fail("processing", error)

    @Service.task
    async def _beat(self) -> None:
        """Reports to `Health` once per second that the event loop runs."""
        while not self.should_stop:
            self.health.beat(self.health.LOOP)
            await self.sleep(1.0)

    async def _wait_for_work(self) -> None:
        turns = self.options.turns
        timeout = min(turns.commit_interval_s, max(turns.max_idle_s, 0.001))
        if self._backlog.empty:
            timeout = turns.commit_interval_s
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
                if finished is None:
                    applied, built = await self._state_thread.call(self._stages.both, incoming, self._few)
                else:
                    # One thread applies this micro-batch to the rows while another takes the one before it
                    # through the model.
                    applied, built = await both(
                        self._state_thread.call(self._stages.apply, incoming),
                        self._in_model_thread(self._stages.predict, finished),
                    )
                if finished is None and built is not None:
                    finished = applied.output
                else:
                    self._pending = applied.output
                self.health.rest(self.health.PROCESSING)
                self._checkpoints.check_lease()
                await self._publish(finished, applied, built or [])
                if self._pending is not None and self._pending.events < self._few:
                    await self._drain()
            self._resume_drained()
        many = applied.dead_letter_bytes() > MANY_BYTES
        with self.health.waiting_for_broker():
            await self._checkpoints.await_outputs(0 if many else MAX_IN_FLIGHT)
        return self._pending is not None or bool(self._backlog.incoming)

    async def _drain(self) -> None:
        """Completes the micro-batch that has passed only its first stage. The caller must hold the turn."""
        finished, self._pending = self._pending, None
        if finished is not None:
            with self._checkpoints.breaking():
                built = await self._in_model_thread(self._stages.predict, finished)
                self._checkpoints.check_lease()
                await self._publish(finished, _NOTHING, built)

    async def _publish(self, output: StepOutput | None, applied: Applied, predicted: list[BuiltFor]) -> None:
        """Sends what was predicted of `output`, and the dead letters of the micro-batch that was just applied."""
        start = time.perf_counter()
        built = [*predicted, *applied.dead_letters]
        futures: list[asyncio.Future[Any]] = []
        with self.health.waiting_for_broker():
            for topic, partition, batches in built:
                futures += await self._producer.send_built(topic, partition, batches)
        if futures:
            acknowledged = asyncio.gather(*futures)
            acknowledged.add_done_callback(lambda f: self._acknowledged(f, output, built))
            self._checkpoints.in_flight.append(acknowledged)
        telemetry.turn(self.context, output, applied.bad, time.perf_counter() - start)

    def _acknowledged(
        self, done: "asyncio.Future[Any]", output: StepOutput | None, built: list[BuiltFor]
    ) -> None:
        if done.cancelled() or done.exception() is not None:
            return  # the checkpoint awaits this future and handles the error
        telemetry.acknowledged(self.context, output, built)

    def _resume_drained(self) -> None:
        """Resumes the topic partitions of which less is held now."""
        kept: list[tuple[TP, int, int]] = []
        for partition in self.processor.partitions:
            buffered, bad = self.processor.merge(partition).buffered, self.processor.bad_bytes(partition)
            for topic, index in self._index.items():
                if buffered[index] or bad[index]:
                    kept.append((TP(topic, partition), buffered[index], bad[index]))
        if drained := self._backlog.recount(kept):
            self.context.consumer.resume_partitions(drained)

    # --- checkpoints

    async def _timed_checkpoint(self) -> None:
        try:
            await self._checkpoints.make()
            if self._checkpoints.lost():
                await self._read_back_lost()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await self._fail("a checkpoint", error)

    async def _read_back_lost(self) -> None:
        """Discards and reads back partitions whose producers were lost, if they are still this worker's.

        If that is not possible now, the rebalance that follows finds them, or the next checkpoint does.
        """
        if not self._settled.is_set() or not await self.context.consumer.is_member():
            return
        async with self._turn:
            lost = self._checkpoints.lost()
            if not lost or self._ownership.recovering or self._generation is None:
                return
            await self._drain()
            # All partitions go back, because a fetch under way has records of all of them. The partitions that are
            # not lost skip the records that they have read already.
            self._positions.compare()
            self.context.consumer.found = {}  # the state that is read back now is a later one
            await self.context.consumer.seek_to_committed()
            self._backlog.incoming.clear()
            await self._ownership.empty(lost)
            self._resume_drained()
            log.warning("partitions are read back", partitions=lost)
            self._ownership.read_back(dict.fromkeys(lost, 0))

    # --- helpers

    @property
    def _producer(self) -> BatchProducer | PartitionProducers:
        return self._producers if self._producers.transactional else self.app.producer

    async def _in_model_thread(self, call: Callable[..., T], *args: Any) -> T:
        return await in_pool(self._model_thread, call, *args)

    async def _recovery_ended(self, error: Exception | None) -> None:
        if error is None:
            self._work.set()
        else:
            await self._fail("recovery", error)

    async def _fail(self, what: str, error: Exception) -> None:
        """Stops the worker: after such an error the state in memory is not reliable, and a restart reads it back."""
        log.error("worker stops", during=what, error=str(error) or type(error).__name__, exc_info=error)
        self._closing = True
        self._settled.set()
        self.health.commit_failed(str(error))
        self.metrics.commits.labels("failed").inc()
        await self.app.crash(error)
