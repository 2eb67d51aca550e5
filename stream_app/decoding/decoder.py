"""Decodes batches of records of one topic partition into columns of events. Nothing here raises on invalid bytes.

The compiled scanner decodes what it understands completely. The general decoder (msgspec) decodes the rest: escapes,
msgpack, nested values, and everything that violates the contract. Both return the same columns (tested).
"""

import math
import re
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from stream_app.contract.event_columns import EVENT, Events
from stream_app.contract.events import (
    MAX_ID_BYTES,
    MAX_NAME_BYTES,
    MAX_TS_MS,
    MAX_VALUE_BYTES,
    MIN_TS_MS,
    BadRecord,
)
from stream_app.contract.received import UNKNOWN, received_of
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import BROWSE, Record
from stream_app.decoding.dead_letter_texts import EXPECTED, MSGPACK_MAP, description, key_description
from stream_app.decoding.event_filler import CATEGORY, EVENT_ID, FIELDS, ITEM, USER, fill
from stream_app.decoding.json_scanner import scan
from stream_app.decoding.lenient import (
    NO_ITEM,
    LenientFields,
    LenientTimedFields,
    LooseFields,
    RecordProblem,
    fields_of,
)
from stream_app.decoding.name_table import NOT_YET, NameTable, stable_hash
from stream_app.kernels import item_checks as checks

_VALUE = "a JSON object or a msgpack map"
#: The field of the event in an error message of msgspec.
_PATH = re.compile(r".* - at `\$\.(\w+).*`", re.DOTALL)


