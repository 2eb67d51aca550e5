"""The compiled decoder, compared with the general one: the same columns, or none."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.contract.event_columns import Events
from stream_app.contract.events import Event, encode_json
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import BROWSE, CLICK, INPUT_TOPICS, PURCHASE, Record
from stream_app.decoding.event_filler import FIELDS
from stream_app.decoding.json_scanner import integer, number, scan
from stream_app.decoding.name_table import NameTable
from stream_app.kernels.item_checks import UNKNOWN_CHECK, checks_of
from stream_app.kernels.jit import jit
from stream_app.kernels.memory import pointer_to
from stream_app.lab.generator import GeneratorSettings, write
from stream_app.recordings.recording import RecordingReader
from tests.stream_app.strategies import T0, a_decoder, any_value, to_json


@jit
def compiled_number(data):  # type: ignore[no-untyped-def]
    return number(pointer_to(data), 0, len(data))


@jit
def compiled_integer(data):  # type: ignore[no-untyped-def]
    return integer(pointer_to(data), 0, len(data))


def shown(events: Events) -> list[tuple[Any, ...]]:
    """Return everything of each event except the place of its text."""
    data = events.data.copy()
    data["text_at"] = 0
    return list(zip([row.tobytes() for row in data], events.user, events.event_id, strict=True))


def both(topic_index: int, values: list[bytes], key: bytes = b"u", correct_clock: bool = False) -> None:
    """Check that both decoders give the same result for these values."""
    records = [Record(INPUT_TOPICS[topic_index], 2, 3 * i, T0, key, value) for i, value in enumerate(values)]
    fast, general = a_decoder(correct_clock=correct_clock), a_decoder(correct_clock=correct_clock)
    events, bad = fast.decode(topic_index, RecordColumns.of(records))
    wanted, wrong = general.decode_generally(topic_index, records)
    assert shown(events) == shown(wanted)
    assert bad == wrong


#: Texts of JSON values of all kinds, some of them wrong.
scalars = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.sampled_from(
        [
            "-0",
            "0",
            "00",
            "01",
            "1.",
            ".5",
            "1e5",
            "1E+5",
            "1e-5",
            "1e400",
            "-1",
            "+1",
            "1e",
            "12345678901234567",
            "0.1",
            "1.10",
            "9007199254740993",
            "true",
            "false",
            "null",
            "nul",
            '""',
            '"a"',
            '"ü"',
            '"a\\nb"',
            '"\\u00e9"',
            '"\\ud800"',
            '"é"',
            "[]",
            "{}",
            "[1]",
            '{"a":1}',
            '{"a":null}',
            '{"a":{}}',
            '{"a":"b","c":true}',
            '{"a":1,}',
            '"\x01"',
            '"\x7f"',
            "NaN",
            "Infinity",
            "1_0",
        ]
    ),
    st.text(max_size=8).map(lambda s: json.dumps(s, ensure_ascii=False)),
)
names = st.sampled_from([*(f.name for f in msgspec.structs.fields(Event)), "other", "user", "user_idx", ""])
space = st.sampled_from(["", "", "", " ", "\n", "\t\r "])


@st.composite
def near_events(draw: st.DrawFn) -> bytes:
    """JSON objects that are events, or almost: any order, white space, repeated fields, values of any topic_index."""
    pairs = draw(st.lists(st.tuples(names, scalars), max_size=6))
    base = [
        ("user_id", '"u"'),
        ("ts", str(T0)),
        ("item_id", draw(st.sampled_from(['"i"', "7", '"ü"', "-7"]))),
    ]
    missing = draw(st.sampled_from([None, None, None, 0, 1, 2]))
    kept = [pair for i, pair in enumerate(base) if i != missing]
    fields = draw(
        st.permutations(kept + [p for p in pairs if p[0] not in ("user_id", "ts") or draw(st.booleans())])
    )
    pieces = [
        f"{draw(space)}{json.dumps(name)}{draw(space)}:{draw(space)}{value}{draw(space)}"
        for name, value in fields
    ]
    text = (
        draw(space) + "{" + ",".join(pieces) + "}" + draw(st.sampled_from(["", "", "", " ", "x", "}", ","]))
    )
    return text.encode("utf-8", "surrogatepass")


nested = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.tuples(st.lists(inner, max_size=4), space).map(lambda v: f"[{v[1]}{','.join(v[0])}{v[1]}]"),
        st.lists(st.tuples(names, space, inner), max_size=4).map(
            lambda pairs: "{" + ",".join(f'{s}"{name}"{s}:{s}{value}{s}' for name, s, value in pairs) + "}"
        ),
    ),
    max_leaves=12,
)


@given(st.lists(nested, min_size=1, max_size=3), st.integers(0, 400), st.sampled_from('[]{},:"\\x1'))
@settings(max_examples=600, deadline=None)
def test_values_inside_values(values: list[str], at: int, change: str) -> None:
    """Nested values in fields that the decoder does not read: valid, invalid, and valid with one byte changed."""
    pieces = ['"user_id":"u"', f'"ts":{T0}', '"item_id":"i"', *(f'"props":{value}' for value in values)]
    whole = "{" + ",".join(pieces) + "}"
    at %= len(whole)
    changed = whole[:at] + change + whole[at + 1 :]
    both(CLICK, [text.encode("utf-8", "surrogatepass") for text in (whole, changed)])


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ('{"a":[{"b":{"c":[1,2.5,"x",null,true]}},[],{}]}', True),
        ("[[[]]]", True),
        ("[" * 60 + "]" * 60, True),
        ("[" * 61 + "]" * 61, False),
        ("[1,]", False),
        ('{"a":1,}', False),
        ("[1}", False),
        ('{"a":1]', False),
        ("[1 2]", False),
        ('{"a"}', False),
        ("[", False),
        ('["\\n"]', False),  # an escape: left to the general decoder
    ],
)
def test_which_nested_values_the_scanner_accepts(value: str, accepted: bool) -> None:
    """It reads them itself, as far as it understands them."""
    body = f'{{"user_id":"u","props":{value},"ts":{T0}}}'.encode()
    _, good = scan(RecordColumns.of([Record("clicks", 0, 0, 0, b"u", body)]), FIELDS)
    assert good.tolist() == [accepted]
    both(BROWSE, [body])


@given(
    st.lists(st.one_of(near_events(), near_events(), any_value.filter(lambda v: v is not None)), max_size=8),
    st.sampled_from([CLICK, BROWSE, PURCHASE]),
    st.booleans(),
)
@settings(max_examples=600, deadline=None)
def test_what_the_scanner_accepts_is_what_the_general_decoder_says(
    values: list[bytes], topic_index: int, correct_clock: bool
) -> None:
    """For any almost valid event, both decoders give the same columns and the same bad records."""
    both(topic_index, values, correct_clock=correct_clock)


@given(near_events(), st.integers(0, 200), st.integers(0, 255))
@settings(max_examples=600, deadline=None)
def test_one_byte_changed(value: bytes, at: int, byte: int) -> None:
    """The scanner is never more lenient than the general decoder, whichever byte is damaged."""
    damaged = bytearray(value)
    if damaged:
        damaged[at % len(damaged)] = byte
    both(CLICK, [value, bytes(damaged), value[:at]])


@given(st.binary(min_size=1, max_size=6))
@settings(max_examples=400, deadline=None)
def test_text_is_well_formed(text: bytes) -> None:
    """Bytes that are not UTF-8 inside a string are left to the general decoder."""
    both(CLICK, [b'{"user_id":"u","ts":1767225660000,"item_id":"a%bz","query":"%b"}' % (text, text)])


@pytest.mark.parametrize("size", [1, 127, 128, 129, 200])
def test_limits_of_ids(size: int) -> None:
    """Ids up to their limit in bytes, and beyond it, with one byte per character and with two."""
    for letter in ("a", "ü"):
        user = letter * size
        value = to_json({"user_id": user, "ts": T0, "item_id": "i", "event_id": user})
        both(CLICK, [value], key=user.encode())
        both(CLICK, [value], key=b"other")


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=3)
    | st.floats(0, 1e15).map(repr)
    | st.integers()
)
@settings(max_examples=500, deadline=None)
def test_numbers_are_exact(written: object) -> None:
    """If the compiled parser reports that it is exact, it gives the same double as Python."""
    text = str(written).lower()
    record = Record("t", 0, 0, 0, None, b'{"price":%b}' % text.encode())
    _, good = scan(RecordColumns.of([record]), FIELDS)
    if not good[0]:
        return
    data = np.frombuffer(text.encode(), np.uint8)
    value, exact = compiled_number(data)
    if exact:
        assert value == float(text)
    if text.lstrip("-").isdigit():
        assert compiled_integer(data) == int(text)


def test_ordinary_traffic_takes_the_short_way(tmp_path: Path) -> None:
    """No JSON of our own tools needs the general decoder, which takes ten times as long."""
    path = tmp_path / "shop.stream"
    write(GeneratorSettings(events=3000, users=50, items=50, categories=5, seed=3), path)
    clicks = (r for r in RecordingReader(path) if (r.topic, r.partition) == ("clicks", 0))
    records = [r for r in clicks if (r.value or b"")[:1] == b"{"]
    assert len(records) > 300
    _, good = scan(RecordColumns.of(records), FIELDS)
    assert good.all()
    full = Event(
        "u",
        T0,
        "e",
        "i",
        "c",
        "s",
        "o",
        "l",
        "wörter",
        3,
        T0,
        1.5,
        "EUR",
        2,
        {"a": 1, "b": True, "c": "d", "e": 0.5},
    )
    _, good = scan(RecordColumns.of([Record("clicks", 0, 0, T0, b"u", encode_json(full))]), FIELDS)
    assert good.all()
    decoder = a_decoder()
    decoder.decode_generally = None  # type: ignore[method-assign, assignment]
    events, bad = decoder.decode(CLICK, RecordColumns.of(records))
    assert len(events) == len(records)
    assert not bad


@given(st.lists(st.one_of(st.text(max_size=40), st.integers(-(2**63), 2**64 - 1), st.none()), max_size=8))
@settings(deadline=None)
def test_checks_follow_the_name(names: list[str | int | None]) -> None:
    """Equal names have equal checks in both decoders, other names have others; an absent name has none."""
    found = checks_of(names).tolist()
    words = ["" if name is None else str(name) for name in names]
    assert len({*zip(words, found, strict=True)}) == len(set(words)) == len(set(found))
    assert all((check == UNKNOWN_CHECK) == (not word) for check, word in zip(found, words, strict=True))
    assert max(found, default=0) < 2**32


def test_names_are_numbered_once() -> None:
    """A name has the same index in either decoder, and the table grows when needed."""
    seen: list[str] = []
    names = NameTable(lambda name: seen.append(name) or len(seen), 0)  # type: ignore[func-returns-value]
    decoder = a_decoder()
    decoder.items = names
    for start in range(0, 6000, 1000):
        values = [encode_json(Event("u", T0, item_id=f"i{start + i}")) for i in range(1000)] * 2
        records = [Record("clicks", 0, i, T0, b"u", value) for i, value in enumerate(values)]
        events, _ = decoder.decode(CLICK, RecordColumns.of(records))
        general, _ = decoder.decode_generally(CLICK, records)
        assert events.data["item"].tolist() == [*range(start + 1, start + 1001)] * 2
        assert general.data["item"].tolist() == events.data["item"].tolist()
    assert seen == [f"i{i}" for i in range(6000)]
