"""Takes partitions on and lets them go: the state that is read back, the copies that are followed, the lanes.

A partition that comes is read back from its changelog, from where a copy of it ends if there was one, and only after
its lane is open: what a former owner wrote is before the fence record of the lane, and what it writes later is
refused. What is in memory of a partition that stays is kept if nobody has written its changelog since.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import faust

from stream_app.contract.record_columns import RecordColumns
from stream_app.kafka.security import kafka_options
from stream_app.ops.health import Health
from stream_app.ops.logging import get_logger
from stream_app.ops.metrics import Metrics
from stream_app.processing.processor import Processor
from stream_app.settings import Settings
from stream_app.state.errors import StateError
from stream_app.state.plausibility import Damaged, refusal
from stream_app.worker.changelog_reader import ChangelogReader
from stream_app.worker.errors import ProducerLostError
from stream_app.worker.standby import Standby
from stream_app.worker.telemetry import tell_older_model
from stream_app.worker.transactions.partition_producers import Lanes
from stream_app.worker.transport.consumer import BatchConsumer

log = get_logger(__name__)

#: Seconds before a lane that was refused is opened again.
AGAIN_S = 1.0
#: How often, and after how many seconds each, the ends of the inputs are asked for while users are ahead of them.
ENDS_TRIES, ENDS_AGAIN_S = 8, 1.0


class Ownership:
    """The partitions of one pipeline."""

    def __init__(
        self,
        app: faust.App,
        settings: Settings,
        processor: Processor,
        metrics: Metrics,
        health: Health,
        lanes: Lanes,
        log_end: dict[int, int],
        turn: asyncio.Lock,
        in_thread: Callable[..., Awaitable[Any]],
        recovered: Callable[[], None],
        failed: Callable[[str, Exception], Awaitable[None]],
    ) -> None:
        """`log_end`: of each partition that is this worker's, the end of its changelog after the last own write.

        `turn` is held by whoever uses the processor; `in_thread` calls a function in the state thread. `recovered` is
        called once all state is there, `failed` where it cannot be read.
        """
        self._app, self._settings, self._processor = app, settings, processor
        self._metrics, self._health = metrics, health
        self._lanes, self._log_end = lanes, log_end
        self._turn, self._in_thread = turn, in_thread
        self._recovered, self._failed = recovered, failed
        self._client = kafka_options(settings)
        self._reader = ChangelogReader(settings.changelog, **self._client)
        self._standby = Standby(settings.changelog, self._client, self._restore)
        self._connecting: asyncio.Task[None] | None = None
        self._recovering: asyncio.Task[None] | None = None

    async def change(self, mine: set[int], copies: set[int]) -> dict[int, int]:
        """Lets go of all partitions but `mine`, and copies `copies`. Whoever calls it holds the turn.

        Returns those of `mine` that have to be read back, each with the first changelog offset that is wanted.
        """
        processor = self._processor
        new_copies = copies - self._standby.partitions
        # What was copied so far of those that are copied no longer.
        had = await self._standby.follow(copies)
        not_mine = set(processor.partitions) - mine
        for partition in not_mine:
            self._metrics.forget_partition(self._settings.inputs, partition)
            self._log_end.pop(partition, None)
        await self._lanes.close(not_mine)
        for partition in not_mine - copies:
            await self._in_thread(processor.drop, partition)
        stale = await self._stale(mine)
        await self.empty(new_copies | (stale - had.keys()))
        return {partition: had.get(partition, 0) for partition in sorted(stale)}

    async def empty(self, partitions: Iterable[int]) -> None:
        """Forgets all that is in memory of these partitions. Whoever calls it holds the turn."""
        await self._in_thread(self._empty, partitions)

    def _empty(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            self._processor.drop(partition)
            self._processor.assign(partition, [0] * len(self._settings.inputs))

    async def _stale(self, partitions: set[int]) -> set[int]:
        """Those whose state has to be read back: we do not have it, or somebody wrote it since we did."""
        log_end, lanes = self._log_end, self._lanes
        have = {p for p in partitions if self._processor.is_restored(p) and p in log_end and lanes.is_open(p)}
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
        """Begins to read state back; `wanted`: partitions, each with the first changelog offset that is wanted."""
        self._recovering = asyncio.create_task(self._read_back(wanted))

    async def stop_reading(self) -> None:
        """Ends the reading, if there is one; what is read so far is of no use then."""
        task, self._recovering = self._recovering, None
        if task is not None and not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def stop(self) -> None:
        """Disconnects."""
        if self._connecting is not None:
            await asyncio.gather(self._connecting, return_exceptions=True)
            await self._lanes.stop()
            await self._reader.stop()
        await self._standby.stop()

    async def _connect(self) -> None:
        await self._reader.start()
        await self._lanes.start(**self._client)

    async def _open_lanes(self, partitions: list[int]) -> None:
        """Opens them, as often as it takes: somebody who believes the partitions to be theirs may open them too."""
        consumer: BatchConsumer = self._app.consumer
        while True:
            try:
                await self._lanes.open(partitions)
                return
            except ProducerLostError as error:
                log.warning("lanes are opened again", partitions=partitions, why=str(error))
                await asyncio.sleep(AGAIN_S)
                # Who is no member would fence the owner; that it is one again only the broker knows.
                while not await consumer.is_member():  # noqa: ASYNC110
                    await asyncio.sleep(AGAIN_S)

    async def _restore(self, partition: int, records: RecordColumns) -> None:
        async with self._turn:
            damaged = await self._in_thread(self._processor.restore, partition, records)
        self._skipped(partition, damaged)

    def _skipped(self, partition: int, damaged: list[Damaged]) -> None:
        """Tells of records that are passed over."""
        for each in damaged:
            self._metrics.damaged_state.inc()
            log.warning("damaged state is skipped", record=each.sentence(self._settings.changelog, partition))

    async def _check_ends(self, partitions: Iterable[int]) -> None:
        """Looks for users who are ahead of the inputs. Raises StateError where there are some.

        A broker that has just begun to lead may not know for a moment how far its log goes, so it is asked again.
        """
        for left in reversed(range(ENDS_TRIES)):
            ends = await self._reader.input_ends(self._settings.inputs, partitions)
            async with self._turn:
                found = {p: await self._in_thread(self._processor.beyond, p, ends[p]) for p in partitions}
            ahead = {p: damaged for p, damaged in found.items() if damaged}
            if not ahead:
                return
            if self._settings.skip_damaged_state:
                for partition, damaged in ahead.items():
                    self._skipped(partition, damaged)
            elif not left:
                partition, damaged = next(iter(ahead.items()))
                raise StateError(refusal(damaged[0], self._settings.changelog, partition))
            await asyncio.sleep(ENDS_AGAIN_S)

    async def _read_back(self, wanted: Mapping[int, int]) -> None:
        began = time.monotonic()
        try:
            self._health.set_recovering(0, 0)
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect())
            await asyncio.shield(self._connecting)  # a rebalance ends this recovery, not the connections
            await self._open_lanes(list(wanted))

            async def apply(partition: int, batch: RecordColumns, count: int, total: int) -> None:
                await self._restore(partition, batch)
                self._health.set_recovering(count, total)

            records, ends = await self._reader.read(wanted, apply, wanted)
            await self._check_ends(wanted)
            async with self._turn:
                for partition in wanted:
                    await self._in_thread(self._processor.restored, partition)
                    self._log_end[partition] = ends[partition]
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await self._failed("recovery", error)
            return
        seconds = time.monotonic() - began
        self._metrics.recovered_records.inc(records)
        self._metrics.recovery_seconds.inc(seconds)
        self._health.set_recovered()
        tell_older_model(self._processor, wanted)
        log.info("state recovered", partitions=list(wanted), records=records, seconds=round(seconds, 2))
        self._recovered()
