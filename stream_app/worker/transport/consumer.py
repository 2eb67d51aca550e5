"""The consumer: fetches record batches, delivers them whole, and commits one offset per partition.

It replaces three parts of Faust's path of single messages (names of Faust 0.15.3, `faust/transport/consumer.py`):
`_drain_messages`, which wraps each record in four tasks; the acknowledgement lists used by `_new_offset`; and
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
from stream_app.worker.producers.transactional_producer import Member
from stream_app.worker.transport.aiokafka_internals import member_of
from stream_app.worker.transport.consumer_thread import BatchConsumerThread, FetchedBatch

#: How long the drain waits for records, or for a partition to be resumed, before it checks all conditions again.
POLL_S = 0.5
#: Seconds between two checks of the drain whether a rebalance is over.
REBALANCE_POLL_S = 0.01
#: The same while a partition is paused. It is short because a fetch under way ignores partitions resumed meanwhile.
PAUSED_POLL_S = 0.02
#: Share of the session timeout that Faust's commit at a revoke may take. Our checkpoint follows it.
COMMIT_SHARE = 0.25
#: A fetch that brings fewer records is followed by a pause.
FEW_RECORDS = 2048


class BatchConsumer(driver.Consumer):
    """Delivers a `FetchedBatch` as the value of one message."""

    mundane_level = "debug"  # of "Starting..." and "Stopping..."

    _thread: BatchConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Next offset to commit of each partition: all events below it are in the state and their outputs published.
        self.done: dict[TP, int] = {}
        self._expected: dict[TP, int] = {}  # where the next batch of a partition must start
        self._dropped = False  # whether a fetched batch was dropped, so the fetch position is too far ahead
        #: How many times the consumer went back to the committed offsets. Earlier fetched batches are void.
        self.seeks = 0
        #: The committed offsets at the first seek after an assignment; None for a partition without one.
        self.found: dict[TP, int | None] = {}
        self._resumed = asyncio.Event()
        #: How long records may gather before the next fetch, after one that brought few; in seconds.
        self.gather_s = getattr(self.app, "gather_s", 0.0)

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # --- commits: the offset in `done`, not a list of acknowledged messages

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
        """Waits until the agent has taken over all batches, then commits with a time limit.

        Faust calls this at a revoke. Its own method would commit without a time limit.
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
        """Removes the message from the unacknowledged ones. It does not affect what is committed: see `done`."""
        message.acked = True
        self._unacked_messages.discard(message)
        notify(self._waiting_for_ack)  # a rebalance may be waiting for the last message
        return True

    # --- rebalances

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Clears the offsets: everything delivered so far belongs to the generation that ends here."""
        await super().on_partitions_revoked(revoked)
        self._expected.clear()
        self.done.clear()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Clears the offsets: nothing is delivered until the seek at the end of the rebalance sets the positions."""
        self._expected.clear()
        self.done.clear()
        self.found = {}
        await super().on_partitions_assigned(assigned, generation_id)

    async def seek_to_committed(self) -> Mapping[TP, int | None]:
        """Goes back to the committed offsets and returns them; all records after them are fetched again."""
        self.seeks += 1
        self._expected.clear()  # nothing is delivered until the new positions are known
        found = self.found  # an assignment during the seek replaces `self.found`
        committed, positions = await self._thread.seek_back()
        self._expected.update(positions)
        found.update({tp: offset for tp, offset in committed.items() if tp not in found})
        return committed

    # --- membership

    def member(self) -> Member:
        """This consumer's current identity in the group."""
        return member_of(self._thread._ensure_consumer())

    async def is_member(self) -> bool:
        """Asks the group whether this process is still a member."""
        return await self._thread.is_member()

    @property
    def standbys(self) -> set[int]:
        """Partitions of other members for which this one is a standby."""
        return set(self._thread.assignor.standbys)

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
        """The longest time since the start for which this process was frozen and sent no heartbeat.

        A process that was frozen for longer than its session timeout has lost its partitions, but may not have
        learned of it yet.
        """
        return self._thread.longest_stall_s

    def end_of(self, tp: TP) -> int | None:
        """The end of the partition that the broker gave with the last fetch; None before the first fetch."""
        return self._thread.end_of(tp)

    def log_end(self, tp: TP) -> LogEnd | None:
        """What the broker said about the partition's end in the last fetch; None before the first fetch."""
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
            # Faust may resume the flow before the rebalance is over, and clears the agents' queues at its end.
            # Records that are delivered before that may be lost.
            await self.sleep(REBALANCE_POLL_S)
            return
        if self._dropped:
            # The fetch position has moved past records that were dropped, so go back before the next fetch. The seek
            # of a rebalance is not enough: it may have happened before that fetch returned.
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
            # Faust's compiled stream (`faust/_cython/streams.pyx`, `after`) does not call `ack`. It adds each message
            # to these lists and never removes it while the partition is assigned. None of our code reads them.
            self._acked_index[batch.tp].clear()
            self._acked[batch.tp].clear()
            await self.callback(message)
            self._read_offset[batch.tp] = batch.next - 1
            self._expected[batch.tp] = batch.next
        if sum(len(batch.records) for batch in batches) < FEW_RECORDS:
            # A fetch costs almost the same for one record as for hundreds, so let some records gather first.
            await asyncio.sleep(self.gather_s)

    def _belongs(self, batches: list[FetchedBatch]) -> bool:
        """Whether these batches are of the current generation and continue what was delivered before.

        The fetch positions decide this, not the offsets of the records: compaction and transaction markers make gaps
        in offsets too. A batch that starts neither where the last one ended nor where the last seek went shows that
        earlier records were dropped. To continue after it would commit offsets beyond the lost records.
        """
        if not self.flow_active or self.app.rebalancing:
            return False
        now = (self.app.consumer_generation_id, self.seeks)
        if any((b.generation, b.seek) != now for b in batches):
            return False
        return all(self._expected.get(b.tp) == b.start for b in batches)
