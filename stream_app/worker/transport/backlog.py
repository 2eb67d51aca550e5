"""The records that a worker has fetched but not processed, counted per input topic and partition. Pure."""

from collections.abc import Iterable

from faust.types import TP

from stream_app.contract.record_columns import RecordColumns
from stream_app.worker.transport.consumer_thread import FetchedBatch

#: Most records and bytes that a turn takes from the backlog. The limit is needed because each bad record costs a
#: Python object and an output message.
TURN_RECORDS, TURN_BYTES = 65_536, 32 << 20
#: If a turn writes more bytes of dead letters than this, the next turn waits until they are acknowledged.
MANY_BYTES = 4 << 20


class Budget:
    """Measures what is held in records. A large record counts as several, so one limit bounds records and bytes."""

    def __init__(self, records: int, total_bytes: int) -> None:
        """`records`: limit of one topic partition. `total_bytes`: limit of all together, which share it evenly."""
        self.records, self._total_bytes = records, total_bytes
        self._topic_partitions = 1

    def share_by(self, topic_partitions: int) -> None:
        """Sets the number of topic partitions."""
        self._topic_partitions = max(1, topic_partitions)

    def weight(self, records: int, held_bytes: int) -> int:
        """The number that `records` records count as if they hold this many bytes; 0 if nothing is held.

        However small the budget is, a topic partition that holds little may still fetch. So no partition is blocked
        by another one, and the merge never waits for a topic that is not fetched.
        """
        share = max(1, self._total_bytes // self._topic_partitions)
        return max(records, held_bytes * self.records // share)

    def weight_of(self, records: RecordColumns) -> int:
        """`weight` of these records."""
        return self.weight(len(records), records.held_bytes)


class Backlog:
    """The batches that wait for a turn, and the topic partitions that are paused because they hold too much."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.incoming: list[FetchedBatch] = []
        self._held: dict[TP, int] = {}  # records received but not processed, as `Budget` counts
        self._paused: set[TP] = set()

    @property
    def empty(self) -> bool:
        """Whether nothing is held, so that no turn has anything to process or to wait for."""
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
        """Removes and returns the batches of the next turn."""
        taken = first_of(self.incoming)
        batches, self.incoming = self.incoming[:taken], self.incoming[taken:]
        return batches

    def drop(self) -> None:
        """Forgets the batches that wait, and all counts."""
        self.incoming.clear()
        self._held.clear()

    def forget(self) -> None:
        """Forgets the paused topic partitions too."""
        self.drop()
        self._paused.clear()

    def recount(self, kept: Iterable[tuple[TP, int, int]]) -> set[TP]:
        """Counts again what each topic partition holds; returns the paused ones that are down to half their limit.

        `kept`: topic partition, records and bytes of what earlier turns took and have not processed.
        """
        held = {tp: self.budget.weight(records, size) for tp, records, size in kept}
        for batch in self.incoming:
            held[batch.tp] = held.get(batch.tp, 0) + self.budget.weight_of(batch.records)
        self._held = held
        drained = {tp for tp in self._paused if held.get(tp, 0) <= self.budget.records // 2}
        self._paused -= drained
        return drained


def first_of(batches: list[FetchedBatch]) -> int:
    """The number of batches that a turn takes, at least one."""
    records = held = 0
    for i, batch in enumerate(batches):
        records += len(batch.records)
        held += batch.records.held_bytes
        if i and (records > TURN_RECORDS or held > TURN_BYTES):
            return i
    return len(batches)
