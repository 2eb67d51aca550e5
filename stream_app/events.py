"""The input contract, version 1: what a click, a browse and a purchase are, decoded a batch at a time.

A batch of records of one topic partition becomes one structured array (`EVENT`) plus two object columns; a
record that breaks the contract becomes a `BadRecord` with a stable reason code. Nothing here raises on bytes.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgpack
import msgspec
import numpy as np
import numpy.typing as npt

from stream_app.names import Names, stable_hash
from stream_app.records import BROWSE, Record

MAX_VALUE_BYTES = 64 * 1024
MAX_ID_BYTES = 128
MAX_TS_MS = 253_402_300_799_999  # the year 9999
MAX_QUANTITY = 2**31 - 1
MAX_PRICE = 1e15  # 32-bit floats hold sums of it without overflow

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_BYTES)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
Timestamp = Annotated[int, msgspec.Meta(ge=0, le=MAX_TS_MS)]


class Event(msgspec.Struct, gc=False, frozen=True):
    """One click, browse or purchase as it stands in a record's value (JSON object or msgpack map).

    The topic says which of the three it is. Fields not named here are ignored.
    """

    user_id: Id
    ts: Timestamp  #: Unix ms, the event's own time
    event_id: Annotated[str, msgspec.Meta(max_length=MAX_ID_BYTES)] | None = None  #: dedupe key
    item_id: Name | int | None = None  #: required for clicks and purchases
    category_id: str | None = None
    session_id: str | None = None
    order_id: str | None = None
    list_id: str | None = None
    query: str | None = None
    position: Annotated[int, msgspec.Meta(ge=0)] | None = None
    sent_at: Timestamp | None = None  #: Unix ms, the sender's clock when it sent
    price: Annotated[float, msgspec.Meta(ge=0)] | None = None  #: unit price
    currency: str | None = None  #: ISO 4217
    quantity: Annotated[int, msgspec.Meta(ge=1, le=MAX_QUANTITY)] = 1
    props: dict[str, str | int | float | bool] | None = None


class BadRecord(msgspec.Struct, frozen=True):
    """Why a record is no event: a stable reason code, the field, and what was expected."""

    record: Record
    reason: str  #: one of `REASONS`
    field: str  #: the contract's field, or "" where the whole value is meant
    expected: str  #: one sentence for people


REASONS = (
    "empty",  # no value at all
    "too_large",  # over 64 KiB
    "malformed",  # neither a JSON object nor a msgpack map
    "missing_field",
    "invalid_field",  # wrong type, or a value out of its range
    "future",  # later than the broker's time by more than max_future
    "key_mismatch",  # the record's key is not the user_id
)


#: The numeric columns of one event. A structured array moves with one fancy index and numba reads it.
EVENT = np.dtype(
    [
        ("offset", "i8"),  # in its topic partition
        ("received", "i8"),  # Unix ms, the record's Kafka timestamp
        ("ts", "i8"),  # Unix ms, the event's own time
        ("item_hash", "u8"),  # stable hash of item_id, 0 for none
        ("category_hash", "u8"),  # stable hash of category_id, 0 for none
        ("event_hash", "u8"),  # stable hash of event_id, 0 for none
        ("price", "f4"),  # unit price, NaN where unknown
        ("quantity", "i4"),
        ("item", "i4"),  # the model's index of the item
        ("category", "i4"),  # the model's index of the category
        ("partition", "i4"),
        ("kind", "i4"),  # 0 click, 1 browse, 2 purchase: the index of the topic too
    ],
    align=True,
)


@dataclass(slots=True)
class Events:
    """n events as columns."""

    data: npt.NDArray[np.void]  # (n,) EVENT
    user: npt.NDArray[np.object_]  # (n,) str
    event_id: npt.NDArray[np.object_]  # (n,) str or None

    def __len__(self) -> int:
        return len(self.data)

    def take(self, index: Any) -> "Events":
        """The events at `index` (a slice, positions or a mask)."""
        return Events(self.data[index], self.user[index], self.event_id[index])

    @staticmethod
    def concat(parts: Sequence["Events"]) -> "Events":
        """All events of `parts`, in their order."""
        if len(parts) == 1:
            return parts[0]
        return Events(
            np.concatenate([p.data for p in parts]) if parts else np.empty(0, EVENT),
            np.concatenate([p.user for p in parts]) if parts else np.empty(0, object),
            np.concatenate([p.event_id for p in parts]) if parts else np.empty(0, object),
        )


class Decoder:
    """Turns records of one topic partition into `Events` and `BadRecord`s.

    A record is a `Record` or an aiokafka `ConsumerRecord`, which has the same attributes.
    """

    def __init__(
        self, items: Names, categories: Names, *, max_future_ms: int, correct_clock: bool = False
    ) -> None:
        self.items = items
        self.categories = categories
        self.max_future_ms = max_future_ms
        self.correct_clock = correct_clock
        self._json = msgspec.json.Decoder(Event)
        self._msgpack = msgspec.msgpack.Decoder(Event)

    def decode(self, kind: int, records: Sequence[Record]) -> tuple[Events, list[BadRecord]]:
        """Decode records of the topic of `kind`, in order; never raises on their bytes."""
        bad: list[BadRecord] = []
        events = self._decode_together(records)
        if events is None:
            records, events = self._decode_each(records, bad)
        if not records:
            return Events.concat([]), bad
        columns = self._columns(kind, records, events)
        wrong = self._wrong(kind, records, events, columns.data)
        if wrong:
            bad.extend(wrong.values())
            bad.sort(key=lambda b: b.record.offset)
            keep = np.ones(len(records), bool)
            keep[list(wrong)] = False
            columns = columns.take(keep)
        return columns, bad

    def _decode_together(self, records: Sequence[Record]) -> list[Event] | None:
        """All values in one call of the decoder, or None where one of them needs a look of its own.

        Each value must start with "{" and end with "}" and hold no line break. Then values joined by line
        breaks cannot melt into one another: a raw line break is white space between JSON values and forbidden
        inside a string, and inside an object no "}" is followed by a "{". A value that holds two objects
        shows by the count.
        """
        values = [r.value or b"" for r in records]
        joined = b"\n".join(values)
        borders = len(values) - 1
        if joined[:1] != b"{" or joined[-1:] != b"}" or max(map(len, values)) > MAX_VALUE_BYTES:
            return None
        if joined.count(b"\n") != borders or joined.count(b"}\n{") != borders:
            return None
        try:
            events = self._json.decode_lines(joined)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        return events if len(events) == len(values) else None

    def _decode_each(
        self, records: Sequence[Record], bad: list[BadRecord]
    ) -> tuple[list[Record], list[Event]]:
        good: list[Record] = []
        events: list[Event] = []
        for r in records:
            value = r.value
            if not value:
                bad.append(BadRecord(r, "empty", "", "a JSON object or a msgpack map as the record's value"))
                continue
            if len(value) > MAX_VALUE_BYTES:
                bad.append(
                    BadRecord(r, "too_large", "", f"at most {MAX_VALUE_BYTES} bytes, got {len(value)}")
                )
                continue
            decode: Callable[[bytes], Event] = (
                self._msgpack.decode if value[0] in MSGPACK_MAP else self._json.decode
            )
            try:
                events.append(decode(value))
            except msgspec.ValidationError as e:
                bad.append(BadRecord(r, *_explain(str(e))))
            except (msgspec.MsgspecError, ValueError, RecursionError) as e:
                bad.append(BadRecord(r, "malformed", "", f"a JSON object or a msgpack map: {str(e)[:200]}"))
            else:
                good.append(r)
        return good, events

    def _columns(self, kind: int, records: Sequence[Record], events: list[Event]) -> Events:
        n = len(events)
        data = np.empty(n, EVENT)
        data["offset"] = [r.offset for r in records]
        data["received"] = [r.timestamp for r in records]
        data["ts"] = [e.ts for e in events]
        data["kind"] = kind
        data["partition"] = records[0].partition
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            data["price"] = [math.nan if e.price is None else e.price for e in events]
        data["quantity"] = [e.quantity for e in events]
        data["event_hash"] = [stable_hash(e.event_id) if e.event_id else 0 for e in events]
        items = self.items.look_up([e.item_id for e in events])
        data["item_hash"], data["item"] = items
        categories = self.categories.look_up([e.category_id for e in events])
        data["category_hash"], data["category"] = categories
        if self.correct_clock:
            sent = np.array([-1 if e.sent_at is None else e.sent_at for e in events], np.int64)
            data["ts"] = np.where(sent >= 0, data["received"] - (sent - data["ts"]), data["ts"])
        user, event_id = np.empty(n, object), np.empty(n, object)
        user[:] = [e.user_id for e in events]
        event_id[:] = [e.event_id for e in events]
        return Events(data, user, event_id)

    def _wrong(
        self, kind: int, records: Sequence[Record], events: list[Event], data: npt.NDArray[np.void]
    ) -> dict[int, BadRecord]:
        """What the types alone cannot say: required items, the key, ids in bytes, infinities, the future."""
        wrong: dict[int, BadRecord] = {}

        def add(i: int, reason: str, field: str, expected: str) -> None:
            wrong.setdefault(i, BadRecord(records[i], reason, field, expected))

        users = [e.user_id.encode() for e in events]
        if [r.key for r in records] != users or max(map(len, users)) > MAX_ID_BYTES:
            for i, (r, user) in enumerate(zip(records, users, strict=True)):
                if len(user) > MAX_ID_BYTES:
                    add(i, "invalid_field", "user_id", f"1 to {MAX_ID_BYTES} bytes, got {len(user)}")
                elif r.key != user:
                    add(i, "key_mismatch", "user_id", "the record's key equal to user_id in UTF-8")
        # A character takes at most four bytes in UTF-8.
        long = [i for i, e in enumerate(events) if e.event_id and len(e.event_id) > MAX_ID_BYTES // 4]
        for i in long:
            if len((events[i].event_id or "").encode()) > MAX_ID_BYTES:
                add(i, "invalid_field", "event_id", f"at most {MAX_ID_BYTES} bytes")
        for i in np.flatnonzero(data["price"] > MAX_PRICE).tolist():
            add(i, "invalid_field", "price", f"a number from 0 to {MAX_PRICE:g}")
        if kind != BROWSE:
            for i in np.flatnonzero(data["item_hash"] == 0).tolist():
                add(i, "missing_field", "item_id", "item_id, which a click or a purchase must have")
        for i in np.flatnonzero(data["ts"] < 0).tolist():
            add(i, "invalid_field", "ts", "a time from 0, after the correction by the sender's clock")
        late_limit = data["received"] + self.max_future_ms
        for i in np.flatnonzero(data["ts"] > late_limit).tolist():
            ahead = int(data["ts"][i] - data["received"][i])
            add(i, "future", "ts", f"at most {self.max_future_ms} ms after the broker's time, got {ahead} ms")
        return wrong


#: First bytes of a msgpack map: fixmap, map 16, map 32 (the msgpack specification, "map format family").
MSGPACK_MAP = frozenset([*range(0x80, 0x90), 0xDE, 0xDF])

_PATH = re.compile(r"(.*) - at `(?:key` in `)?\$\.(\w+).*`", re.DOTALL)
_MISSING = re.compile(r"missing required field `(\w+)`")


def _explain(message: str) -> tuple[str, str, str]:
    """Reason code, field and expectation out of msgspec's message."""
    missing = _MISSING.search(message)
    if missing:
        return "missing_field", missing[1], f"{missing[1]}, which every event must have"
    found = _PATH.fullmatch(message)
    if not found:
        return "malformed", "", f"a JSON object or a msgpack map: {message}"
    return "invalid_field", found[2], found[1]


def encode_json(event: Event) -> bytes:
    """The event as a JSON object without the fields that hold their default."""
    return msgspec.json.encode(_without_defaults(event))


def encode_msgpack(event: Event) -> bytes:
    """The event as a msgpack map without the fields that hold their default.

    Written by the reference implementation, while the decoder is another one: what we send is what others read.
    """
    packed: bytes = msgpack.packb(_without_defaults(event))
    return packed


def _without_defaults(event: Event) -> dict[str, Any]:
    defaults = {f.name: f.default for f in msgspec.structs.fields(Event)}
    return {k: v for k, v in msgspec.structs.asdict(event).items() if v is not None and v != defaults[k]}


__all__ = [
    "EVENT",
    "REASONS",
    "BadRecord",
    "Decoder",
    "Event",
    "Events",
    "Record",
    "encode_json",
    "encode_msgpack",
]
