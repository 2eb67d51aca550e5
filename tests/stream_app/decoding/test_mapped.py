"""Values of a shop's topic as events: fields, lines, types, and what is wrong with a value."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.contract.event_columns import Events
from stream_app.contract.events import encode_json
from stream_app.contract.mapping import TimeFormat
from stream_app.contract.records import EVENT_TYPES, Record
from stream_app.decoding.decoder import Decoder
from stream_app.decoding.mapped import Invalid, MappedEvent, Skipped, map_value
from stream_app.decoding.name_table import NameTable
from stream_app.settings.shop_file import load_preset, read_shop_file

SHOP = read_shop_file(
    """
    [[topic]]
    name = "web"
    time = "s"
    [topic.fields]
    user_id = ["user.id", "device"]
    ts = "at"
    event_id = "id"
    item_id = ["lines[].sku", "sku"]
    category_id = "group"
    price = ["lines[].price", "price"]
    quantity = "lines[].n"
    order_id = "order"
    [topic.type]
    field = "what"
    others = "dead_letter"
    values = { view = "browse", open = "click", buy = "purchase", ping = "", 7 = "click" }
    """,
    "shop.toml",
).topic("web")
GOOD: dict[str, Any] = {"user": {"id": 17}, "at": 1_700_000_000, "id": "e", "what": "open", "sku": "s"}


def events(value: Any) -> list[MappedEvent]:
    """The events of a value that has nothing else."""
    found = list(map_value(value, SHOP))
    assert all(isinstance(each, MappedEvent) for each in found), found
    return found  # type: ignore[return-value]


def problem(value: Any) -> str:
    """What is wrong with a value that is one invalid event."""
    (found,) = map_value(value, SHOP)
    assert isinstance(found, Invalid), found
    return f"{found.problem.reason}: {found.problem.got}"


def test_one_event() -> None:
    """Paths, alternatives, integers as ids and the time in seconds."""
    (found,) = events({**GOOD, "group": "", "price": "12.50", "order": 9})
    event = found.event
    assert (found.line, found.event_type) == (0, "click")
    assert (event.user_id, event.ts, event.event_id, event.item_id) == ("17", 1_700_000_000_000, "e", "s")
    assert (event.category_id, event.price, event.quantity, event.order_id) == (None, 12.5, 1, "9")
    (other,) = events({**GOOD, "user": None, "device": "d"})
    assert other.event.user_id == "d"
    (number,) = events({**GOOD, "what": 7})
    assert number.event_type == "click"


def test_the_lines_of_an_order() -> None:
    """Each line is an event with an id of its own from the second on; a bad one leaves the others as they are."""
    order = {
        **GOOD, "what": "buy", "sku": "ignored where lines have one", "price": 1,
        "lines": [{"sku": "a", "price": 2, "n": 3}, {"sku": "b", "price": -1}, {"sku": "c"}, 5],
    }  # fmt: skip
    first, bad, third, no_object = map_value(order, SHOP)
    assert isinstance(first, MappedEvent)
    assert isinstance(third, MappedEvent)
    shown = [
        (e.line, e.event.event_id, e.event.item_id, e.event.price, e.event.quantity) for e in (first, third)
    ]
    assert shown == [(0, "e", "a", 2, 3), (2, "e-2", "c", 1, 1)]
    assert isinstance(bad, Invalid)
    assert (bad.line, bad.problem.got) == (1, "price is negative (from lines[].price, …)")
    # A line without an item of its own has the item of the record.
    assert isinstance(no_object, MappedEvent)
    assert no_object.event.item_id == "ignored where lines have one"
    for empty in ([], None, "no array", {}):
        (single,) = events({**order, "lines": empty})
        assert (single.line, single.event.price) == (0, 1)


def test_types() -> None:
    """A type that the file leaves out is skipped; one that it does not name is invalid here, elsewhere skipped."""
    assert list(map_value({**GOOD, "what": "ping"}, SHOP)) == [Skipped(0, "ping")]
    assert problem({**GOOD, "what": "other"}) == "invalid_field: what is not in the shop file"
    assert (
        problem({key: value for key, value in GOOD.items() if key != "what"})
        == "missing_field: what is missing"
    )
    lenient = SHOP._replace(types=SHOP.types._replace(others="skip"))
    assert list(map_value({**GOOD, "what": "other"}, lenient)) == [Skipped(0, "other")]
    for no_name, word in (["x"], "an array"), ({"mail": "a@b.example"}, "an object"):
        (found,) = map_value({**GOOD, "what": no_name}, lenient)
        assert isinstance(found, Invalid)
        assert found.problem.got == f"what is {word}"
    (number,) = events({**GOOD, "what": 7.0})
    assert number.event_type == "click"


def test_whole_numbers_of_floats_are_ids() -> None:
    """An id of a column with gaps, which some writers make a column of floats."""
    (found,) = events({**GOOD, "user": {"id": 17.0}, "order": 1001.0})
    assert (found.event.user_id, found.event.order_id) == ("17", "1001")
    (found,) = events({**GOOD, "order": 1.5})
    assert found.event.order_id == "1.5"


def test_ids_of_lines_keep_the_limit_of_the_contract() -> None:
    """An id that the number of the line makes too long is no id of the contract."""
    order = {**GOOD, "what": "buy", "lines": [{"sku": "a"}, {"sku": "b"}]}
    first, second = map_value({**order, "id": "m" * 126}, SHOP)
    assert isinstance(first, MappedEvent)
    assert isinstance(second, MappedEvent)
    first, second = map_value({**order, "id": "m" * 127}, SHOP)
    assert isinstance(first, MappedEvent)
    assert isinstance(second, Invalid)
    assert second.problem.got == "event_id has more than 128 bytes with the number of the line (from id)"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"user": {}}, "missing_field: user_id is missing (from user.id, …)"),
        ({"user": {"id": True}}, "invalid_field: user_id is true or false (from user.id, …)"),
        ({"at": None}, "missing_field: ts is missing (from at)"),
        ({"at": "noon"}, "invalid_field: ts is text that is not a number (from at)"),
        (
            {"at": 1_700_000_000_000},
            'invalid_field: ts looks like a time in ms: write time = "ms" in the shop file (from at)',
        ),
        ({"sku": None}, "missing_field: item_id is missing (from lines[].sku, …)"),
        ({"price": "cheap"}, "invalid_field: price is text that is not a number (from lines[].price, …)"),
        ({"price": [1]}, "invalid_field: price is an array (from lines[].price, …)"),
        ({"id": "x" * 200}, "invalid_field: event_id has 200 bytes (from id)"),
    ],
)
def test_what_is_wrong_names_the_place_in_the_shops_own_record(change: dict[str, Any], why: str) -> None:
    """The sentence has the field, what it is, and the path; never the value."""
    assert problem({**GOOD, **change}) == why


def test_values_that_are_no_object() -> None:
    """An array, text or number is one invalid record."""
    for value in ([], "text", 3, None, True):
        assert problem(value) == "malformed: the value is not an object"


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=300),
    st.sampled_from(["view", "open", "buy", "ping", "1700000000", "2026-03-01T12:00:00Z"]),
)  # fmt: skip
keys = st.sampled_from(
    ["user", "id", "device", "at", "what", "lines", "sku", "price", "n", "group", "order", "x"]
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=12),
    max_leaves=30,
)


@given(st.dictionaries(keys, values, max_size=12), st.booleans())
def test_any_value_gives_events_of_the_contract_or_reasons(value: dict[str, Any], good: bool) -> None:
    """Nothing raises, and what counts as an event is one for the decoder of the contract's own topics too."""
    decoder = Decoder(NameTable(lambda _: 0, 0), NameTable(lambda _: 0, 0), max_future_ms=2**62)
    for found in map_value({**value, **GOOD} if good else value, SHOP):
        if isinstance(found, MappedEvent):
            topic_index, key = EVENT_TYPES.index(found.event_type), found.event.user_id.encode()
            record = Record("clicks", 0, 0, 0, key, encode_json(found.event))
            decoded, bad = decoder.decode_generally(topic_index, [record])
            assert isinstance(decoded, Events)
            assert (len(decoded), bad) == (1, [])


