"""Reads the changelog of some partitions from its beginning to its end, in batches."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_app.errors import ForeclickError

#: Called with a partition, keys, values, records read and records to read in all.
Apply = Callable[[int, Sequence[bytes], Sequence[bytes | None], int, int], Awaitable[None]]

FETCH_BYTES = 8 * 1024 * 1024
#: How long no record may come before recovery gives up, in seconds.
STALL_S = 60.0


class RecoveryError(ForeclickError):
    """The changelog could not be read to its end."""


class ChangelogReader:
    """A consumer outside any group for one changelog topic."""

    def __init__(self, brokers: Sequence[str], topic: str) -> None:
        self.topic = topic
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=list(brokers),
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_bytes=4 * FETCH_BYTES,
        )
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Connects."""
        await self._consumer.start()

    async def stop(self) -> None:
        """Disconnects."""
        await self._consumer.stop()

    async def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """The end offset of each partition."""
        tps = [TopicPartition(self.topic, p) for p in partitions]
        ends = await self._consumer.end_offsets(tps)
        return {tp.partition: end for tp, end in ends.items()}

    async def read(self, partitions: Iterable[int], apply: Apply) -> tuple[int, dict[int, int]]:
        """Hands every record up to the present ends to `apply`; returns how many there were, and the ends.

        Raises RecoveryError when nothing comes for a minute.
        """
        async with self._lock:
            tps = [TopicPartition(self.topic, p) for p in partitions]
            consumer = self._consumer
            consumer.assign(tps)
            try:
                begin = await consumer.beginning_offsets(tps)
                end = await consumer.end_offsets(tps)
                # `seek_to_beginning` right after `assign` may leave the position at the end, so that
                # nothing is read: seek to the numbers.
                for tp in tps:
                    consumer.seek(tp, begin[tp])
                count = await self._read(tps, begin, end, apply)
                return count, {tp.partition: offset for tp, offset in end.items()}
            finally:
                consumer.unsubscribe()

    async def _read(
        self,
        tps: list[TopicPartition],
        begin: dict[TopicPartition, int],
        end: dict[TopicPartition, int],
        apply: Apply,
    ) -> int:
        consumer = self._consumer
        total = sum(end[tp] - begin[tp] for tp in tps)
        left = {tp for tp in tps if end[tp] > begin[tp]}
        loop = asyncio.get_running_loop()
        count, quiet_since = 0, loop.time()
        while left:
            fetched = await consumer.getmany(*left, timeout_ms=500)
            for tp, records in fetched.items():
                # What was appended since belongs to whoever wrote it after us, or to nobody.
                wanted = [r for r in records if r.offset < end[tp]]
                count += len(wanted)
                if wanted:
                    keys = [r.key for r in wanted]
                    await apply(tp.partition, keys, [r.value for r in wanted], count, total)
            if fetched:
                quiet_since = loop.time()
            elif loop.time() - quiet_since > STALL_S:
                where = ", ".join(f"{tp.topic}-{tp.partition}" for tp in sorted(left))
                raise RecoveryError(f"no record came of {where} for {STALL_S:.0f} s: is the broker well?")
            left = {tp for tp in left if await consumer.position(tp) < end[tp]}
        return count
