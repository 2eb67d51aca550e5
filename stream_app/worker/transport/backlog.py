"""What a worker has fetched and not processed, and how much that is of each input topic's partition. Pure."""

from collections.abc import Iterable

from faust.types import TP

from stream_app.contract.record_columns import RecordColumns
from stream_app.worker.transport.consumer_thread import FetchedBatch

#: What a turn takes at most of what has come, in records and bytes: each bad record among them is an object and a
#: message.
TURN_RECORDS, TURN_BYTES = 65_536, 32 << 20
#: Bytes of dead letters of one turn, after which the next one waits until they are acknowledged.
MANY_BYTES = 4 << 20


class Budget:
    """Counts what is held in records, a large one as several: so that one limit bounds records and bytes."""

    def __init__(self, records: int, total_bytes: int) -> None:
        """`records`: of one topic partition; `total_bytes`: of all of them, who share it evenly."""
        self.records, self._total_bytes = records, total_bytes
        self._topic_partitions = 1

    def share_by(self, topic_partitions: int) -> None:
        """Tells how many topic partitions there are."""
        self._topic_partitions = max(1, topic_partitions)

    def weight(self, records: int, held_bytes: int) -> int:
        """What counts as `records` where it holds so many bytes. A partition that holds nothing weighs nothing.

        However small the budget is, a topic partition gets a piece of a fetch where it holds little. So none stands
        still because of another one, which the merge may be waiting for.
        """
        share = max(1, self._total_bytes // self._topic_partitions)
        return max(records, held_bytes * self.records // share)

    def weight_of(self, records: RecordColumns) -> int:
        """As `weight`."""
        return self.weight(len(records), records.held_bytes)


class Backlog:
    """The batches that wait for a turn, and which topic partitions hold so much that nothing more is fetched."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.incoming: list[FetchedBatch] = []
        self._held: dict[TP, int] = {}  # records received but not processed, by the budget's count
        self._paused: set[TP] = set()

    @property
    def empty(self) -> bool:
        """Whether nothing is held that a turn could process, or wait for."""
        return not self._held

    def add(self, batch: FetchedBatch) -> bool:
        """Takes a batch in; returns whether that fills its topic partition, which then has to be paused."""
        self.incoming.append(batch)
        held = self._held.get(batch.tp, 0) + self.budget.weight_of(batch.records)
        self._held[batch.tp] = held
        if held < self.budget.records or batch.tp in self._paused:
            return False
        self._paused.add(batch.tp)
        return True

    def take(self) -> list[FetchedBatch]:
        """The batches of the next turn, which wait no longer."""
        taken = first_of(self.incoming)
        batches, self.incoming = self.incoming[:taken], self.incoming[taken:]
        return batches

    def drop(self) -> None:
        """Forgets the batches that wait, and all counts."""
        self.incoming.clear()
        self._held.clear()

    def forget(self) -> None:
        """Forgets also what is paused."""
        self.drop()
        self._paused.clear()

    def recount(self, kept: Iterable[tuple[TP, int, int]]) -> set[TP]:
        """Counts again what each topic partition holds; returns those that have drained to half and go on.

        `kept`: topic partition, records and bytes of what was taken before and is not processed.
        """
        held = {tp: self.budget.weight(records, size) for tp, records, size in kept}
        for batch in self.incoming:
            held[batch.tp] = held.get(batch.tp, 0) + self.budget.weight_of(batch.records)
        self._held = held
        drained = {tp for tp in self._paused if held.get(tp, 0) <= self.budget.records // 2}
        self._paused -= drained
        return drained


def first_of(batches: list[FetchedBatch]) -> int:
    """How many of the batches a turn takes, one at the least."""
    records = held = 0
    for i, batch in enumerate(batches):
        records += len(batch.records)
        held += batch.records.held_bytes
        if i and (records > TURN_RECORDS or held > TURN_BYTES):
            return i
    return len(batches)