@pytest.mark.parametrize(
    ("at", "written"),
    [
        ("1970-01-01T00:00:00Z", "iso8601"),
        ("9999-12-31T23:59:59-10:00", "iso8601"),
        (5, "s"),
        (-1, "ms"),
        (1e18, "us"),
    ],
)
def test_times_out_of_range(at: object, written: TimeFormat) -> None:
    """The sentence is about the shop's format, not about milliseconds."""
    (found,) = map_value({**GOOD, "at": at}, SHOP._replace(time=written))
    assert isinstance(found, Invalid)
    assert found.problem.got == "ts lies before March 1973 or after the year 9999 (from at)"
    assert found.problem.expected == f"a time in the format {written}"


def test_screens_of_rudderstack() -> None:
    """Its mobile SDKs write the name of a screen where a track call has the name of its event."""
    screen = {"type": "screen", "event": "Home", "userId": "u", "timestamp": "2026-03-01T12:00:00Z"}
    segment = load_preset("segment").topic(None)
    (found,) = map_value(screen, segment)
    assert isinstance(found, MappedEvent)
    assert found.event_type == "browse"
    assert list(map_value({**screen, "type": "track"}, segment)) == [Skipped(0, "Home")]


def test_ga4_rows_of_bigquery() -> None:
    """A purchase of two items as BigQuery exports it: integers as text, parameters as an array of keys and values."""
    row = {
        "event_timestamp": "1612137600123456", "event_name": "purchase", "user_pseudo_id": "1.2",
        "event_params": [
            {"key": "page_location", "value": {"string_value": "https://shop.example/"}},
            {"key": "ga_session_id", "value": {"int_value": "77"}},
            {"key": "currency", "value": {"string_value": "EUR"}},
        ],
        "ecommerce": {"transaction_id": "T1"},
        "items": [
            {"item_id": "A", "item_category": "Bags", "price": 12.5, "quantity": "2"},
            {"item_id": "B", "item_category": "", "price": "3", "quantity": None},
        ],
    }  # fmt: skip
    first, second = map_value(row, load_preset("ga4-bigquery").topic(None))
    assert isinstance(first, MappedEvent)
    assert isinstance(second, MappedEvent)
    assert (first.event.ts, first.event.user_id, first.event.session_id) == (1_612_137_600_123, "1.2", "77")
    assert (first.event.item_id, first.event.category_id, first.event.price, first.event.quantity) == (
        "A",
        "Bags",
        12.5,
        2,
    )
    assert (second.event.item_id, second.event.category_id, second.event.order_id) == ("B", None, "T1")
    assert first.event.currency == second.event.currency == "EUR"


@pytest.mark.parametrize("written", ["s", "ms", "us", "iso8601"])
@pytest.mark.parametrize(
    ("right", "at"), [("s", 1_700_000_000), ("ms", 1_700_000_000_000), ("us", "1700000000000000")]
)
def test_a_wrong_format_of_times_is_named(right: str, at: object, written: TimeFormat) -> None:
    """Of a time in another unit the sentence says which format to write."""
    (found,) = map_value({**GOOD, "at": at}, SHOP._replace(time=written))
    if right == written:
        assert isinstance(found, MappedEvent)
    else:
        assert isinstance(found, Invalid)
        assert f'write time = "{right}" in the shop file (from at)' in found.problem.got
