"""The state as anyone may read it from the changelog topic, by the format that docs/architecture.md describes.

Written against the documentation and not with the product's code, so that a mistake there does not hide itself.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgpack

FORMAT, ROW_BYTES = 2, 1992
WORDS = ROW_BYTES // 8
BUCKETS = (6, 10, 6, 24, 7)  # of the windows of 1 min, 10 min, 1 h, 24 h, 7 d
RECENT = 20

_HEAD = struct.Struct("<q3qqqqq3q5q")  # clock, source, sequence, events, late, session start, last ts, heads
_COUNTS = struct.Struct(f"<{3 * sum(BUCKETS)}i")
_AMOUNTS = struct.Struct(f"<{sum(BUCKETS)}f")
_MONEY = struct.Struct("<qd")  # purchases, spent
_EVENT = struct.Struct("<qQQQfiif")  # ts, hashes of item, category, event_id, price, quantity, kind, gap
_EVENTS_AT = ROW_BYTES - RECENT * _EVENT.size


@dataclass(frozen=True)
class User:
    """What the state says of a user."""

    clock: int
    source: tuple[int, ...]  #: last offset applied of each topic
    events: int
    late: int
    last_ts: tuple[int, ...]  #: of each type
    purchases: int
    spent: float
    windows: tuple[tuple[int, ...], ...]  #: of each window, counts of each type and the money
    recent: tuple[tuple[int, int, float | None], ...]  #: (type, ts, price), newest first


def row_of(value: bytes) -> bytes:
    """The row of a changelog record: a bitmap of its words, then those that are not zero."""
    bitmap, at = value[: (WORDS + 7) // 8], (WORDS + 7) // 8
    words = bytearray(ROW_BYTES)
    for w in range(WORDS):
        if bitmap[w // 8] >> (w % 8) & 1:
            words[8 * w : 8 * w + 8] = value[at : at + 8]
            at += 8
    assert at <= len(value), "a record ends before its row does"
    return bytes(words)


def user_of(value: bytes) -> User:
    """A user's record."""
    row = row_of(value)
    clock, *rest = _HEAD.unpack_from(row)
    source, (_, events, late, _), last_ts = tuple(rest[:3]), rest[3:7], tuple(rest[7:10])
    counts = _COUNTS.unpack_from(row, _HEAD.size)
    amounts = _AMOUNTS.unpack_from(row, _HEAD.size + _COUNTS.size)
    purchases, spent = _MONEY.unpack_from(row, _HEAD.size + _COUNTS.size + _AMOUNTS.size)
    return User(
        clock,
        source,
        events,
        late,
        last_ts,
        purchases,
        spent,
        _windows(counts, amounts),
        _recent(row, events),
    )


def _windows(counts: tuple[int, ...], amounts: tuple[float, ...]) -> tuple[tuple[int, ...], ...]:
    found, first = [], 0
    for n in BUCKETS:
        mine = range(first, first + n)
        money = round(sum(amounts[b] for b in mine))
        found.append((*(sum(counts[3 * b + kind] for b in mine) for kind in range(3)), money))
        first += n
    return tuple(found)


def _recent(row: bytes, events: int) -> tuple[tuple[int, int, float | None], ...]:
    found: list[tuple[int, int, float | None]] = []
    for number in range(events - 1, max(-1, events - 1 - RECENT), -1):
        at = _EVENTS_AT + _EVENT.size * (number % RECENT)
        ts, _, _, _, price, _, kind, _ = _EVENT.unpack_from(row, at)
        found.append((kind, ts, None if price != price else price))  # not a number: none was given
    return tuple(found)


@dataclass
class State:
    """All that the changelog says at its end."""

    users: dict[str, User]
    positions: dict[int, list[int]]  #: of each partition, the next source offset of each topic


def read_state(messages: Iterable[Any]) -> State:
    """The last word on each key. Fails on another format than this was written for."""
    last: dict[tuple[int, bytes], bytes | None] = {}
    for message in messages:
        last[message.partition(), message.key()] = message.value()
    positions = {}
    for partition, key in [where for where in last if where[1] == b""]:
        meta = msgpack.unpackb(last.pop((partition, key)))
        found = meta["format"], meta["row_bytes"]
        assert found == (FORMAT, ROW_BYTES), (
            f"state format {found[0]}, {found[1]} bytes a row: mend this reader"
        )
        positions[partition] = meta["positions"]
    users = {key.decode(): user_of(value) for (_, key), value in last.items() if value is not None}
    return State(users, positions)
