"""Standby replicas: the state of partitions that other workers own, so that a takeover reads only the last records.

A standby follows the changelog of its partition. For the processor it is a partition that was never restored: nothing
of it is processed, predicted or written.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stream_app.contract.record_columns import RecordColumns
from stream_app.errors import ForeclickError
from stream_app.worker.changelog_reader import check_readable, reader_of
from stream_app.worker.transport.aiokafka_internals import stop_consumer
from stream_app.worker.transport.fetch_hook import install_fetch_hook

log = structlog.stdlib.get_logger(__name__)

#: Applies records of a partition to its standby.
Apply = Callable[[int, RecordColumns], Awaitable[None]]

_POLL_MS = 500
_AGAIN_S = 1.0


class Standby:
    """Follows the changelog of some partitions."""

    def __init__(self, topic: str, client: Mapping[str, Any], apply: Apply) -> None:
        """`client`: brokers and security, as an aiokafka client takes them."""
        self._topic, self._client, self._apply = topic, client, apply
        self._next: dict[int, int] = {}  # the first offset that a standby does not include
        self._following: asyncio.Task[None] | None = None

    @property
    def partitions(self) -> set[int]:
        """The partitions that are followed."""
        return set(self._next)

    async def follow(self, partitions: Iterable[int]) -> dict[int, int]:
        """Follows exactly these partitions from now on; returns the first offset not included of those let go.

        A partition that is new here is followed from the beginning of its changelog.
        """
        wanted = set(partitions)
        if wanted == self._next.keys():
            return {}
        await self.stop()
        let_go = {p: offset for p, offset in self._next.items() if p not in wanted}
        self._next = {p: self._next.get(p, 0) for p in wanted}
        if wanted:
            self._following = asyncio.create_task(self._follow())
        return let_go

    async def stop(self) -> None:
        """Stops reading; what was applied stays in memory."""
        task, self._following = self._following, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _follow(self) -> None:
        while True:
            consumer = AIOKafkaConsumer(**reader_of(self._client))
            try:
                await consumer.start()
                install_fetch_hook(consumer)
                await self._read(consumer)
            except (KafkaError, OSError) as error:
                log.warning("standbys wait for the broker", error=str(error) or type(error).__name__)
            except ForeclickError as error:
                log.warning("standbys cannot follow the changelog", error=str(error))
                # A worker that takes one of them over reads its whole changelog, and reports the error again.
                self._next = dict.fromkeys(self._next, 0)
                return
            finally:
                await stop_consumer(consumer)
            await asyncio.sleep(_AGAIN_S)

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        tps = [TopicPartition(self._topic, p) for p in sorted(self._next)]
        consumer.assign(tps)
        begin = await consumer.beginning_offsets(tps)
        for tp in tps:
            consumer.seek(tp, max(begin[tp], self._next[tp.partition]))
        while True:
            for tp, (records, *_) in (await consumer.getmany(*tps, timeout_ms=_POLL_MS)).items():
                check_readable(records)
                if records:
                    await self._apply(tp.partition, records)
                    self._next[tp.partition] = int(records.spans["offset"][-1]) + 1
