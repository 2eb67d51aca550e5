"""The consumer: fetches record batches, delivers them whole, commits ranges of offsets.

Replaces three parts of Faust's per-message path (names of Faust 0.15.3, `faust/transport/consumer.py`):
`_drain_messages`, which wraps each record in four tasks; the acknowledgement lists behind `_new_offset`; and
`_wait_next_records`, which sleeps for a second when no partition is active.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import aiokafka
from aiokafka.errors import KafkaError
from faust.exceptions import ImproperlyConfigured
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage
from mode.threads import QueueServiceThread
from mode.utils.futures import notify

from stream_app.contract.record_columns import RecordColumns
from stream_app.state.topic_identity import LogEnd
from stream_app.worker.transactions.transactional_producer import Member
from stream_app.worker.transport.aiokafka_internals import heartbeat, member_of, stop_consumer
from stream_app.worker.transport.assignor import CopartitionedAssignor
from stream_app.worker.transport.fetch_hook import install_fetch_hook
from stream_app.worker.transport.group import watch_group

#: Longest time the broker holds a fetch that finds nothing. Faust has 1,500 ms.
FETCH_MAX_WAIT_MS = 250
#: How long a drain waits for records or for a partition to be resumed before it looks around again.
POLL_S = 0.5
#: How often the drain looks whether a rebalance is over.
REBALANCE_POLL_S = 0.01
#: How long it waits for records while a partition is paused: a fetch under way does not see it resumed.
PAUSED_POLL_S = 0.02
#: Share of the session timeout that the commit at a revoke may take, before the checkpoint that follows it.
COMMIT_SHARE = 0.25
#: A fetch that brings fewer records is followed by a pause.
FEW_RECORDS = 2048


class FetchedBatch(NamedTuple):
    """What one fetch brought of one partition."""

    tp: TP
    records: RecordColumns  #: all of them; there may be none
    start: int  #: the fetch position before: no record lies between it and the first one; -1 if not known
    next: int  #: the fetch position after: nothing below it is still to come
    generation: int  #: of the consumer group
    seek: int  #: how many times the consumer had gone back to the committed offsets


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
        """Connects, and begins to watch its own pulse and its membership of the group."""
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
        await QueueServiceThread.on_thread_stop(self)  # Faust's own then calls `stop` of the consumer
        if self._consumer is not None:
            await stop_consumer(self._consumer)

    def close(self) -> None:
        """Nothing: Faust calls this in a rebalance during the stop, and its own closes on a wrong loop."""

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
        """What has arrived of the active partitions, waiting at most `timeout` seconds."""
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
            return []  # aiokafka tells it whoever waits for records; `GroupWatch` deals with it
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
            # A position that moved without records passed transaction markers or compacted records; one that did not,
            # a part of a record that is too long to be handed out.
            if self._position(tp) > before[tp] >= 0 or any(map(len, fetched.get(tp, ())))
        ]

    async def seek_back(self) -> tuple[dict[TP, int | None], dict[TP, int]]:
        """Goes back to the committed offsets; returns them, None where there is none, and where it went."""
        return await self.call_thread(self._seek_back)

    async def _seek_back(self) -> tuple[dict[TP, int | None], dict[TP, int]]:
        # aiokafka's own leaves a partition of which nothing was committed where it is, which would lose what
        # was fetched of it and dropped; it fails where a rebalance is faster; and without any partition.
        consumer = self._ensure_consumer()
        committed = {TP(*tp): await consumer.committed(tp) for tp in consumer.assignment()}
        begin = await consumer.beginning_offsets(list(committed)) if committed else {}
        positions: dict[TP, int] = {}
        for tp in consumer.assignment() & set(committed):
            # Retention may have removed what follows on the committed offset.
            positions[TP(*tp)] = max(committed[tp] or 0, begin[tp])
            consumer.seek(tp, positions[tp])
        return committed, positions

    def _position(self, tp: TP) -> int:
        # `AIOKafkaConsumer.position()` reads the same value but waits for one that is not there yet.
        state = self._state(tp)
        return state.position if state is not None and state.has_valid_position else -1

    def _state(self, tp: TP) -> Any:
        # In one step, since other threads ask too: a rebalance may put another assignment in its place.
        assignment = self._ensure_consumer()._subscription.subscription.assignment
        return assignment.state_value(tp) if assignment is not None and tp in assignment.tps else None

    def end_of(self, tp: TP) -> int | None:
        """See `BatchConsumer.end_of`."""
        state = self._state(tp)
        # Reading committed records only, what lies beyond the last stable offset cannot be read yet.
        return state.lso if state is not None else None

    def log_end(self, tp: TP) -> LogEnd | None:
        """See `BatchConsumer.log_end`."""
        state = self._state(tp)
        if state is None or state.lso is None or state.timestamp is None:
            return None
        return LogEnd(state.lso, state.highwater, state.timestamp)


class BatchConsumer(driver.Consumer):
    """Delivers a `FetchedBatch` as the value of one message."""

    mundane_level = "debug"  # of "Starting..." and "Stopping..."

    _thread: BatchConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Next offset to commit of each partition: all below it is in the state and published.
        self.done: dict[TP, int] = {}
        self._expected: dict[TP, int] = {}  # where the next batch of a partition must start
        self._dropped = False  # a fetched batch, so that the fetch position is too far
        #: How many times it went back to the committed offsets. What was fetched before the last time is void.
        self.seeks = 0
        #: The committed offsets at the first seek after an assignment; None for a partition without one.
        self.found: dict[TP, int | None] = {}
        self._resumed = asyncio.Event()
        #: How long records may gather before the next fetch, after one that brought few; in seconds.
        self.gather_s = getattr(self.app, "gather_s", 0.0)

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # --- commits: a range, not a list of acknowledged messages

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return iter([tp for tp in self.done if topics is None or tp in topics or tp.topic in topics])

    def _new_offset(self, tp: TP) -> int | None:
        return self.done.get(tp)

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        # Faust flushes the producer here, which waits for outputs of later micro-batches too. `done` moves
        # only when everything below it is acknowledged.
        assigned = self.assignment()
        offsets = {tp: offset for tp, offset in offsets.items() if tp in assigned}
        if not offsets or not await self._commit(offsets):
            return False
        self._committed_offset.update(offsets)
        return True

    def _should_commit(self, tp: TP, offset: int) -> bool:
        committed = self._committed_offset[tp]
        return committed is None or offset > committed

    def end_commit(self) -> None:
        """Ends a commit that waits for the broker, so that it is not tried again in a later generation."""
        self._thread.end_commit()

    async def wait_empty(self) -> None:
        """Waits until no batch is in the hands of the agent, then commits, for a limited time.

        Faust calls this at a revoke, and itself commits with no limit on the time.
        """
        while not self.should_stop and self._unacked_messages:
            await self._wait_for_ack(timeout=1)
            self._clean_unacked_messages()
        committing = asyncio.ensure_future(self.commit_and_end_transactions())
        await asyncio.wait([committing], timeout=COMMIT_SHARE * self.app.conf.broker_session_timeout)
        if committing.done():
            committing.result()
        else:
            self.end_commit()
            await asyncio.wait([committing])

    def ack(self, message: ConsumerMessage) -> bool:
        """Takes the message off the list of those in work; what is committed is `done`'s affair."""
        message.acked = True
        self._unacked_messages.discard(message)
        notify(self._waiting_for_ack)  # a rebalance may be waiting for the last one
        return True

    # --- rebalances

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Everything delivered so far belongs to the generation that ends here."""
        await super().on_partitions_revoked(revoked)
        self._expected.clear()
        self.done.clear()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Nothing is delivered before the seek that ends the rebalance has said where to begin."""
        self._expected.clear()
        self.done.clear()
        self.found = {}
        await super().on_partitions_assigned(assigned, generation_id)

    async def seek_to_committed(self) -> Mapping[TP, int | None]:
        """Back to the committed offsets, which are returned: all that was fetched beyond them comes again."""
        self.seeks += 1
        self._expected.clear()  # nothing is delivered until it is known where to go on
        found = self.found  # another one after an assignment
        committed, positions = await self._thread.seek_back()
        self._expected.update(positions)
        found.update({tp: offset for tp, offset in committed.items() if tp not in found})
        return committed

    # --- membership

    def member(self) -> Member:
        """Who this is in the group at the moment."""
        return member_of(self._thread._ensure_consumer())

    async def is_member(self) -> bool:
        """Asks the group whether it still takes this process for a member."""
        return await self._thread.is_member()

    @property
    def copies(self) -> set[int]:
        """Partitions of other members whose state this one is to copy."""
        return set(self._thread.assignor.copies)

    # --- flow

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Resume fetching, at once."""
        super().resume_partitions(tps)
        self._resumed.set()

    def resume_flow(self) -> None:
        """Let the drain go on, at once."""
        super().resume_flow()
        self._resumed.set()

    @property
    def longest_stall_s(self) -> float:
        """The longest time for which this process stood still and sent no heartbeat, since it started.

        A process that was frozen for longer than its session timeout has lost its partitions without being
        told yet.
        """
        return self._thread.longest_stall_s

    def end_of(self, tp: TP) -> int | None:
        """End of the partition as the broker told it with the last fetch, None before the first."""
        return self._thread.end_of(tp)

    def log_end(self, tp: TP) -> LogEnd | None:
        """What the broker told of the partition's end with the last fetch, None before the first."""
        return self._thread.log_end(tp)

    # --- the drain

    async def _drain_messages(self, fetcher: Any) -> None:
        def stopping() -> bool:
            return self._stopped.is_set() or fetcher._stopped.is_set()

        try:
            while not stopping():
                await self._drain_once(stopping)
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise

    async def _drain_once(self, stopping: Callable[[], bool]) -> None:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
            return
        if self.app.rebalancing:
            # With tables Faust resumes the flow before the rebalance is over, and at its end clears the
            # queues of the agents: what is delivered before that may vanish.
            await self.sleep(REBALANCE_POLL_S)
            return
        if self._dropped:
            # The fetch position has moved past records that nobody will process: back, before the next fetch. That a
            # rebalance seeks too is not enough, since it may have done so before that fetch returned.
            await self.perform_seek()
            self._dropped = False
        active = self._get_active_partitions()
        if not active:
            self._resumed.clear()
            await self.wait_first(self._resumed.wait(), self._stopped.wait(), timeout=POLL_S)
            return
        batches = await self._thread.fetch(active, PAUSED_POLL_S if self._paused_partitions else POLL_S)
        if stopping() or not batches:
            return
        if not self._belongs(batches):
            self._dropped = True
            return
        for batch in batches:
            message = ConsumerMessage(
                batch.tp.topic,
                batch.tp.partition,
                batch.next - 1,
                batch.records.spans["timestamp"][-1].item() / 1000 if batch.records else None,
                None,
                [],
                None,
                batch,
                None,
                0,
                0,
                batch.tp,
                generation_id=batch.generation,
            )
            # Faust's compiled stream does not call `ack` but notes each message here, and never forgets it
            # before the partition goes (`faust/_cython/streams.pyx`, `after`). Nothing of ours reads these.
            self._acked_index[batch.tp].clear()
            self._acked[batch.tp].clear()
            await self.callback(message)
            self._read_offset[batch.tp] = batch.next - 1
            self._expected[batch.tp] = batch.next
        if sum(len(batch.records) for batch in batches) < FEW_RECORDS:
            # A fetch costs much the same for one record as for hundreds: let some gather.
            await asyncio.sleep(self.gather_s)

    def _belongs(self, batches: list[FetchedBatch]) -> bool:
        """Whether these batches are of the current generation and follow on what was delivered before.

        A jump in offsets says nothing (compaction and transaction markers make them too); the fetch
        positions do: a batch that does not start where the last one ended, or where the last seek went,
        means that something before it was dropped. Going on behind it would commit past what was lost.
        """
        if not self.flow_active or self.app.rebalancing:
            return False
        now = (self.app.consumer_generation_id, self.seeks)
        if any((b.generation, b.seek) != now for b in batches):
            return False
        return all(self._expected.get(b.tp) == b.start for b in batches)
