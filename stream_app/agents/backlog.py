"""How much a worker holds of each input topic's partition, in records and in bytes. Pure."""

from stream_app.columns import RecordColumns
from stream_app.transport.consumer import FetchedBatch

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


def first_of(batches: list[FetchedBatch]) -> int:
    """How many of the batches a turn takes, one at the least."""
    records = held = 0
    for i, batch in enumerate(batches):
        records += len(batch.records)
        held += batch.records.held_bytes
        if i and (records > TURN_RECORDS or held > TURN_BYTES):
            return i
    return len(batches)
