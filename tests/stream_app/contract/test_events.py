"""The input contract: which values are valid events, and which field makes others bad records."""

from typing import Any

import msgspec
import pytest

from stream_app.contract.events import (
    MAX_VALUE_BYTES,
    MIN_TS_MS,
)
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import BROWSE, CLICK, INPUT_TOPICS, PURCHASE
from stream_app.decoding.name_table import stable_hash
from tests.stream_app.contract_values import GOOD, reasons, record, without
from tests.stream_app.strategies import T0, a_decoder

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
    *[(GOOD | {name: value}, CLICK, None)  # the worker does not read them
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
@pytest.mark.parametrize(("fields", "topic_index", "wanted"), CONTRACT)
def test_each_row_of_the_contract(
    fields: dict[str, Any], topic_index: int, wanted: tuple[str, str] | None, packed: bool
) -> None:
    """A missing or wrong field gives its reason and name; every value that the contract allows is an event."""
    value = (msgspec.msgpack if packed else msgspec.json).encode(fields)
    assert reasons(value, topic_index=topic_index) == ([wanted] if wanted else [])


def test_msgpack_has_values_that_json_has_not() -> None:
    """NaN and infinity are not prices, bytes are not strings, and a key of the map must be text."""
    pack = msgspec.msgpack.encode
    for price in (float("nan"), float("inf"), float("-inf")):
        assert reasons(pack(GOOD | {"price": price})) == [("invalid_field", "price")]
    assert reasons(pack(GOOD | {"user_id": b"u"})) == [("invalid_field", "user_id")]
    assert reasons(pack(GOOD | {"props": {1: 2}})) == []
    assert reasons(pack({**GOOD, 1: 2})) == [("malformed", "")]
    assert reasons(pack(GOOD) + b"\x00") == [("malformed", "")]


def test_values_that_are_no_map() -> None:
    """A missing value is `empty`, more than 64 KiB is `too_large`, anything except an object is `malformed`."""
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
    """A record without a key or with another one is refused: it may be in the wrong partition."""
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


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("number", "text"), [(17, "17"), (-5, "-5"), (0, "0"), (2**64 - 1, str(2**64 - 1))])
def test_integers_are_ids(number: int, text: str, packed: bool) -> None:
    """An integer id means its decimal string, as user (and key), item, category and event."""
    fields = GOOD | {"user_id": number, "item_id": number, "category_id": number, "event_id": number}
    value = (msgspec.msgpack if packed else msgspec.json).encode(fields)
    events, bad = a_decoder().decode(CLICK, RecordColumns.of([record(value, key=text.encode())]))
    assert not bad
    assert (events.user.tolist(), events.event_id.tolist()) == ([text], [text])
    (row,) = events.data
    assert row["item_hash"] == row["category_hash"] == row["event_hash"] == stable_hash(text)


def test_topics_say_the_kind() -> None:
    """The event type of a column is the index of the topic that was decoded."""
    body = msgspec.json.encode(GOOD)
    for topic_index in range(len(INPUT_TOPICS)):
        events, _ = a_decoder().decode(topic_index, RecordColumns.of([record(body)]))
        assert events.data["event_type"].tolist() == [topic_index]
