"""The thread of the consumer: aiokafka fetches, sends heartbeats and commits here."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import aiokafka
from aiokafka.errors import KafkaError
from faust.exceptions import ImproperlyConfigured
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.threads import QueueServiceThread

from stream_app.contract.record_columns import RecordColumns
from stream_app.state.topic_identity import LogEnd
from stream_app.worker.transport.aiokafka_internals import heartbeat, stop_consumer
from stream_app.worker.transport.assignor import CopartitionedAssignor
from stream_app.worker.transport.fetch_hook import install_fetch_hook
from stream_app.worker.transport.group import watch_group

#: Longest time that the broker holds a fetch that finds nothing. Faust's default is 1,500 ms.
FETCH_MAX_WAIT_MS = 250


class FetchedBatch(NamedTuple):
    """Everything that one fetch returned for one partition."""

    tp: TP
    records: RecordColumns  #: may be empty
    start: int  #: the fetch position before the fetch: the first record is the next one from there; -1 if unknown
    next: int  #: the fetch position after the fetch: no record below it is still to come
    generation: int  #: of the consumer group
    seek: int  #: how many times the consumer had gone back to the committed offsets before the fetch


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread in which aiokafka fetches and sends heartbeats, so that no long step delays them."""

    mundane_level = "debug"  # of "Starting..." and "Stopping..."
    _own: Iterable[asyncio.Task[None]] = ()
    _committing: "asyncio.Task[bool] | None" = None

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        conf = self.app.conf
        if conf.broker_session_timeout > conf.broker_request_timeout:
            raise ImproperlyConfigured("the session timeout must not exceed the request timeout")
        self.assignor = CopartitionedAssignor(getattr(self.app, "standby_replicas", 0))
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[self.assignor],
            enable_auto_commit=False,
            auto_offset_reset=conf.consumer_auto_offset_reset,
            max_poll_interval_ms=int((conf.broker_max_poll_interval or 0) * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=FETCH_MAX_WAIT_MS,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            check_crcs=conf.broker_check_crcs,
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            isolation_level="read_committed",
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )

    async def on_start(self) -> None:
        """Connects, and starts to watch for stalls of this process and for trouble with the group."""
        await super().on_start()
        install_fetch_hook(self._ensure_consumer())
        self._group = watch_group(self.app, self.parent_loop, self._ensure_consumer())
        self._pulse_s = self.app.conf.broker_session_timeout / 10
        self._longest_stall_s = 0.0
        self._ticked = time.monotonic()
        self._own = [asyncio.create_task(each) for each in (self._group.run(), self._tick())]

    async def on_thread_stop(self) -> None:
        """Disconnects."""
        for task in self._own:
            task.cancel()
        # Not `super()`: Faust's override would also call the consumer's own `stop`.
        await QueueServiceThread.on_thread_stop(self)
        if self._consumer is not None:
            await stop_consumer(self._consumer)

    def close(self) -> None:
        """Does nothing. Faust calls this in a rebalance during the stop; its own method uses the wrong event loop."""

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._pulse_s)
            now = time.monotonic()
            self._longest_stall_s = max(self._longest_stall_s, now - self._ticked - self._pulse_s)
            self._ticked = now

    @property
    def longest_stall_s(self) -> float:
        """See `BatchConsumer.longest_stall_s`."""
        return max(self._longest_stall_s, time.monotonic() - self._ticked - self._pulse_s)

    async def is_member(self) -> bool:
        """See `BatchConsumer.is_member`."""
        return await self.call_thread(heartbeat, self._ensure_consumer())

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        self._committing = task = asyncio.ensure_future(super()._commit(offsets))
        await asyncio.wait([task])
        return False if task.cancelled() else task.result()

    def end_commit(self) -> None:
        """See `BatchConsumer.end_commit`."""
        if (task := self._committing) is not None:
            self.thread_loop.call_soon_threadsafe(task.cancel)

    async def fetch(self, active: set[TP], timeout: float) -> list[FetchedBatch]:
        """The records of the active partitions that arrive within `timeout` seconds."""
        return await self.call_thread(self._fetch, set(active), timeout)

    async def _fetch(self, active: set[TP], timeout: float) -> list[FetchedBatch]:
        if not self.consumer.flow_active:
            return []
        generation, seek = self.app.consumer_generation_id, self.consumer.seeks
        before = {tp: self._position(tp) for tp in active}
        consumer = self._ensure_consumer()
        try:
            fetched = await self._fetch_records(consumer, active, timeout=timeout, max_records=None)
        except KafkaError:
            if not self._group.in_trouble:
                raise
            return []  # an error of the group, which aiokafka also raises here; `GroupWatch` handles it
        return [
            FetchedBatch(
                TP(*tp),
                # A partition's records come in one piece.
                fetched[tp][0] if tp in fetched else RecordColumns.none(tp.topic, tp.partition),
                before[tp],
                self._position(tp),
                generation,
                seek,
            )
            for tp in active
            # A position that moved without records passed transaction markers or compacted records. If the position
            # did not move either, this was a part of a record that is too long to be delivered.
            if self._position(tp) > before[tp] >= 0 or any(map(len, fetched.get(tp, ())))
        ]

    async def seek_back(self) -> tuple[dict[TP, int | None], dict[TP, int]]:
        """Goes back to the committed offsets; returns them (None if there is none) and the new positions."""
        return await self.call_thread(self._seek_back)

    async def _seek_back(self) -> tuple[dict[TP, int | None], dict[TP, int]]:
        # aiokafka's `seek_to_committed` has three problems: it does not move a partition without a committed offset,
        # so dropped records would be lost; it fails if a rebalance comes between; and it fails without partitions.
        consumer = self._ensure_consumer()
        committed = {TP(*tp): await consumer.committed(tp) for tp in consumer.assignment()}
        begin = await consumer.beginning_offsets(list(committed)) if committed else {}
        positions: dict[TP, int] = {}
        for tp in consumer.assignment() & set(committed):
            # Retention may have deleted records after the committed offset.
            positions[TP(*tp)] = max(committed[tp] or 0, begin[tp])
            consumer.seek(tp, positions[tp])
        return committed, positions

    def _position(self, tp: TP) -> int:
        # `AIOKafkaConsumer.position()` reads the same value, but waits if there is none yet.
        state = self._state(tp)
        return state.position if state is not None and state.has_valid_position else -1

    def _state(self, tp: TP) -> Any:
        # Read the assignment only once: other threads call this too, and a rebalance may replace it.
        assignment = self._ensure_consumer()._subscription.subscription.assignment
        return assignment.state_value(tp) if assignment is not None and tp in assignment.tps else None

    def end_of(self, tp: TP) -> int | None:
        """See `BatchConsumer.end_of`."""
        state = self._state(tp)
        # The consumer reads committed records only, so records beyond the last stable offset cannot be read yet.
        return state.lso if state is not None else None

    def log_end(self, tp: TP) -> LogEnd | None:
        """See `BatchConsumer.log_end`."""
        state = self._state(tp)
        if state is None or state.lso is None or state.timestamp is None:
            return None
        return LogEnd(state.lso, state.highwater, state.timestamp)
