"""Records as columns: the same records come out, all, in part or one by one."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.contract.outputs import dead_letter
from stream_app.contract.received import RECEIVED_HEADER, received_of
from stream_app.contract.record_columns import MOST_HEADERS, RecordColumns, read_headers, write_headers
from stream_app.contract.records import Record
from tests.stream_app.strategies import a_decoder

_PART = st.one_of(st.none(), st.binary(max_size=200))
_HEADERS = st.lists(st.tuples(st.text(max_size=70), _PART), max_size=70).map(tuple)


@st.composite
def records(draw: st.DrawFn) -> list[Record]:
    """Draw at least one record of a partition, with rising offsets."""
    offset, out = draw(st.integers(0, 1 << 50)), []
    for _ in range(draw(st.integers(1, 12))):
        headers = draw(st.one_of(st.just(()), _HEADERS))
        out.append(
            Record("clicks", 2, offset, draw(st.integers(-1, 1 << 45)), draw(_PART), draw(_PART), headers)
        )
        offset += draw(st.integers(1, 100))
    return out


@settings(deadline=None)
@given(records())
def test_records_come_back(given_records: list[Record]) -> None:
    """Offsets, times, keys, values (None and empty differ) and headers are the same, by iteration and by index."""
    columns = RecordColumns.of(given_records)
    assert len(columns) == len(given_records)
    assert list(columns) == given_records
    assert columns[-1] == given_records[-1]
    assert columns.keys() == [r.key for r in given_records]
    assert columns.values() == [r.value for r in given_records]


@settings(deadline=None)
@given(records(), st.data())
def test_parts_share_the_buffer(given_records: list[Record], data: st.DataObject) -> None:
    """A slice, and the records below or from an offset, equal those of the list; no bytes are copied."""
    columns = RecordColumns.of(given_records)
    a, b = data.draw(st.integers(-14, 14)), data.draw(st.integers(-14, 14))
    assert list(columns[a:b]) == given_records[a:b]
    last = given_records[-1].offset
    offset = data.draw(
        st.one_of(st.sampled_from([r.offset for r in given_records]), st.integers(0, last + 5))
    )
    assert list(columns.since(offset)) == [r for r in given_records if r.offset >= offset]
    assert list(columns.below(offset)) == [r for r in given_records if r.offset < offset]
    assert columns.since(offset).data is columns.data


@settings(deadline=None)
@given(records(), st.integers(0, 12), st.integers(0, 12))
def test_parts_become_one(given_records: list[Record], one: int, two: int) -> None:
    """Several columns are joined, including headers, empty and missing values."""
    first, second = sorted((one, two))
    parts = [given_records[:first], given_records[first:second], given_records[second:]]
    columns = [RecordColumns.of(p) if p else RecordColumns.none("clicks", 2) for p in parts]
    assert list(RecordColumns.concat(columns)) == given_records


def test_none() -> None:
    """Empty columns are false, like an empty list, and have keys and slices."""
    nothing = RecordColumns.none("clicks", 1)
    assert not nothing
    assert list(nothing) == nothing.keys() == nothing.values() == []
    assert not nothing.since(0) and not nothing.below(9) and not nothing[:3]


@given(_HEADERS)
def test_headers_come_back(headers: tuple[tuple[str, bytes], ...]) -> None:
    """Draw any number of headers, with values or None, in message format v2."""
    assert read_headers(write_headers(headers)) == headers


def test_a_name_that_is_no_text() -> None:
    """A header whose name is not UTF-8 causes no error."""
    assert read_headers(b"\x02\x04\xff!\x02v") == (("\ufffd!", b"v"),)


@pytest.mark.parametrize(
    "packed, name",
    [
        (b"\x02\x82\x80\x80\x80\x70h\x01", "h"),  # a length with bits beyond the 32nd, which are dropped
        (b"\x02\x06\xed\xa0\x80\x01", "\ufffd"),
        (b"\x02\x06\xed\xa0h\x01", "\ufffdh"),
        (b"\x02\x06\xe2\x82h\x01", "\ufffdh"),
        (b"\x02\x06\xf5\x80h\x01", "\ufffd\ufffdh"),
    ],
)
def test_names_of_headers_as_java_reads_them(packed: bytes, name: str) -> None:
    """Lengths of 32 bits, and one replacement character for half a character of UTF-16."""
    assert read_headers(packed) == ((name, None),)


@pytest.mark.parametrize("more", [0, 1])
def test_of_very_many_headers_a_dead_letter_only_tells(more: int) -> None:
    """Up to a limit all headers are kept; beyond it, only their count, length and hash, and the received time."""
    headers = [("a", b"1")] * (MOST_HEADERS - 2 + more)
    headers[3:3] = [(RECEIVED_HEADER, b"1700000000007"), (RECEIVED_HEADER, b"1700000000005")]
    record = Record("clicks", 0, 5, 1_700_000_000_009, b"u", b"no JSON", tuple(headers))
    records = RecordColumns.of([record, record._replace(offset=6, headers=())])
    events, bad = a_decoder().decode(0, records)
    assert not len(events)
    few = bad[0].record
    assert few == (record._replace(headers=((RECEIVED_HEADER, b"1700000000005"),)) if more else record)
    assert received_of(few) == received_of(record)
    assert not bad[1].details
    told = dict(dead_letter(bad[0])[2])
    assert told.get("foreclick.headers.dropped") == (b"%d" % len(headers) if more else None)
    if more:
        packed = write_headers(record.headers)
        assert told["foreclick.headers.length"] == b"%d" % len(packed)
        assert told["foreclick.headers.sha256"] == hashlib.sha256(packed).hexdigest().encode()
