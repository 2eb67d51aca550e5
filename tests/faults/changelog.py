"""Reads the state from the changelog topic, in the format that docs/architecture.md describes.

It follows the documentation and uses no code of the product, so a mistake in that code cannot hide itself.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import msgpack
import xxhash

FORMAT = 3
BUCKETS = (6, 10, 6, 24, 7)  # per window of 1 min, 10 min, 1 h, 24 h, 7 d
LAST_EVENTS = 20
#: First byte of the key that describes a layout: [bytes of a row, [[name, at, type, bytes, axes, fields], ...]].
LAYOUT_KEY = b"\xfe"
#: Types as numpy names them, and as `struct` does.
_TYPES = {"<i8": "q", "<u8": "Q", "<i4": "i", "<u4": "I", "<f8": "d", "<f4": "f"}


class Layout:
    """A layout of rows, as the changelog describes it. Each value begins with the layout's number of 16 bits."""

    def __init__(self, key: bytes) -> None:
        self.number = xxhash.xxh64_intdigest(key) & 0xFFFF
        self.row_bytes, fields = msgpack.unpackb(key[1:])
        self._fields = {field[0]: field for field in fields}

    def all(self, row: bytes, name: str) -> tuple[Any, ...]:
        """Return all numbers of a field, those of the last axis adjacent."""
        _, at, kind, _, axes, _ = self._fields[name]
        return struct.unpack_from(f"<{prod(map(_length, axes))}{_TYPES[kind]}", row, at)

    def element(self, row: bytes, name: str, number: int) -> dict[str, Any]:
        """Return the fields of one element of a field that has fields."""
        _, at, _, size, _, fields = self._fields[name]
        start = at + number * size
        return {n: struct.unpack_from(f"<{_TYPES[k]}", row, start + a)[0] for n, a, k, *_ in fields}


def _length(axis: Any) -> int:
    return axis if isinstance(axis, int) else sum(n for _, n in axis)


@dataclass(frozen=True)
class User:
    """The state of a user."""

    clock: int
    source: tuple[int, ...]  #: last offset applied per topic
    events: int
    late: int
    last_ts: tuple[int, ...]  #: per event type
    purchases: int
    spent: float
    windows: tuple[tuple[int, ...], ...]  #: per window: counts of each type, and the sum of money
    recent: tuple[tuple[int, int, float | None], ...]  #: (type, ts, price), newest first


def row_of(value: bytes, layout: Layout) -> bytes:
    """Return the row of a changelog record: layout number, a bitmap of its words, then the words other than zero."""
    assert len(value) % 4 == 2, "a record of format 2"
    assert int.from_bytes(value[:2], "little") == layout.number, "a record of another layout"
    n = layout.row_bytes // 8
    bitmap, at = value[2 : 2 + (n + 7) // 8], 2 + (n + 7) // 8
    words = bytearray(layout.row_bytes)
    for w in range(n):
        if bitmap[w // 8] >> (w % 8) & 1:
            words[8 * w : 8 * w + 8] = value[at : at + 8]
            at += 8
    assert at <= len(value), "a record ends before the end of its row"
    return bytes(words)


def user_of(value: bytes, layout: Layout) -> User:
    """Return the state of a user from a record."""
    row = row_of(value, layout)

    def one(name: str) -> Any:
        return layout.all(row, name)[0]

    return User(
        one("clock"),
        layout.all(row, "source"),
        one("events"),
        one("late"),
        layout.all(row, "last_ts"),
        one("purchases"),
        one("spent"),
        _windows(layout.all(row, "count"), layout.all(row, "amount")),
        _recent(row, one("events"), layout),
    )


def _windows(counts: tuple[int, ...], amounts: tuple[float, ...]) -> tuple[tuple[int, ...], ...]:
    found, first = [], 0
    for n in BUCKETS:
        mine = range(first, first + n)
        money = round(sum(amounts[b] for b in mine))
        found.append((*(sum(counts[3 * b + kind] for b in mine) for kind in range(3)), money))
        first += n
    return tuple(found)


def _recent(row: bytes, events: int, layout: Layout) -> tuple[tuple[int, int, float | None], ...]:
    found: list[tuple[int, int, float | None]] = []
    for number in range(events - 1, max(-1, events - 1 - LAST_EVENTS), -1):
        e = layout.element(row, "recent", number % LAST_EVENTS)
        price = e["price"]
        found.append((e["kind"], e["ts"], None if price != price else price))  # NaN: no price
    return tuple(found)


@dataclass
class State:
    """The complete state at the end of the changelog."""

    users: dict[str, User]
    positions: dict[int, list[int]]  #: per partition, the next source offset of each topic


def read_state(messages: Iterable[Any]) -> State:
    """Return the state from the last record of each key. Fails if the format is not the one this code reads."""
    last: dict[tuple[int, bytes], bytes | None] = {}
    layouts: dict[int, dict[int, Layout]] = {}
    for message in messages:
        partition, key, value = message.partition(), message.key(), message.value()
        if key[:1] == LAYOUT_KEY:
            layout = Layout(key)
            layouts.setdefault(partition, {})[layout.number] = layout
        elif value is not None and key:
            number = int.from_bytes(value[:2], "little")
            assert number in layouts.get(partition, {}), "a row comes before the description of its layout"
        last[partition, key] = value
    positions = {}
    for partition, key in [where for where in last if where[1] == b""]:
        meta = msgpack.unpackb(last.pop((partition, key)))
        assert meta["format"] == FORMAT, f"state format {meta['format']}: fix this reader"
        positions[partition] = meta["positions"]
    users = {
        key.decode(): user_of(value, layouts[partition][int.from_bytes(value[:2], "little")])
        for (partition, key), value in last.items()
        if value is not None and key[:1] != LAYOUT_KEY
    }
    return State(users, positions)