class Decoder:
    """Turns records of one topic partition into `Events` and `BadRecord`s."""

    def __init__(
        self,
        items: NameTable,
        categories: NameTable,
        *,
        max_future_ms: int,
        max_past_ms: int = 0,
        correct_clock: bool = False,
    ) -> None:
        """`max_past_ms`: how far an event may be before its record's time, 0 for no limit."""
        self.items = items
        self.categories = categories
        self.max_future_ms = max_future_ms
        self.max_past_ms = max_past_ms
        self.correct_clock = correct_clock
        usual: type[LenientFields] = LenientTimedFields if correct_clock else LenientFields
        self._json, self._msgpack = msgspec.json.Decoder(usual), msgspec.msgpack.Decoder(usual)
        self._loose_json, self._loose_msgpack = (
            msgspec.json.Decoder(LooseFields),
            msgspec.msgpack.Decoder(LooseFields),
        )

    def decode(self, topic_index: int, records: RecordColumns) -> tuple[Events, list[BadRecord]]:
        """Decodes records of the topic at `topic_index`, in order; never raises on their bytes."""
        if not len(records):
            return Events.concat([]), []
        tokens, good = scan(records, FIELDS)
        self.items.bound()
        self.categories.bound()
        data = np.empty(len(records), EVENT)
        # Where the scanner gave up, sizes are meaningless.
        sizes = np.where(good[:, None], tokens["size"][:, [USER, EVENT_ID]], 0)
        text = np.empty(int(sizes.clip(0, MAX_VALUE_BYTES).sum()), np.uint8)
        filled, used = fill(
            records.data,
            records.spans,
            tokens,
            good,
            topic_index,
            records.partition,
            self.max_future_ms,
            self.max_past_ms,
            self.correct_clock,
            self.items.columns,
            self.categories.columns,
            checks.KEY,
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
        unusual = [records.with_few_headers(i) for i in np.flatnonzero(~good).tolist()]
        others, bad = self.decode_generally(topic_index, [record for record, _ in unusual])
        told = {id(record): details for record, details in unusual if details}
        bad = [msgspec.structs.replace(b, details=told.get(id(b.record), ())) for b in bad] if told else bad
        together = Events.concat([events, others])
        return together.take(np.argsort(together.data["offset"], kind="stable")).packed(), bad

    def decode_generally(self, topic_index: int, records: Sequence[Record]) -> tuple[Events, list[BadRecord]]:
        """As `decode`, without the scanner: the reference, and the decoder of unusual records."""
        bad: list[BadRecord] = []
        records, events = self._decode_each(records, bad)
        if not records:
            return Events.concat([]), bad
        received = np.array([received_of(r) for r in records], np.int64)
        columns = self._columns(topic_index, records, events, received)
        wrong = self._wrong(topic_index, records, events, columns.data, received)
        if wrong:
            bad.extend(wrong.values())
            bad.sort(key=lambda b: b.record.offset)
            keep = np.ones(len(records), bool)
            keep[list(wrong)] = False
            columns = columns.take(keep)
        return columns, bad

    def _decode_each(
        self, records: Sequence[Record], bad: list[BadRecord]
    ) -> tuple[list[Record], list[LenientFields]]:
        good: list[Record] = []
        events: list[LenientFields] = []
        for r in records:
            value = r.value
            try:
                if not value or len(value) > MAX_VALUE_BYTES:
                    found: LenientFields | RecordProblem = _not_decoded(value)
                elif value[0] in MSGPACK_MAP:
                    found = self._msgpack.decode(value)
                else:
                    found = self._json.decode(value)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                found = self._loosely(value or b"", error)
            if isinstance(found, RecordProblem):
                bad.append(BadRecord(r, *found))
            else:
                good.append(r)
                events.append(found)
        return good, events

    def _loosely(self, value: bytes, error: Exception) -> LenientFields | RecordProblem:
        """Decodes a value once more, accepting fields of any type."""
        if isinstance(error, msgspec.ValidationError):
            decoder = self._loose_msgpack if value[0] in MSGPACK_MAP else self._loose_json
            try:
                return fields_of(decoder.decode(value), self.correct_clock)
            except (msgspec.MsgspecError, ValueError, RecursionError) as again:
                error = again
        said = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        place = _PATH.fullmatch(said)
        if place and place[1] in EXPECTED:
            return RecordProblem("invalid_field", place[1], EXPECTED[place[1]], f"{place[1]} is out of range")
        return RecordProblem("malformed", "", _VALUE, description(value, said))

    def _columns(
        self,
        topic_index: int,
        records: Sequence[Record],
        events: list[LenientFields],
        received: npt.NDArray[np.int64],
    ) -> Events:
        n = len(events)
        data = np.zeros(n, EVENT)
        data["offset"] = [r.offset for r in records]
        data["timestamp"] = [r.timestamp for r in records]
        data["ts"] = [e.ts for e in events]
        data["event_type"] = topic_index
        data["partition"] = records[0].partition
        data["price"] = [math.nan if e.price is None else e.price for e in events]
        data["price"] += 0.0  # minus zero becomes zero
        data["quantity"] = [e.quantity for e in events]
        data["event_hash"] = [stable_hash(e.event_id) if e.event_id else 0 for e in events]
        items = self.items.look_up([e.item_id for e in events])
        data["item_hash"], data["item"] = items
        data["item_check"] = checks.checks_of([e.item_id for e in events])
        categories = self.categories.look_up([e.category_id for e in events])
        data["category_hash"], data["category"] = categories
        if self.correct_clock:
            times = (e.sent_at if isinstance(e, LenientTimedFields) else None for e in events)
            sent = np.array([-1 if t is None else t for t in times], np.int64)
            corrected = (sent >= 0) & (received != UNKNOWN)
            data["ts"] = np.where(corrected, received - (sent - data["ts"]), data["ts"])
        data["time"] = np.where(received == UNKNOWN, data["ts"], np.minimum(data["ts"], received))
        return Events.of(data, [e.user_id for e in events], [e.event_id for e in events])

    def _wrong(
        self,
        topic_index: int,
        records: Sequence[Record],
        events: list[LenientFields],
        data: npt.NDArray[np.void],
        received: npt.NDArray[np.int64],
    ) -> dict[int, BadRecord]:
        """Checks that need more than one field's type: ids in bytes, the key, required items, times."""
        wrong: dict[int, BadRecord] = {}

        def add(i: int, reason: str, field: str, expected: str, got: str) -> None:
            wrong.setdefault(i, BadRecord(records[i], reason, field, expected, got))

        users = [e.user_id.encode() for e in events]
        for field, most in _BYTES.items():
            for i, e in enumerate(events):
                text = getattr(e, field)
                # A character takes at most four bytes in UTF-8; integers are never too long.
                if (
                    text is not None
                    and len(str(text)) * 4 > most
                    and (size := len(str(text).encode())) > most
                ):
                    add(i, "invalid_field", field, EXPECTED[field], f"{field} has {size} bytes")
        if [r.key for r in records] != users:
            for i, (r, user) in enumerate(zip(records, users, strict=True)):
                if r.key != user:
                    expected = "the user_id" if r.key is None else "the user_id in UTF-8"
                    add(i, "key_mismatch", "user_id", expected, key_description(r.key, user))
        if topic_index != BROWSE:
            for i in np.flatnonzero(data["item_hash"] == 0).tolist():
                add(i, *NO_ITEM)
        self._wrong_times(data["ts"], data["time"], received, add)
        return wrong

    def _wrong_times(
        self,
        times: npt.NDArray[np.int64],
        counted: npt.NDArray[np.int64],
        received: npt.NDArray[np.int64],
        add: Callable[[int, str, str, str, str], None],
    ) -> None:
        corrected = "ts, corrected by the sender's clock, "
        for i in np.flatnonzero((times < 0) | (times > MAX_TS_MS)).tolist():
            add(
                i,
                "invalid_field",
                "ts",
                f"a time from {MIN_TS_MS} to {MAX_TS_MS}",
                corrected + "is out of range",
            )
        for i in np.flatnonzero(times < MIN_TS_MS).tolist():
            add(i, "past", "ts", f"a time from {MIN_TS_MS} on", corrected + "lies before 1973")
        # `counted` differs from `ts` only if `ts` is after the record's time.
        for i in np.flatnonzero(times - self.max_future_ms > counted).tolist():
            got = f"ts lies {int(times[i]) - int(counted[i])} ms after the record's time"
            add(i, "future", "ts", f"at most {self.max_future_ms} ms", got)
        if self.max_past_ms:
            for i in np.flatnonzero((received != UNKNOWN) & (times + self.max_past_ms < received)).tolist():
                got = f"ts lies {int(received[i]) - int(times[i])} ms before the record's time"
                add(i, "past", "ts", f"at most {self.max_past_ms} ms", got)


#: The most bytes of each id.
_BYTES = {
    "user_id": MAX_ID_BYTES,
    "event_id": MAX_ID_BYTES,
    "item_id": MAX_NAME_BYTES,
    "category_id": MAX_NAME_BYTES,
}


def _not_decoded(value: bytes | None) -> RecordProblem:
    """What is wrong with a value that is not decoded at all."""
    if value:
        return RecordProblem(
            "too_large", "", f"at most {MAX_VALUE_BYTES}", f"the value has {len(value)} bytes"
        )
    return RecordProblem(
        "empty", "", _VALUE, "the record has no value" if value is None else "the value is empty"
    )
