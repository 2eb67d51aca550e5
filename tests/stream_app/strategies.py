"""Hypothesis strategies for shop events, and functions that turn them into records and columns."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from hypothesis import strategies as st

from stream_app.contract.event_columns import EVENT, Events
from stream_app.contract.events import Event, encode_json, encode_msgpack
from stream_app.contract.records import BROWSE, INPUT_TOPICS, Record
from stream_app.decoding.decoder import Decoder
from stream_app.decoding.name_table import NameTable, stable_hash

T0 = 1_700_000_000_000  # Unix ms
DAY = 86_400_000

#: The fields of the contract, and "" for the value as a whole.
FIELDS = (*msgspec.structs.asdict(Event("u", 0)), "")
#: Steps of time between two events, ms: around the limits of buckets, windows, lateness, session and user TTL.
STEPS = (
    *(0, 1, 500, 9_999, 10_000, 59_999, 60_000, 61_000, 299_999, 600_000, 1_800_000, 1_800_001),
    *(3_600_000, 3 * 3_600_000, DAY, 5 * DAY, 7 * DAY, 31 * DAY),
    *(-1, -10_000, -60_000, -299_999, -300_000, -300_001, -600_000, -3_600_000, -2 * DAY, -40 * DAY),
)
#: Prices whose sums are exact in binary, so that a sum in another order is the same number.
PRICES = (math.nan, 0.0, 0.25, 1.5, 8.0, 99.75, 4096.0)


class Happening(NamedTuple):
    """One event before it becomes a record."""

    user: int
    event_type: int
    ts: int  # Unix ms
    item: int  # 0 for none
    event_id: int  # 0 for none
    price: float  # NaN for none
    quantity: int


@st.composite
def happenings(
    draw: st.DrawFn,
    *,
    users: int = 4,
    items: int = 9,
    types: int = 3,
    max_size: int = 60,
    steps: Sequence[int] = STEPS,
) -> list[Happening]:
    """Draw events whose time sometimes goes back; clicks and purchases always have an item."""
    raw = draw(
        st.lists(
            st.tuples(
                st.integers(0, users - 1),
                st.integers(0, types - 1),
                st.sampled_from(steps),
                st.integers(0, items),
                st.one_of(st.just(0), st.integers(1, 8)),
                st.sampled_from(PRICES),
                st.integers(1, 3),
            ),
            max_size=max_size,
        )
    )
    ts = T0
    out = []
    for user, event_type, step, item, event_id, price, quantity in raw:
        ts += step
        named = item if event_type == BROWSE else max(item, 1)
        out.append(Happening(user, event_type, ts, named, event_id, price, quantity))
    return out


def cuts(n_max: int = 60) -> st.SearchStrategy[list[int]]:
    """Draw lengths of micro-batches; see `cut`."""
    return st.lists(st.integers(1, 9), min_size=1, max_size=n_max)


def cut(n: int, lengths: Sequence[int]) -> list[slice]:
    """Cut n events into micro-batches of the given lengths, which repeat."""
    slices, start, i = [], 0, 0
    while start < n:
        stop = min(n, start + lengths[i % len(lengths)])
        slices.append(slice(start, stop))
        start, i = stop, i + 1
    return slices


def event_of(h: Happening) -> Event:
    """Return the event as a sender would write it."""
    return Event(
        user_id=f"u{h.user}",
        ts=h.ts,
        event_id=f"e{h.event_id}" if h.event_id else None,
        item_id=f"i{h.item}" if h.item else None,
        category_id=f"c{h.item % 3}" if h.item else None,
        price=None if math.isnan(h.price) else h.price,
        quantity=h.quantity,
    )


def record_of(h: Happening, offset: int, partition: int = 0, packed: bool = False) -> Record:
    """Return the record of an event in its topic."""
    event = event_of(h)
    value = encode_msgpack(event) if packed else encode_json(event)
    return Record(INPUT_TOPICS[h.event_type], partition, offset, h.ts, event.user_id.encode(), value)


def topics_of(stream: Sequence[Happening], partition: int = 0) -> list[list[Record]]:
    """Return the records of each input topic, offsets from 0; some in msgpack."""
    logs: list[list[Record]] = [[] for _ in INPUT_TOPICS]
    for n, h in enumerate(stream):
        log = logs[h.event_type]
        log.append(record_of(h, len(log), partition, packed=n % 5 == 0))
    return logs


def columns_of(stream: Sequence[Happening], partition: Sequence[int] | None = None) -> Events:
    """Return the events as columns, like the decoder; item i has the model's index i - 1, no item has -1."""
    n = len(stream)
    data = np.zeros(n, EVENT)
    users: list[str] = []
    event_ids: list[str | None] = []
    next_offset: Counter[tuple[int, int]] = Counter()
    for i, h in enumerate(stream):
        where = (partition[i] if partition is not None else 0, h.event_type)
        name = f"e{h.event_id}" if h.event_id else None
        data[i] = (
            next_offset[where],
            h.ts,
            h.ts,
            h.ts,
            stable_hash(f"i{h.item}") if h.item else 0,
            h.item,
            stable_hash(f"c{h.item % 3}") if h.item else 0,
            stable_hash(name) if name else 0,
            0,
            0,
            0,
            h.price,
            h.quantity,
            h.item - 1,
            h.item % 3 if h.item else -1,
            where[0],
            h.event_type,
        )
        next_offset[where] += 1
        users.append(f"u{h.user}")
        event_ids.append(name)
    return Events.of(data, users, event_ids)


