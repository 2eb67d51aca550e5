"""The input contract: every byte string is an event or a bad record, and a batch is no more than its records."""

import gzip
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.columns import RecordColumns
from stream_app.decoder import Decoder
from stream_app.event_columns import Events
from stream_app.events import (
    MAX_TS_MS,
    MAX_VALUE_BYTES,
    MIN_TS_MS,
    REASONS,
    BadRecord,
    Event,
    encode_json,
    encode_msgpack,
)
from stream_app.names import NAME_BYTES, Names, _place, stable_hash
from stream_app.records import BROWSE, CLICK, INPUT_TOPICS, PURCHASE, Record
from tests.stream_app.strategies import FIELDS, T0, a_decoder, any_value, short_text

GOOD: dict[str, Any] = {"user_id": "u", "ts": T0, "item_id": "i"}


def record(value: bytes | None, offset: int = 0, *, key: bytes | None = b"u", timestamp: int = T0) -> Record:
    return Record("clicks", 0, offset, timestamp, key, value)


def shown(events: Events, bad: list[BadRecord]) -> tuple[object, ...]:
    """All of an answer of the decoder, to compare."""
    return (
        events.data.tobytes(),
        events.user.tolist(),
        events.event_id.tolist(),
        [(b.record.offset, b.reason, b.field, b.message) for b in bad],
    )


def reasons(*values: bytes | None, kind: int = CLICK, **changed: Any) -> list[tuple[str, str]]:
    _, bad = a_decoder().decode(
        kind, RecordColumns.of([record(v, i, **changed) for i, v in enumerate(values)])
    )
    return [(b.reason, b.field) for b in bad]


def check_batch(records: list[Record], kind: int) -> None:
    """A batch gives what its records give one by one, and every record one thing or the other."""
    events, bad = a_decoder().decode(kind, RecordColumns.of(records))
    single = a_decoder()
    parts = [single.decode(kind, RecordColumns.of([r])) for r in records]
    alone = Events.concat([e for e, _ in parts])
    assert shown(events, bad) == shown(alone, [b for _, more in parts for b in more])
    assert sorted([*events.data["offset"].tolist(), *(b.record.offset for b in bad)]) == [
        r.offset for r in records
    ]
    for b in bad:
        assert b.reason in REASONS
        assert b.field in FIELDS
        assert b.expected


@given(st.lists(any_value, max_size=12), st.sampled_from([CLICK, BROWSE, PURCHASE]), st.booleans())
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_an_event_or_a_bad_record(batch: list[bytes | None], kind: int, ours: bool) -> None:
    """No bytes raise; a batch gives exactly the events and bad records of its records one by one."""
    keys = [b"u" if ours else None, "ü".encode(), b"u" * 128]
    check_batch([record(v, 3 * i, key=keys[i % 3]) for i, v in enumerate(batch)], kind)


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
    """Values that look like objects from both ends, but are none or two, never lend each other a piece."""
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
    """Halves of an object beside a value of two objects, which would fit by their number, are all bad."""
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
    """A good event comes back from JSON and from msgpack as it was, and its columns say what it says."""
    value = encode_msgpack(event) if packed else encode_json(event)
    assert (msgspec.msgpack if packed else msgspec.json).decode(value, type=Event) == event
    events, bad = a_decoder().decode(
        PURCHASE, RecordColumns.of([record(value, 7, key=event.user_id.encode())])
    )
    assert not bad
    row = events.data[0]
    assert (row["offset"], row["ts"], row["received"], row["kind"]) == (7, event.ts, T0, PURCHASE)
    assert row["item_hash"] == stable_hash(str(event.item_id))
    assert row["category_hash"] == (stable_hash(event.category_id) if event.category_id else 0)
    assert row["event_hash"] == (stable_hash(event.event_id) if event.event_id else 0)
    assert row["quantity"] == event.quantity
    assert np.isnan(row["price"]) if event.price is None else row["price"] == np.float32(event.price)
    assert (events.user[0], events.event_id[0]) == (event.user_id, event.event_id)


