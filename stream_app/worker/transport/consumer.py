"""The consumer: fetches record batches, delivers them whole, commits ranges of offsets.

Replaces three parts of Faust's per-message path (names of Faust 0.15.3, `faust/transport/consumer.py`):
`_drain_messages`, which wraps each record in four tasks; the acknowledgement lists behind `_new_offset`; and
`_wait_next_records`, which sleeps for a second when no partition is active.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage
from mode.utils.futures import notify

from stream_app.state.topic_identity import LogEnd
from stream_app.worker.transactions.transactional_producer import Member
from stream_app.worker.transport.aiokafka_internals import member_of
from stream_app.worker.transport.consumer_thread import BatchConsumerThread, FetchedBatch

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
