"""How much a worker buffers: one count for records and bytes."""

from faust.types import TP

from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import Record
from stream_app.worker.transport.backlog import TURN_BYTES, TURN_RECORDS, Backlog, Budget, first_of
from stream_app.worker.transport.consumer_thread import FetchedBatch


def test_large_records_count_as_several() -> None:
    """A topic partition is full by its records, or by its share of the bytes, whichever comes first."""
    budget = Budget(1000, 12 << 20)
    budget.share_by(12)
    assert budget.weight(1000, 1000) == 1000
    assert budget.weight(1, 1 << 20) == 1000
    assert budget.weight(1, 1 << 19) == 500
    assert budget.weight(0, 0) == 0  # so the smallest budget does not stop an empty partition
    budget.share_by(0)
    assert budget.weight(1, 12 << 20) == 1000


def fetched(records: int, value: bytes) -> FetchedBatch:
    columns = RecordColumns.of([Record("clicks", 0, i, 0, b"k", value) for i in range(records)])
    return FetchedBatch(TP("clicks", 0), columns, 0, records, 1, 0)


def test_a_turn_takes_some() -> None:
    """At least one batch, and no more than some records or bytes."""
    few, large = fetched(3, b"v"), fetched(1, bytes(TURN_BYTES + 1))
    many = fetched(TURN_RECORDS // 2 + 1, b"")
    assert first_of([]) == 0
    assert first_of([few] * 5) == 5
    assert first_of([large, large]) == 1
    assert first_of([few, large, few]) == 1
    assert first_of([many, many]) == 1


def test_full_topic_partitions_pause_until_half_is_left() -> None:
    """A full partition is paused once; waiting and taken records count; at half of the limit it continues."""
    tp, backlog = TP("clicks", 0), Backlog(Budget(10, 1 << 30))
    assert backlog.empty
    assert [backlog.add(fetched(4, b"v")) for _ in range(4)] == [False, False, True, False]
    assert not backlog.empty
    assert len(backlog.take()) == 4 and not backlog.incoming
    assert backlog.recount([(tp, 6, 100)]) == set()
    assert not backlog.add(fetched(2, b"v"))
    assert backlog.recount([(tp, 4, 100)]) == set()  # the two waiting ones count too
    backlog.drop()
    assert backlog.empty and not backlog.incoming
    assert backlog.recount([(tp, 5, 100)]) == {tp}
    assert backlog.add(fetched(10, b"v"))
    backlog.forget()
    assert backlog.recount([]) == set()
