"""Times of the input contract: how far ahead and back an event may be, and corrected clocks."""

import msgspec

from stream_app.contract.events import (
    MAX_TS_MS,
    MIN_TS_MS,
    Event,
    encode_json,
)
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import CLICK
from stream_app.decoding.decoder import Decoder
from stream_app.decoding.name_table import NameTable
from tests.stream_app.contract_values import GOOD, reasons, record
from tests.stream_app.strategies import T0, a_decoder


def test_the_future_begins_behind_the_limit() -> None:
    """An event may be `max_future` ahead of the broker's time and not a millisecond more."""
    decoder = a_decoder(max_future_ms=1000)
    batch = [
        record(encode_json(Event("u", T0 + ahead, item_id="i")), i) for i, ahead in enumerate((1000, 1001))
    ]
    events, bad = decoder.decode(CLICK, RecordColumns.of(batch))
    assert events.data["offset"].tolist() == [0]
    assert [(b.reason, b.field, b.record.offset) for b in bad] == [("future", "ts", 1)]


def test_correct_clock_takes_the_brokers_time() -> None:
    """With `sent_at` the time is received - (sent_at - ts); without it, or with the setting off, it is unchanged."""
    ts = T0 - 10**9
    events = [Event("u", ts, item_id="i", sent_at=ts + 2000), Event("u", ts, item_id="i")]
    batch = [record(encode_json(e), i) for i, e in enumerate(events)]
    columns = RecordColumns.of(batch)
    assert a_decoder(correct_clock=True).decode(CLICK, columns)[0].data["ts"].tolist() == [T0 - 2000, ts]
    assert a_decoder().decode(CLICK, columns)[0].data["ts"].tolist() == [ts, ts]


def test_sent_at_counts_only_where_it_is_read() -> None:
    """An invalid `sent_at` makes a bad record only if it is used to correct the clock."""
    for sent_at, wanted in (
        (None, []),
        ("2026-01-01T00:00:00Z", ["sent_at"]),
        (-1, ["sent_at"]),
        (float(T0), []),
    ):
        value = msgspec.json.encode(GOOD | {"sent_at": sent_at})
        assert reasons(value) == []
        _, bad = a_decoder(correct_clock=True).decode(CLICK, RecordColumns.of([record(value)]))
        assert [b.field for b in bad] == wanted
        assert all(b.reason == "invalid_field" for b in bad)


def test_the_past_ends_at_the_limit() -> None:
    """With `max_past_ms` an event may be at most so far before its record's time; without it there is no limit."""
    batch = [
        record(encode_json(Event("u", T0 - back, item_id="i")), i) for i, back in enumerate((1000, 1001))
    ]
    for limit, wanted in ((1000, [1]), (0, [])):
        names = (NameTable(lambda _: 0, 0), NameTable(lambda _: 0, 0))
        decoder = Decoder(*names, max_future_ms=0, max_past_ms=limit)
        events, bad = decoder.decode(CLICK, RecordColumns.of(batch))
        assert [b.record.offset for b in bad] == wanted
        assert len(events) == 2 - len(wanted)
        assert all((b.reason, b.field) == ("past", "ts") for b in bad)
        assert all(
            b.message == "ts lies 1001 ms before the record's time, expected at most 1000 ms" for b in bad
        )


def test_a_corrected_time_is_still_a_time() -> None:
    """A correction to a time outside the range, or in the future, makes a bad record."""
    times = ((MIN_TS_MS, MAX_TS_MS), (T0, 0), (T0, 2 * T0 - MIN_TS_MS + 1))
    events = [Event("u", ts, item_id="i", sent_at=sent_at) for ts, sent_at in times]
    batch = [record(encode_json(e), i) for i, e in enumerate(events)]
    good, bad = a_decoder(correct_clock=True).decode(CLICK, RecordColumns.of(batch))
    assert len(good) == 0
    assert [(b.reason, b.field) for b in bad] == [("invalid_field", "ts"), ("future", "ts"), ("past", "ts")]
