"""Decodes records of one topic partition into columns of events, a batch at a time. Nothing here raises on bytes.

The compiled scanner takes what it understands completely, the general decoder (msgspec) the rest: escapes, msgpack,
nested objects, and everything that breaks the contract. Both give the same columns (tested).
"""

import math
import re
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from stream_app.columns import RecordColumns
from stream_app.event_columns import EVENT, Events
from stream_app.events import MAX_ID_BYTES, MAX_PRICE, MAX_TS_MS, MAX_VALUE_BYTES, BadRecord, Event
from stream_app.fill import CATEGORY, EVENT_ID, FIELDS, ITEM, USER, fill
from stream_app.names import NOT_YET, Names, stable_hash
from stream_app.received import UNKNOWN, received_of
from stream_app.records import BROWSE, Record
from stream_app.scan import scan


class Decoder:
    """Turns records of one topic partition into `Events` and `BadRecord`s."""

    def __init__(
        self, items: Names, categories: Names, *, max_future_ms: int, correct_clock: bool = False
    ) -> None:
        self.items = items
        self.categories = categories
        self.max_future_ms = max_future_ms
        self.correct_clock = correct_clock
        self._json = msgspec.json.Decoder(Event)
        self._msgpack = msgspec.msgpack.Decoder(Event)

    def decode(self, kind: int, records: RecordColumns) -> tuple[Events, list[BadRecord]]:
        """Decode records of the topic of `kind`, in order; never raises on their bytes."""
        if not len(records):
            return Events.concat([]), []
        tokens, good = scan(records, FIELDS)
        self.items.bound()
        self.categories.bound()
        data = np.empty(len(records), EVENT)
        # Where the scanner gave up, sizes mean nothing.
        sizes = np.where(good[:, None], tokens["size"][:, [USER, EVENT_ID]], 0)
        text = np.empty(int(sizes.clip(0, MAX_VALUE_BYTES).sum()), np.uint8)
        filled, used = fill(
            records.data,
            records.spans,
            tokens,
            good,
            kind,
            records.partition,
            self.max_future_ms,
            self.correct_clock,
            self.items.columns,
            self.categories.columns,
            data,
            text,
        )
        events = Events(data[:filled], text[:used])
        source = np.flatnonzero(good)
        for names, column, field in (
            (self.items, events.data["item"], ITEM),
            (self.categories, events.data["category"], CATEGORY),
        ):
            hashes = events.data["item_hash" if field == ITEM else "category_hash"]
            for i in np.flatnonzero(column == NOT_YET).tolist():
                span, token = records.spans[source[i]], tokens[source[i], field]
                at = span["value_at"] + token["at"]
                name = records.data[at : at + token["size"]].tobytes().decode()
                column[i] = names.add(int(hashes[i]), name)
        if filled == len(records):
            return events, []
        others, bad = self.decode_generally(kind, [records[i] for i in np.flatnonzero(~good).tolist()])
        together = Events.concat([events, others])
        return together.take(np.argsort(together.data["offset"], kind="stable")).packed(), bad

    def decode_generally(self, kind: int, records: Sequence[Record]) -> tuple[Events, list[BadRecord]]:
        """What `decode` does, without the scanner: the reference, and the way of all that is unusual."""
        bad: list[BadRecord] = []
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
        data = np.zeros(n, EVENT)
        data["offset"] = [r.offset for r in records]
        data["received"] = [r.timestamp for r in records]
        data["ts"] = [e.ts for e in events]
        data["kind"] = kind
        data["partition"] = records[0].partition
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            data["price"] = [math.nan if e.price is None else e.price for e in events]
        data["price"] += 0.0  # minus zero is zero
        data["quantity"] = [e.quantity for e in events]
        data["event_hash"] = [stable_hash(e.event_id) if e.event_id else 0 for e in events]
        items = self.items.look_up([e.item_id for e in events])
        data["item_hash"], data["item"] = items
        categories = self.categories.look_up([e.category_id for e in events])
        data["category_hash"], data["category"] = categories
        stored = np.array([received_of(r) for r in records], np.int64)
        if self.correct_clock:
            sent = np.array([-1 if e.sent_at is None else e.sent_at for e in events], np.int64)
            corrected = (sent >= 0) & (stored != UNKNOWN)
            data["ts"] = np.where(corrected, stored - (sent - data["ts"]), data["ts"])
        data["time"] = np.where(stored == UNKNOWN, data["ts"], np.minimum(data["ts"], stored))
        return Events.of(data, [e.user_id for e in events], [e.event_id for e in events])

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
        times = data["ts"]
        for i in np.flatnonzero((times < 0) | (times > MAX_TS_MS)).tolist():
            expected = f"a time from 0 to {MAX_TS_MS}, after the correction by the sender's clock"
            add(i, "invalid_field", "ts", expected)
        # Where `time` was not lowered, `ts` is not after the record's time, or that is not known.
        for i in np.flatnonzero(times - self.max_future_ms > data["time"]).tolist():
            ahead = int(times[i]) - int(data["time"][i])
            add(i, "future", "ts", f"at most {self.max_future_ms} ms after the record's time, got {ahead} ms")
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