def a_decoder(max_future_ms: int = 300_000, correct_clock: bool = False) -> Decoder:
    """Return a decoder without a model."""
    names = (NameTable(lambda _: 0, 0), NameTable(lambda _: 0, 0))
    return Decoder(*names, max_future_ms=max_future_ms, correct_clock=correct_clock)


short_text = st.text(max_size=12)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    short_text,
    st.binary(max_size=4),
    st.lists(st.integers(-9, 9), max_size=2),
)
any_fields = st.dictionaries(
    st.one_of(st.sampled_from([f for f in FIELDS if f]), short_text),
    st.one_of(plain, st.dictionaries(short_text, plain, max_size=2)),
    max_size=6,
)
likely = st.fixed_dictionaries(
    {"user_id": st.sampled_from(["u", "ü", "u" * 128]), "ts": st.integers(T0, T0 + 10), "item_id": short_text}
)


def to_json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, default=lambda b: b.hex(), ensure_ascii=False).encode("utf-8", "surrogatepass")


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """Draw an almost valid value: fields of any kind, then shortened, with changed bytes or something appended."""
    fields = draw(likely) | draw(any_fields)
    value = draw(st.sampled_from([to_json, msgspec.msgpack.encode]))(fields)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(value)))
        what = draw(
            st.sampled_from([b"", b"\n", b"\x00", b"\xff", b'"', b"}", b"{", b"]}", b"\x81", b"\\ud800"])
        )
        value = draw(st.sampled_from([value[:at], value[:at] + what + value[at:], value[at:], value + value]))
    return value


#: Bytes of a record's value: valid, almost valid, and arbitrary.
any_value = st.one_of(
    st.none(),
    st.binary(max_size=40),
    broken(),
    likely.map(to_json),
    st.builds(lambda depth: b'{"x":' + b"[" * depth + b"]" * depth + b"}", st.integers(1, 30_000)),
    st.builds(
        lambda field, digits: (
            b'{"user_id":"u","ts":1767225660000,"item_id":"i","%b":%b}' % (field, b"9" * digits)
        ),
        st.sampled_from([b"ts", b"item_id", b"position", b"price", b"quantity", b"sent_at", b"x"]),
        st.integers(17, 6000),
    ),
    st.sampled_from(
        [b"{", b"}", b'{"a":[{"b":1}', b'{"c":1}]}', b'{"user_id":"}', b'{","ts":1767225660000}']
    ),
)
