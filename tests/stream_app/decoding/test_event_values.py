"""Every byte string is an event or a bad record, and a batch gives the same as its single records."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.contract.event_columns import Events
from stream_app.contract.events import (
    DEAD_LETTER_REASONS,
    MIN_TS_MS,
    BadRecord,
    Event,
    encode_json,
    encode_msgpack,
)
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import BROWSE, CLICK, PURCHASE, Record
from stream_app.decoding.name_table import stable_hash
from tests.stream_app.contract_values import record
from tests.stream_app.strategies import FIELDS, T0, a_decoder, any_value, short_text


def shown(events: Events, bad: list[BadRecord]) -> tuple[object, ...]:
    """Return everything in an answer of the decoder, to compare."""
    return (
        events.data.tobytes(),
        events.user.tolist(),
        events.event_id.tolist(),
        [(b.record.offset, b.reason, b.field, b.message) for b in bad],
    )


def check_batch(records: list[Record], topic_index: int) -> None:
    """Check that a batch gives the same as its records one by one, and each record an event or a bad record."""
    events, bad = a_decoder().decode(topic_index, RecordColumns.of(records))
    single = a_decoder()
    parts = [single.decode(topic_index, RecordColumns.of([r])) for r in records]
    alone = Events.concat([e for e, _ in parts])
    assert shown(events, bad) == shown(alone, [b for _, more in parts for b in more])
    assert sorted([*events.data["offset"].tolist(), *(b.record.offset for b in bad)]) == [
        r.offset for r in records
    ]
    for b in bad:
        assert b.reason in DEAD_LETTER_REASONS
        assert b.field in FIELDS
        assert b.expected


@given(st.lists(any_value, max_size=12), st.sampled_from([CLICK, BROWSE, PURCHASE]), st.booleans())
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_an_event_or_a_bad_record(
    batch: list[bytes | None], topic_index: int, ours: bool
) -> None:
    """No bytes raise; a batch gives exactly the events and bad records of its records one by one."""
    keys = [b"u" if ours else None, "ü".encode(), b"u" * 128]
    check_batch([record(v, 3 * i, key=keys[i % 3]) for i, v in enumerate(batch)], topic_index)


PIECES = (
    *(
        b'{"user_id":"u","ts":1e11,"item_id":"i"',
        b'"',
        b",",
        b'"x":',
        b"{",
        b"}",
        b"[",
        b"]",
        b"{}",
        b"\n",
    ),
    *(b'"}', b'{","', b"}{", b"}\n{", b"1", b'"y":1', b"\\", b"\r", b" "),
)


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join), min_size=1, max_size=5))
@settings(max_examples=600, deadline=None)
def test_values_never_melt_into_each_other(inner: list[bytes]) -> None:
    """Values that begin and end like an object, but are none or two, never share a piece."""
    check_batch([record(b"{" + v + b"}", i) for i, v in enumerate(inner)], BROWSE)


@pytest.mark.parametrize(
    "batch",
    [
        [b'{"a":[{"b":1}', b'{"c":1}]}'],
        [b'{"user_id":"u","ts":1e11,"x":"}', b'{","y":1}', b'{"user_id":"u","ts":1e11}{"user_id":"u","ts":1e11}'],
        [b'{"user_id":"u","ts":1e11,"query":"}', b'{"}', b'{"user_id":"u","ts":1e11}\n{"user_id":"u","ts":1e11}'],
        [b'{"user_id":"u","ts":1e11,"x":[{}', b'{}]}', b'{"user_id":"u","ts":1e11} {"user_id":"u","ts":1e11}'],
        [b'{"user_id":"u","ts":1e11}', b'{"user_id":"u","ts":1e11,"query":"a\nb"}'],
        [b'{"user_id":"u","ts":1e11,"x":"\\', b'{"}', b'{"user_id":"u","ts":1e11}{"user_id":"u","ts":1e12}'],
    ],
)  # fmt: skip
def test_halves_and_doubles_side_by_side(batch: list[bytes]) -> None:
    """Halves of an object next to a value of two objects are all bad, although their number would fit."""
    check_batch([record(v, i) for i, v in enumerate(batch)], BROWSE)
    events, bad = a_decoder().decode(BROWSE, RecordColumns.of([record(v, i) for i, v in enumerate(batch)]))
    assert {b.reason for b in bad} <= {"malformed", "missing_field"}
    assert len(bad) == len(batch) - len(events)


good_events = st.builds(
    Event,
    user_id=st.text(min_size=1, max_size=32),
    ts=st.integers(MIN_TS_MS, T0),
    event_id=st.none() | st.text(max_size=32),
    item_id=st.text(min_size=1, max_size=64) | st.integers(-(2**63), 2**64 - 1),
    category_id=st.none() | short_text,
    session_id=st.none() | short_text,
    order_id=st.none() | short_text,
    list_id=st.none() | short_text,
    query=st.none() | short_text,
    position=st.none() | st.integers(0, 2**60),
    sent_at=st.none() | st.integers(0, T0),
    price=st.none() | st.floats(0, 1e15),
    currency=st.none() | short_text,
    quantity=st.integers(1, 2**31 - 1),
    props=st.none() | st.dictionaries(short_text, short_text | st.booleans() | st.integers(-9, 9) | st.floats(0, 1)),
)  # fmt: skip


@given(good_events, st.booleans())
@settings(max_examples=200, deadline=None)
def test_encode_and_decode_are_inverse(event: Event, packed: bool) -> None:
    """A valid event is unchanged after JSON and msgpack, and its columns have the same values."""
    value = encode_msgpack(event) if packed else encode_json(event)
    assert (msgspec.msgpack if packed else msgspec.json).decode(value, type=Event) == event
    events, bad = a_decoder().decode(
        PURCHASE, RecordColumns.of([record(value, 7, key=event.user_id.encode())])
    )
    assert not bad
    row = events.data[0]
    assert (row["offset"], row["ts"], row["timestamp"], row["event_type"]) == (7, event.ts, T0, PURCHASE)
    assert row["item_hash"] == stable_hash(str(event.item_id))
    assert row["category_hash"] == (stable_hash(event.category_id) if event.category_id else 0)
    assert row["event_hash"] == (stable_hash(event.event_id) if event.event_id else 0)
    assert row["quantity"] == event.quantity
    assert np.isnan(row["price"]) if event.price is None else row["price"] == np.float32(event.price)
    assert (events.user[0], events.event_id[0]) == (event.user_id, event.event_id)