def without(field: str) -> dict[str, Any]:
    return {k: v for k, v in GOOD.items() if k != field}


CONTRACT: list[tuple[dict[str, Any], int, tuple[str, str] | None]] = [
    (GOOD, CLICK, None),
    (without("user_id"), CLICK, ("missing_field", "user_id")),
    (GOOD | {"user_id": ""}, CLICK, ("invalid_field", "user_id")),
    (GOOD | {"user_id": ["u"]}, CLICK, ("invalid_field", "user_id")),
    (GOOD | {"user_id": True}, CLICK, ("invalid_field", "user_id")),
    (GOOD | {"user_id": None}, CLICK, ("missing_field", "user_id")),
    (without("ts"), CLICK, ("missing_field", "ts")),
    (GOOD | {"ts": None}, CLICK, ("missing_field", "ts")),
    (GOOD | {"ts": "1"}, CLICK, ("invalid_field", "ts")),
    (GOOD | {"ts": T0 + 0.5}, CLICK, ("invalid_field", "ts")),
    (GOOD | {"ts": float(T0)}, CLICK, None),
    (GOOD | {"ts": -1}, CLICK, ("invalid_field", "ts")),
    (GOOD | {"ts": 2**63}, CLICK, ("invalid_field", "ts")),
    (GOOD | {"ts": True}, CLICK, ("invalid_field", "ts")),
    (GOOD | {"ts": T0 // 1000}, CLICK, ("past", "ts")),
    (GOOD | {"ts": T0 / 1000 + 0.25}, CLICK, ("past", "ts")),
    (GOOD | {"ts": 0}, CLICK, ("past", "ts")),
    (GOOD | {"ts": MIN_TS_MS - 1}, CLICK, ("past", "ts")),
    (GOOD | {"ts": MIN_TS_MS}, CLICK, None),
    (GOOD | {"ts": T0 * 1000}, CLICK, ("invalid_field", "ts")),
    (GOOD | {"event_id": 5}, CLICK, None),
    (GOOD | {"event_id": {}}, CLICK, ("invalid_field", "event_id")),
    (GOOD | {"event_id": "e" * 128}, CLICK, None),
    (GOOD | {"event_id": "e" * 129}, CLICK, ("invalid_field", "event_id")),
    (GOOD | {"event_id": "ü" * 64}, CLICK, None),
    (GOOD | {"event_id": "ü" * 65}, CLICK, ("invalid_field", "event_id")),
    (without("item_id"), CLICK, ("missing_field", "item_id")),
    (without("item_id"), PURCHASE, ("missing_field", "item_id")),
    (GOOD | {"item_id": None}, PURCHASE, ("missing_field", "item_id")),
    (without("item_id"), BROWSE, None),
    (GOOD | {"item_id": 17}, CLICK, None),
    (GOOD | {"item_id": ""}, CLICK, ("invalid_field", "item_id")),
    (GOOD | {"item_id": 17.0}, CLICK, None),
    (GOOD | {"item_id": 1.5}, CLICK, ("invalid_field", "item_id")),
    (GOOD | {"item_id": ["i"]}, CLICK, ("invalid_field", "item_id")),
    (GOOD | {"category_id": 12}, CLICK, None),
    (GOOD | {"category_id": True}, CLICK, ("invalid_field", "category_id")),
    *[(GOOD | {name: text * size}, CLICK, None if fits else ("invalid_field", name))
      for name in ("item_id", "category_id")
      for text, size, fits in (("i", 256, True), ("i", 257, False), ("ü", 128, True), ("ü", 129, False))],
    *[(GOOD | {name: value}, CLICK, None)
      for name in ("event_id", "category_id", "session_id", "order_id", "list_id", "query", "position", "sent_at",
                   "price", "currency", "quantity", "props")
      for value in (None, 5)],
    *[(GOOD | {name: value}, CLICK, None)  # nobody reads them
      for name in ("session_id", "order_id", "list_id", "query", "position", "sent_at", "currency", "props")
      for value in (-1, "2026-01-01T00:00:00Z", [], {"a": None}, {"a": {"b": [1]}}, 1.5, True)],
    (GOOD | {"price": 0}, PURCHASE, None),
    (GOOD | {"price": -0.01}, PURCHASE, ("invalid_field", "price")),
    (GOOD | {"price": "9.99"}, PURCHASE, ("invalid_field", "price")),
    (GOOD | {"price": 1e15}, PURCHASE, None),
    (GOOD | {"price": 1e16}, PURCHASE, ("invalid_field", "price")),
    (GOOD | {"price": 1e300}, PURCHASE, ("invalid_field", "price")),
    (GOOD | {"quantity": 0}, PURCHASE, ("invalid_field", "quantity")),
    (GOOD | {"quantity": 2.0}, PURCHASE, None),
    (GOOD | {"quantity": 1.5}, PURCHASE, ("invalid_field", "quantity")),
    (GOOD | {"quantity": 2**31}, PURCHASE, ("invalid_field", "quantity")),
    (GOOD | {"props": {"a": "x", "b": 1, "c": 1.5, "d": True}}, CLICK, None),
    (GOOD | {"anything": {"else": [1, None]}}, CLICK, None),
]  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("fields", "kind", "wanted"), CONTRACT)
def test_each_row_of_the_contract(
    fields: dict[str, Any], kind: int, wanted: tuple[str, str] | None, packed: bool
) -> None:
    """A missing or mistyped field has its reason and its name; what the contract allows is an event."""
    value = (msgspec.msgpack if packed else msgspec.json).encode(fields)
    assert reasons(value, kind=kind) == ([wanted] if wanted else [])


def test_msgpack_has_values_that_json_has_not() -> None:
    """NaN and infinity are no prices, bytes no strings, and a key of the map is text."""
    pack = msgspec.msgpack.encode
    for price in (float("nan"), float("inf"), float("-inf")):
        assert reasons(pack(GOOD | {"price": price})) == [("invalid_field", "price")]
    assert reasons(pack(GOOD | {"user_id": b"u"})) == [("invalid_field", "user_id")]
    assert reasons(pack(GOOD | {"props": {1: 2}})) == []
    assert reasons(pack({**GOOD, 1: 2})) == [("malformed", "")]
    assert reasons(pack(GOOD) + b"\x00") == [("malformed", "")]


def test_values_that_are_no_map() -> None:
    """Nothing at all is `empty`, more than 64 KiB `too_large`, and whatever is no object `malformed`."""
    assert reasons(None, b"") == [("empty", "")] * 2
    assert reasons(b"{}") == [("missing_field", "user_id")]
    for value in (
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"\xff\xfe",
        b"\x90",
        b"\0\0\0\0\1{}",
        b'{"user_id":"u"',
        b'{"user_id":"\xff"}',
    ):
        assert reasons(value) == [("malformed", "")]
    body = msgspec.json.encode(GOOD)
    at_limit = body + b" " * (MAX_VALUE_BYTES - len(body))
    assert reasons(at_limit, at_limit + b" ") == [("too_large", "")]
    padded = body[:-1] + b',"x":"' + b"x" * (MAX_VALUE_BYTES - len(body) - 7) + b'"}'
    assert len(padded) == MAX_VALUE_BYTES
    assert reasons(padded, padded[:-1] + b" }") == [("too_large", "")]


def test_the_key_is_the_user() -> None:
    """A record without a key or with another one is refused: it may stand in the wrong partition."""
    body = msgspec.json.encode(GOOD)
    for key in (None, b"", b"v", b"U"):
        assert reasons(body, key=key) == [("key_mismatch", "user_id")]
    packed = msgspec.msgpack.encode(GOOD | {"user_id": "ü"})
    assert reasons(packed, key="ü".encode()) == []
    assert reasons(packed, key="ü".encode("latin-1")) == [("key_mismatch", "user_id")]


@pytest.mark.parametrize(("name", "good"), [("u" * 128, True), ("u" * 129, False), ("ü" * 64, True),
                                            ("ü" * 65, False), ("𝄞" * 32, True), ("𝄞" * 33, False)])  # fmt: skip
def test_a_user_has_at_most_128_bytes(name: str, good: bool) -> None:
    """The limit of an id counts bytes in UTF-8, not letters."""
    body = msgspec.json.encode(GOOD | {"user_id": name})
    assert reasons(body, key=name.encode()) == ([] if good else [("invalid_field", "user_id")])


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
    """With `sent_at` the time is received - (sent_at - ts); without it, or with the setting off, it stays."""
    ts = T0 - 10**9
    events = [Event("u", ts, item_id="i", sent_at=ts + 2000), Event("u", ts, item_id="i")]
    batch = [record(encode_json(e), i) for i, e in enumerate(events)]
    columns = RecordColumns.of(batch)
    assert a_decoder(correct_clock=True).decode(CLICK, columns)[0].data["ts"].tolist() == [T0 - 2000, ts]
    assert a_decoder().decode(CLICK, columns)[0].data["ts"].tolist() == [ts, ts]


def test_sent_at_counts_only_where_it_is_read() -> None:
    """A time of sending that is none costs an event only where the clock is corrected by it."""
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
    """With `max_past_ms` an event may lie so far before its record's time and no further; without it anywhere."""
    batch = [
        record(encode_json(Event("u", T0 - back, item_id="i")), i) for i, back in enumerate((1000, 1001))
    ]
    for limit, wanted in ((1000, [1]), (0, [])):
        names = (Names(lambda _: 0, 0), Names(lambda _: 0, 0))
        decoder = Decoder(*names, max_future_ms=0, max_past_ms=limit)
        events, bad = decoder.decode(CLICK, RecordColumns.of(batch))
        assert [b.record.offset for b in bad] == wanted
        assert len(events) == 2 - len(wanted)
        assert all((b.reason, b.field) == ("past", "ts") for b in bad)
        assert all(
            b.message == "ts lies 1001 ms before the record's time, expected at most 1000 ms" for b in bad
        )


NOT_SAID = "ada@example.org"  # what a user is or did


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (GOOD | {"ts": NOT_SAID}, "ts is text, expected Unix milliseconds as an integer"),
        (GOOD | {"ts": 1767225660}, "ts looks like seconds: give milliseconds"),
        (GOOD | {"ts": 1767225660.5}, "ts looks like seconds: give milliseconds"),
        (GOOD | {"ts": T0 * 1000}, "ts looks like microseconds: give milliseconds"),
        (GOOD | {"ts": T0 * 10**6}, "ts looks like nanoseconds: give milliseconds"),
        (GOOD | {"ts": T0 + 0.5}, "ts is a number with a fraction, expected Unix milliseconds as an integer"),
        (GOOD | {"ts": None}, "ts is null, expected Unix milliseconds as an integer"),
        (without("ts"), "ts is missing, expected Unix milliseconds as an integer"),
        (without("user_id"), "user_id is missing, expected text or an integer, 1 to 128 bytes"),
        (without("item_id"), "item_id is missing, expected the item of a click or a purchase"),
        (GOOD | {"item_id": [NOT_SAID]}, "item_id is an array, expected text or an integer, 1 to 256 bytes"),
        (GOOD | {"item_id": NOT_SAID * 20}, "item_id has 300 bytes, expected text or an integer, 1 to 256 bytes"),
        (GOOD | {"price": NOT_SAID}, "price is text, expected a number from 0 to 1e+15"),
        (GOOD | {"price": -5}, "price is negative, expected a number from 0 to 1e+15"),
        (GOOD | {"quantity": 1.5}, "quantity is a number with a fraction, expected an integer from 1 to 2147483647"),
        (GOOD | {"user_id": NOT_SAID}, "the record's key is not the user_id, expected the user_id in UTF-8"),
        (b"\0\0\0\0\7" + msgspec.json.encode(GOOD),
         "the value begins with the 5 bytes of a schema registry, before JSON, expected a JSON object or a msgpack "
         "map"),
        (b"\0\0\0\0\7\x02u\x04ada",
         "the value begins with the 5 bytes of a schema registry, before Avro or Protobuf, expected a JSON object or "
         "a msgpack map"),
        (gzip.compress(msgspec.json.encode(GOOD), mtime=0),
         "the value is compressed with gzip, expected a JSON object or a msgpack map"),
        (msgspec.json.encode(GOOD).decode().encode("utf-16"),
         "the value is text in UTF-16, expected a JSON object or a msgpack map"),
        (msgspec.json.encode(GOOD).decode().encode("utf-16-be"),
         "the value is text in UTF-16, expected a JSON object or a msgpack map"),
        (msgspec.json.encode(GOOD).decode().encode("utf-16-le"),
         "the value is text in UTF-16, expected a JSON object or a msgpack map"),
        (b"\xef\xbb\xbf" + msgspec.json.encode(GOOD),
         "the value begins with a UTF-8 byte order mark, expected a JSON object or a msgpack map"),
        (b'{"user_id":"ada","ts":NaN}',
         "the value holds NaN or Infinity, which JSON does not have, expected a JSON object or a msgpack map"),
        (b'{"user_id":"ada","ts":1767225660000,"price":-Infinity}',
         "the value holds NaN or Infinity, which JSON does not have, expected a JSON object or a msgpack map"),
        (msgspec.json.encode(msgspec.json.encode(GOOD).decode()),
         "the value is JSON inside a JSON string, encoded twice, expected a JSON object or a msgpack map"),
        (b'"ada"', "the value is text, expected a JSON object or a msgpack map"),
        (b'[{"user_id":"ada"}]', "the value is an array, expected a JSON object or a msgpack map"),
        (b"7", "the value is an integer, expected a JSON object or a msgpack map"),
        (b"null", "the value is null, expected a JSON object or a msgpack map"),
        (None, "the record has no value, expected a JSON object or a msgpack map"),
        (b"", "the value is empty, expected a JSON object or a msgpack map"),
    ],
)  # fmt: skip
def test_a_dead_letter_says_what_is_wrong(value: Any, message: str) -> None:
    """Field, got and expected in one sentence that repeats nothing, and holds nothing that a user sent."""
    body = msgspec.json.encode(value) if isinstance(value, dict) else value
    _, (bad,) = a_decoder().decode(CLICK, RecordColumns.of([record(body)]))
    assert bad.message == message
    assert "ada" not in bad.message


