"""Reads the changelog of some partitions from its beginning to its end, in batches."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_app.contract.record_columns import RecordColumns
from stream_app.worker.errors import RecoveryError
from stream_app.worker.transport.aiokafka_internals import stop_consumer
from stream_app.worker.transport.fetch_hook import install_fetch_hook

#: Called with a partition, some of its records, the number of records read so far (including these), and an upper
#: bound of their total number.
Apply = Callable[[int, RecordColumns, int, int], Awaitable[None]]

#: Largest fetch of one partition. The next fetch runs while the previous one is applied, so twice as much is held.
FETCH_BYTES = 8 * 1024 * 1024
#: Recovery gives up if no record arrives for this long, in seconds.
STALL_S = 60.0
_POLL_MS = 500
#: How long the broker holds a fetch that finds nothing. It is short because each reading ends with such a fetch, and
#: the next reading waits for it on the same connection.
_FETCH_WAIT_MS = 50


def reader_of(client: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a consumer that reads a changelog. `client`: brokers and security."""
    return {
        **client,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "max_partition_fetch_bytes": FETCH_BYTES,
        "fetch_max_bytes": 4 * FETCH_BYTES,
    }


def check_readable(records: RecordColumns) -> None:
    """Raises RecoveryError if a batch of a changelog is unreadable: workers, the only writers, never write such."""
    for bad in records.aside:
        raise RecoveryError(
            f"the changelog {records.topic}-{records.partition} holds a batch at offset {bad.record.offset} that "
            f"cannot be read ({bad.expected}) and that no worker wrote: find out who else may write there, and start "
            "the workers with another FORECLICK_GROUP"
        )


class ChangelogReader:
    """A consumer outside any group for one changelog topic."""

    def __init__(self, topic: str, **client: Any) -> None:
        """`client`: brokers and security, as an aiokafka client takes them."""
        self.topic = topic
        self._consumer = AIOKafkaConsumer(**reader_of(client), fetch_max_wait_ms=_FETCH_WAIT_MS)
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Connects."""
        await self._consumer.start()
        install_fetch_hook(self._consumer)

    async def stop(self) -> None:
        """Disconnects."""
        await stop_consumer(self._consumer)

    async def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """The end offset of each partition."""
        tps = [TopicPartition(self.topic, p) for p in partitions]
        ends = await self._consumer.end_offsets(tps)
        return {tp.partition: end for tp, end in ends.items()}

    async def input_ends(self, topics: Sequence[str], partitions: Iterable[int]) -> dict[int, list[int]]:
        """The end offsets of other topics, in their order, for each partition."""
        wanted = list(partitions)
        ends = await self._consumer.end_offsets([TopicPartition(t, p) for t in topics for p in wanted])
        return {p: [ends[TopicPartition(t, p)] for t in topics] for p in wanted}

    async def read(
        self, partitions: Iterable[int], apply: Apply, start: Mapping[int, int] = MappingProxyType({})
    ) -> tuple[int, dict[int, int]]:
        """Passes all records up to the current ends to `apply`; returns the number of records, and the ends.

        `start`: the offset to begin with, for some partitions; the others are read from their first record. The next
        fetch runs while `apply` is awaited. Raises RecoveryError if no record arrives for a minute.
        """
        async with self._lock:
            tps = [TopicPartition(self.topic, p) for p in partitions]
            consumer = self._consumer
            consumer.assign(tps)
            try:
                begin = await consumer.beginning_offsets(tps)
                begin = {tp: max(offset, start.get(tp.partition, 0)) for tp, offset in begin.items()}
                end = await consumer.end_offsets(tps)
                # Seek to explicit offsets: `seek_to_beginning` right after `assign` may leave the position at the
                # end, so that nothing would be read.
                for tp in tps:
                    consumer.seek(tp, begin[tp])
                count = await self._read(begin, end, apply)
                return count, {tp.partition: offset for tp, offset in end.items()}
            finally:
                consumer.unsubscribe()

    async def _read(
        self, begin: dict[TopicPartition, int], end: dict[TopicPartition, int], apply: Apply
    ) -> int:
        total = sum(end[tp] - begin[tp] for tp in end)
        left = {tp for tp in end if end[tp] > begin[tp]}
        if not left:
            return 0
        loop = asyncio.get_running_loop()
        count, quiet_since = 0, loop.time()
        ahead = loop.create_task(self._fetch(left))
        try:
            while left:
                fetched = await ahead
                left = {tp for tp in left if await self._consumer.position(tp) < end[tp]}
                if left:
                    ahead = loop.create_task(self._fetch(left))
                for tp, records in fetched.items():
                    # Records after the end were appended after the reading began, by other owners: ignore them.
                    wanted = records.below(end[tp])
                    check_readable(wanted)
                    count += len(wanted)
                    if wanted:
                        await apply(tp.partition, wanted, count, total)
                if fetched:
                    quiet_since = loop.time()
                elif loop.time() - quiet_since > STALL_S:
                    where = ", ".join(f"{tp.topic}-{tp.partition}" for tp in sorted(left))
                    raise RecoveryError(f"no record of {where} came for {STALL_S:.0f} s: check the broker")
        finally:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)  # its error, if any, was raised above
        return count

    async def _fetch(self, tps: set[TopicPartition]) -> dict[TopicPartition, RecordColumns]:
        fetched = await self._consumer.getmany(*tps, timeout_ms=_POLL_MS)
        # The fetch hook returns the records of each partition as one piece.
        return {tp: records[0] for tp, records in fetched.items()}
