"""Takes partitions on and lets them go: recovery of their state, standbys, partition producers.

The state of a new partition is read back from its changelog, or only the end of it if there was a standby here, and
only after its partition producer is open: what a former owner wrote lies before the fence record of the new epoch,
and what it writes later is refused. The state in memory of a partition that stays is kept if nobody has written its
changelog since.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

import structlog

from stream_app.contract.record_columns import RecordColumns
from stream_app.state.errors import StateError
from stream_app.state.plausibility import Damaged, refusal
from stream_app.worker.changelog_reader import ChangelogReader
from stream_app.worker.context import WorkerContext
from stream_app.worker.errors import ProducerLostError
from stream_app.worker.options import WorkerOptions
from stream_app.worker.producers.partition_producers import PartitionProducers
from stream_app.worker.standby import Standby
from stream_app.worker.state_thread import StateThread
from stream_app.worker.telemetry import warn_of_older_model

log = structlog.stdlib.get_logger(__name__)

#: Seconds before a partition producer that was refused is opened again.
AGAIN_S = 1.0
#: How often, and after how many seconds each, the ends of the inputs are asked for while users are ahead of them.
ENDS_TRIES, ENDS_AGAIN_S = 8, 1.0


class Ownership:
    """The partitions of one pipeline."""

    def __init__(
        self,
        context: WorkerContext,
        producers: PartitionProducers,
        state_thread: StateThread,
        log_end: dict[int, int],
        ended: Callable[[Exception | None], Awaitable[None]],
        options: WorkerOptions,
    ) -> None:
        """`log_end`: of each partition of this worker, the end of its changelog after our own last write.

        `ended` is called after each recovery, with the error if the state could not be read.
        """
        self._context, self._producers, self._state_thread = context, producers, state_thread
        self._log_end, self._ended = log_end, ended
        self._client, self._skip_damaged = options.client, options.skip_damaged_state
        changelog = context.topics.changelog
        self._reader = ChangelogReader(changelog, **self._client)
        self._standby = Standby(changelog, self._client, self._restore)
        self._connecting: asyncio.Task[None] | None = None
        self._recovering: asyncio.Task[None] | None = None

    async def change(self, mine: set[int], standbys: set[int]) -> dict[int, int]:
        """Lets go of all partitions except `mine`, and follows `standbys`. The caller must hold the turn.

        Returns those of `mine` that have to be read back, each with the first changelog offset that is needed.
        """
        processor, topics = self._context.processor, self._context.topics
        new_standbys = standbys - self._standby.partitions
        # How far the standbys that end here have come.
        had = await self._standby.follow(standbys)
        not_mine = set(processor.partitions) - mine
        for partition in not_mine:
            self._context.metrics.forget_partition(topics.inputs, partition)
            self._log_end.pop(partition, None)
        await self._producers.close(not_mine)
        for partition in not_mine - standbys:
            await self._state_thread.call(processor.drop, partition)
        stale = await self._stale(mine)
        await self.empty(new_standbys | (stale - had.keys()))
        return {partition: had.get(partition, 0) for partition in sorted(stale)}

    async def empty(self, partitions: Iterable[int]) -> None:
        """Discards the state of these partitions in memory. The caller must hold the turn."""
        await self._state_thread.call(self._empty, partitions)

    def _empty(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            self._context.processor.drop(partition)
            self._context.processor.assign(partition, [0] * len(self._context.topics.inputs))

    async def _stale(self, partitions: set[int]) -> set[int]:
        """Those whose state has to be read back: it is not in memory, or another worker wrote it since."""
        log_end, producers, processor = self._log_end, self._producers, self._context.processor
        have = {p for p in partitions if processor.is_restored(p) and p in log_end and producers.is_open(p)}
        if not have:
            return partitions
        ends = await self._reader.ends(have)
        return partitions - {p for p in have if ends[p] == log_end[p]}

    # --- reading back

    @property
    def recovering(self) -> bool:
        """Whether state is being read back."""
        return self._recovering is not None and not self._recovering.done()

    def read_back(self, wanted: Mapping[int, int]) -> None:
        """Begins to read state back; `wanted`: partitions, each with the first changelog offset that is needed."""
        self._recovering = asyncio.create_task(self._read_back(wanted))

    async def stop_reading(self) -> None:
        """Cancels the reading, if there is one; what it has read so far is not used."""
        task, self._recovering = self._recovering, None
        if task is not None and not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def stop(self) -> None:
        """Disconnects."""
        if self._connecting is not None:
            await asyncio.gather(self._connecting, return_exceptions=True)
            await self._producers.stop()
            await self._reader.stop()
        await self._standby.stop()

    async def _connect(self) -> None:
        await self._reader.start()
        await self._producers.start(**self._client)

    async def _open_producers(self, partitions: list[int]) -> None:
        """Opens them, repeatedly if need be: another worker that believes it owns them may do the same."""
        consumer = self._context.consumer
        while True:
            try:
                await self._producers.open(partitions)
                return
            except ProducerLostError as error:
                log.warning("partition producers are opened again", partitions=partitions, why=str(error))
                await asyncio.sleep(AGAIN_S)
                # A worker that is not a member would fence the rightful owner, and only the broker knows when it
                # is a member again.
                while not await consumer.is_member():  # noqa: ASYNC110
                    await asyncio.sleep(AGAIN_S)

    async def _restore(self, partition: int, records: RecordColumns) -> None:
        async with self._state_thread.turn:
            damaged = await self._state_thread.call(self._context.processor.restore, partition, records)
        self._report_skipped(partition, damaged)

    def _report_skipped(self, partition: int, damaged: list[Damaged]) -> None:
        for each in damaged:
            self._context.metrics.damaged_state.inc()
            record = each.sentence(self._context.topics.changelog, partition)
            log.warning("damaged state is skipped", record=record)

    async def _check_ends(self, partitions: Iterable[int]) -> None:
        """Searches for users whose state is ahead of the inputs. Raises StateError if there are any.

        A broker that has just become leader may not know for a moment how long its log is, so it is asked again.
        """
        topics, processor = self._context.topics, self._context.processor
        for left in reversed(range(ENDS_TRIES)):
            ends = await self._reader.input_ends(topics.inputs, partitions)
            async with self._state_thread.turn:
                found = {p: await self._state_thread.call(processor.beyond, p, ends[p]) for p in partitions}
            ahead = {p: damaged for p, damaged in found.items() if damaged}
            if not ahead:
                return
            if self._skip_damaged:
                for partition, damaged in ahead.items():
                    self._report_skipped(partition, damaged)
            elif not left:
                partition, damaged = next(iter(ahead.items()))
                raise StateError(refusal(damaged[0], topics.changelog, partition))
            await asyncio.sleep(ENDS_AGAIN_S)

    async def _read_back(self, wanted: Mapping[int, int]) -> None:
        processor, health, metrics = self._context.processor, self._context.health, self._context.metrics
        began = time.monotonic()
        try:
            health.set_recovering(0, 0)
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect())
            await asyncio.shield(self._connecting)  # a rebalance ends this recovery, not the connections
            await self._open_producers(list(wanted))

            async def apply(partition: int, batch: RecordColumns, count: int, total: int) -> None:
                await self._restore(partition, batch)
                health.set_recovering(count, total)

            records, ends = await self._reader.read(wanted, apply, wanted)
            await self._check_ends(wanted)
            async with self._state_thread.turn:
                for partition in wanted:
                    await self._state_thread.call(processor.restored, partition)
                    self._log_end[partition] = ends[partition]
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await self._ended(error)
            return
        seconds = time.monotonic() - began
        metrics.recovered_records.inc(records)
        metrics.recovery_seconds.inc(seconds)
        health.set_recovered()
        warn_of_older_model(self._context, wanted)
        log.info("state recovered", partitions=list(wanted), records=records, seconds=round(seconds, 2))
        await self._ended(None)