@pytest.mark.parametrize(
    ("key", "got"),
    [
        (None, "the record has no key, expected the user_id"),
        (b'"17"', "the record's key is the user_id in quotes, expected the user_id in UTF-8"),
        (b"\0\0\0\x11", "the record's key is the user_id as a binary integer, expected the user_id in UTF-8"),
        (b"\0\0\0\0\x0517",
         "the record's key begins with the 5 bytes of a schema registry, expected the user_id in UTF-8"),
        (b"18", "the record's key is not the user_id, expected the user_id in UTF-8"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_told_apart(key: bytes | None, got: str) -> None:
    """No key at all, and the usual ways to write one wrongly, each have their own words."""
    value = msgspec.json.encode(GOOD | {"user_id": 17})
    _, (bad,) = a_decoder().decode(CLICK, RecordColumns.of([record(value, key=key)]))
    assert (bad.reason, bad.message) == ("key_mismatch", got)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("number", "text"), [(17, "17"), (-5, "-5"), (0, "0"), (2**64 - 1, str(2**64 - 1))])
def test_integers_are_ids(number: int, text: str, packed: bool) -> None:
    """An id that is an integer is its decimal string: as user, who is the key too, item, category and event."""
    fields = GOOD | {"user_id": number, "item_id": number, "category_id": number, "event_id": number}
    value = (msgspec.msgpack if packed else msgspec.json).encode(fields)
    events, bad = a_decoder().decode(CLICK, RecordColumns.of([record(value, key=text.encode())]))
    assert not bad
    assert (events.user.tolist(), events.event_id.tolist()) == ([text], [text])
    (row,) = events.data
    assert row["item_hash"] == row["category_hash"] == row["event_hash"] == stable_hash(text)


def test_a_corrected_time_is_still_a_time() -> None:
    """A correction that leaves the range of times, or leads into the future, makes a bad record."""
    times = ((MIN_TS_MS, MAX_TS_MS), (T0, 0), (T0, 2 * T0 - MIN_TS_MS + 1))
    events = [Event("u", ts, item_id="i", sent_at=sent_at) for ts, sent_at in times]
    batch = [record(encode_json(e), i) for i, e in enumerate(events)]
    good, bad = a_decoder(correct_clock=True).decode(CLICK, RecordColumns.of(batch))
    assert len(good) == 0
    assert [(b.reason, b.field) for b in bad] == [("invalid_field", "ts"), ("future", "ts"), ("past", "ts")]


@given(st.lists(st.lists(st.none() | st.text(max_size=2) | st.integers(-5, 5), max_size=9), max_size=9))
@settings(deadline=None)
def test_names_forget_and_number_the_same(batches: list[list[str | int | None]]) -> None:
    """A table that has to start anew gives the same hashes and indexes; an integer is its decimal string."""
    names = Names(lambda name: len(name) + 100, 99, limit=3)
    for batch in batches:
        hashes, index = names.look_up(batch)
        words = ["" if name is None else str(name) for name in batch]
        assert hashes.tolist() == [stable_hash(w) if w else 0 for w in words]
        assert index.tolist() == [len(w) + 100 if w else 99 for w in words]
        assert [names.name_of(h) for h in hashes.tolist()] == [w or None for w in words]
    assert names.name_of(12345) == "#0000000000003039"


def test_names_crafted_to_collide_are_spread() -> None:
    """Names whose stable hashes agree in their low half, which everybody can make, are spread over the table.

    Counted, not timed: a table at most half full needs fewer than two probes for a name that is there.
    """
    names = Names(lambda _: 1, 0)
    for i in range(5000):
        names.add(i << 32 | 0x12345678, f"i{i}")
    table, hashes, _, _, *key = names.columns
    mask = len(table) - 1
    taken = np.flatnonzero(table)
    home = [int(_place(hashes[table[at] - 1], *key, mask)) for at in taken.tolist()]
    assert ((taken - np.array(home)) & mask).mean() < 2


def test_names_are_bounded_in_bytes() -> None:
    """Few long names take the room of many short ones: beyond it those seen are forgotten, the model's never."""
    names = Names(lambda _: 1, 0, vocabulary={stable_hash("known"): "known"}, max_bytes=20_000)
    most = 0
    for i in range(300):
        names.look_up([f"{i:0200d}"])
        most = max(most, len(names))
    assert most == -(-20_000 // (NAME_BYTES + 200))
    assert names.name_of(stable_hash("known")) == "known"


def test_topics_say_the_kind() -> None:
    """The kind of a column is the index of the topic that was decoded."""
    body = msgspec.json.encode(GOOD)
    for kind in range(len(INPUT_TOPICS)):
        assert a_decoder().decode(kind, RecordColumns.of([record(body)]))[0].data["kind"].tolist() == [kind]
