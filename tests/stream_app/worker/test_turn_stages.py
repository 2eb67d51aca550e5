"""Batches from Kafka, as the apply stage takes them."""

import itertools

from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import Record
from stream_app.worker.transport.consumer_thread import FetchedBatch
from stream_app.worker.turn_stages import joined


@st.composite
def fetched(draw: st.DrawFn) -> list[FetchedBatch]:
    """Draw batches of three partitions, some of them empty; some begin beyond the end of the previous one."""
    ends, out = [0, 0, 0], []
    for partition in draw(st.lists(st.integers(0, 2), max_size=12)):
        start = ends[partition] + draw(st.sampled_from([0, 0, 0, 7]))
        n = draw(st.integers(0, 3))
        records = [
            Record("clicks", partition, start + i, 5, b"k%d" % i, b"v%d-%d" % (partition, start + i))
            for i in range(n)
        ]
        # A fetch also passes offsets without a record.
        ends[partition] = start + n + draw(st.integers(0, 2))
        columns = RecordColumns.of(records) if records else RecordColumns.none("clicks", partition)
        out.append(FetchedBatch(TP("clicks", partition), columns, start, ends[partition], 1, 1))
    return out


@given(fetched())
def test_batches_that_follow_on_each_other_are_one(batches: list[FetchedBatch]) -> None:
    """No record is lost or moved, and only a gap separates the batches of a partition."""
    found = joined(batches)
    for partition in range(3):
        before = [b for b in batches if b.tp.partition == partition]
        after = [b for b in found if b.tp.partition == partition]
        assert [r for b in after for r in b.records] == [r for b in before for r in b.records]
        gaps = [(a.next, b.start) for a, b in itertools.pairwise(before) if a.next != b.start]
        assert [(a.next, b.start) for a, b in itertools.pairwise(after)] == gaps
        if before:
            assert (after[0].start, after[-1].next) == (before[0].start, before[-1].next)
