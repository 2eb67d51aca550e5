"""When a record was first stored: its Kafka timestamp, and the header that `replay` adds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.contract.events import BadRecord, Event, encode_json
from stream_app.contract.outputs import dead_letter
from stream_app.contract.received import RECEIVED_HEADER, UNKNOWN, received_of, with_received
from stream_app.contract.received_kernel import received_time
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import CLICK, Headers, Record
from stream_app.kernels.jit import jit
from stream_app.kernels.memory import pointer_to
from tests.stream_app.strategies import T0, a_decoder


@jit
def _each(data, spans, out):  # type: ignore[no-untyped-def]
    bytes_ = pointer_to(data)
    for i in range(len(spans)):
        out[i] = received_time(bytes_, spans[i])


def compiled(records: list[Record]) -> list[int]:
    columns, out = RecordColumns.of(records), np.zeros(len(records), np.int64)
    _each(columns.data, columns.spans, out)
    return out.tolist()


def click(timestamp: int, *headers: tuple[str, bytes | None], ts: int = T0) -> Record:
    value = encode_json(Event(user_id="u", ts=ts, item_id="i"))
    return Record("clicks", 0, 0, timestamp, b"u", value, headers)  # type: ignore[arg-type]


names = st.sampled_from([RECEIVED_HEADER, RECEIVED_HEADER.upper(), RECEIVED_HEADER + "x", "", "a" * 70])
texts = st.one_of(
    st.none(),
    st.binary(max_size=20),
    st.integers(0, 10**17).map(lambda x: b"%d" % x),
    st.integers(T0 - 1000, T0 + 1000).map(lambda x: b"%d" % x),
)
some = st.lists(st.tuples(names, texts), max_size=4).map(tuple)


@given(st.lists(st.tuples(st.sampled_from([T0, T0 + 500, 0, -1, -(2**63)]), some), min_size=1))
@settings(max_examples=200, deadline=None)
def test_compiled_equals_plain(given: list[tuple[int, Headers]]) -> None:
    """For any headers the compiled reader gives the same time as the plain one, never after the record's time."""
    records = [click(timestamp, *headers) for timestamp, headers in given]
    found = compiled(records)
    assert found == [received_of(r) for r in records]
    assert all(r.timestamp <= 0 or each <= r.timestamp for r, each in zip(records, found, strict=True))


@given(st.binary(max_size=60), st.integers(1, 60))
@settings(max_examples=300, deadline=None)
def test_no_bytes_lead_out_of_the_headers(packed: bytes, size: int) -> None:
    """For any bytes in place of headers, the reader ends with a time from 0 to the record's own."""
    columns = RecordColumns.of([click(T0, ("x", b"y" * 80))])
    data = columns.data.copy()
    at = int(columns.spans["headers_at"][0])
    data[at : at + len(packed)] = np.frombuffer(packed, np.uint8)
    columns.spans["headers_bytes"] = size
    out = np.zeros(1, np.int64)
    _each(data, columns.spans, out)
    assert 0 < out[0] <= T0


@pytest.mark.parametrize(
    ("timestamp", "value", "wanted"),
    [
        (T0, b"%d" % (T0 - 5), T0 - 5),
        (T0, b"%d" % (T0 + 5), T0),  # a header never makes the time later: a producer gains nothing
        (T0, b"0", T0),
        (T0, b"-5", T0),
        (T0, b"12.5", T0),
        (T0, b"1" * 16, T0),
        (-1, b"%d" % T0, T0),
        (0, b"", UNKNOWN),
        (-1, None, UNKNOWN),
    ],
)
def test_a_header_lowers_the_time(timestamp: int, value: bytes | None, wanted: int) -> None:
    """The header counts if it is an earlier time in decimal text, or if the record has no time."""
    record = click(timestamp, (RECEIVED_HEADER, value))
    assert received_of(record) == wanted
    assert compiled([record]) == [wanted]


def test_what_is_passed_on_keeps_the_first_time() -> None:
    """A record forwarded once or several times, with any later timestamps, keeps the time of its first storage."""
    record = click(T0, ("a", b"b"))
    once = record._replace(headers=with_received(record), timestamp=T0 + 60_000)
    assert once.headers == (("a", b"b"), (RECEIVED_HEADER, b"%d" % T0))
    again = once._replace(headers=with_received(once), timestamp=T0 + 90_000)
    assert again.headers == once.headers
    assert received_of(again) == T0
    unknown = click(-1, ("a", b"b"))
    assert with_received(unknown) == unknown.headers


def test_a_dead_letter_keeps_the_first_time() -> None:
    """A dead letter that is repaired and sent again keeps the time at which the record was first stored."""
    record = click(T0, (RECEIVED_HEADER, b"%d" % (T0 - 9)), ("foreclick.reason", b"x"))
    _, _, headers = dead_letter(BadRecord(record, "empty", "", "something"))
    assert headers[-2:] == [(RECEIVED_HEADER, b"%d" % (T0 - 9)), ("source.foreclick.reason", b"x")]


@pytest.mark.parametrize("general", [False, True])
def test_an_event_counts_no_later_than_it_was_stored(general: bool) -> None:
    """`time` is `ts`, but not later than the received time; if that is unknown, there is no limit."""
    late = (RECEIVED_HEADER, b"%d" % (T0 - 100))
    records = [
        click(T0 + 50),
        click(T0 - 50),
        click(T0, late),
        click(-1, ts=T0 + 10**9),
        click(0, late),
    ]
    records = [r._replace(offset=i) for i, r in enumerate(records)]
    decoder = a_decoder(max_future_ms=1000)
    events, bad = (
        decoder.decode_generally(CLICK, records)
        if general
        else decoder.decode(CLICK, RecordColumns.of(records))
    )
    assert not bad
    assert events.data["ts"].tolist() == [T0, T0, T0, T0 + 10**9, T0]
    assert events.data["time"].tolist() == [T0, T0 - 50, T0 - 100, T0 + 10**9, T0 - 100]
    _, bad = decoder.decode(CLICK, RecordColumns.of([click(T0, (RECEIVED_HEADER, b"%d" % (T0 - 1001)))]))
    assert [(b.reason, b.got) for b in bad] == [("future", "ts lies 1001 ms after the record's time")]
