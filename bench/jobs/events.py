"""Events of the comparison: one topic for all types, times in seconds, item ids as integers.

{"event_id": "00000000-…", "user_id": "u17", "event_type": "click", "item_id": 5, "ts": 1760000000.123}
"""

from typing import Literal

import msgspec
import numpy as np

from stream_app.contract.event_columns import EVENT, Events
from stream_app.contract.events import BadRecord
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import EVENT_TYPES
from stream_app.decoding.json_scanner import INTEGER, NUMBER, STRING, FieldNames, number, scan
from stream_app.decoding.name_table import NOT_YET, NameTable, find, pointers, stable_hash
from stream_app.kernels.hashing import xxh64
from stream_app.kernels.jit import jit
from stream_app.kernels.memory import copy_bytes, pointer_to, same_bytes


class JobEvent(msgspec.Struct):
    """One event of the comparison."""

    event_id: str
    user_id: str
    event_type: Literal["click", "browse", "purchase"]
    item_id: int
    ts: float  #: Unix seconds


FIELDS = FieldNames([f.name for f in msgspec.structs.fields(JobEvent)])
_EVENT_ID, _USER, _TYPE, _ITEM, _TS = range(5)
_TYPES = np.frombuffer("".join(EVENT_TYPES).encode() + bytes(8), np.uint8)
_TYPE_ENDS = np.cumsum([0, *map(len, EVENT_TYPES)])


class JobDecoder:
    """Decodes events of the comparison into the columns that the product's own decoder fills."""

    def __init__(self, items: NameTable, none_category: int) -> None:
        self.items = items
        self.none_category = none_category
        self._general = msgspec.json.Decoder(JobEvent)

    def decode(self, topic_index: int, records: RecordColumns) -> tuple[Events, list[BadRecord]]:
        """Return the events, and the records that are invalid."""
        if not len(records):
            return Events.concat([]), []
        tokens, good = scan(records, FIELDS)
        sizes = np.where(good[:, None], tokens["size"][:, [_EVENT_ID, _USER]], 0)
        text = np.empty(int(sizes.sum()), np.uint8)
        data = np.zeros(len(records), EVENT)
        data["partition"], data["quantity"], data["price"] = records.partition, 1, np.nan
        data["category"] = self.none_category
        filled, used = _fill(records.data, records.spans, tokens, good, self.items.columns, data, text)
        events = Events(data[:filled], text[:used])
        source = np.flatnonzero(good)
        for i in np.flatnonzero(events.data["item"] == NOT_YET).tolist():
            span, token = records.spans[source[i]], tokens[source[i], _ITEM]
            at = span["value_at"] + token["at"]
            name = records.data[at : at + token["size"]].tobytes().decode()
            events.data["item"][i] = self.items.add(int(events.data["item_hash"][i]), name)
        if filled == len(records):
            return events, []
        others, bad = self._decode_generally(records, np.flatnonzero(~good).tolist())
        together = Events.concat([events, others])
        return together.take(np.argsort(together.data["offset"], kind="stable")).packed(), bad

    def _decode_generally(self, records: RecordColumns, which: list[int]) -> tuple[Events, list[BadRecord]]:
        found: list[tuple[int, JobEvent]] = []
        bad: list[BadRecord] = []
        for i in which:
            record = records[i]
            try:
                found.append((i, self._general.decode(record.value or b"")))
            except (msgspec.MsgspecError, ValueError) as error:
                bad.append(BadRecord(record, "malformed", "", str(error)))
        data = np.zeros(len(found), EVENT)
        for row, (i, event) in zip(data, found, strict=True):
            row["offset"], row["timestamp"] = records.spans[i]["offset"], records.spans[i]["timestamp"]
            row["ts"] = row["time"] = round(event.ts * 1000)
            row["event_type"] = EVENT_TYPES.index(event.event_type)
            row["item_hash"] = stable_hash(str(event.item_id))
            row["item"] = self.items.add(int(row["item_hash"]), str(event.item_id))
            row["category"], row["event_hash"] = self.none_category, stable_hash(event.event_id)
            row["quantity"], row["price"], row["partition"] = 1, np.nan, records.partition
        return Events.of(data, [e.user_id for _, e in found], [e.event_id for _, e in found]), bad


@jit
def _event_type(data, at, size):  # type: ignore[no-untyped-def]
    for event_type in range(len(_TYPE_ENDS) - 1):
        start = _TYPE_ENDS[event_type]
        if _TYPE_ENDS[event_type + 1] - start == size and same_bytes(
            data, at, pointer_to(_TYPES), start, size
        ):
            return event_type
    return -1


@jit
def _fill(data, spans, tokens, good, items, out, text):  # type: ignore[no-untyped-def]
    """Fill the columns of the records that the scanner accepted; return how many, and the bytes of text."""
    bytes_, texts, names = pointer_to(data), pointer_to(text), pointers(items)
    filled = 0
    text_at = 0
    for i in range(len(spans)):
        if not good[i]:
            continue
        base = spans[i].value_at
        event_id, user, type_, item, ts = (
            tokens[i, _EVENT_ID], tokens[i, _USER], tokens[i, _TYPE], tokens[i, _ITEM], tokens[i, _TS]
        )  # fmt: skip
        good[i] = False
        if (
            event_id.token_type != STRING
            or user.token_type != STRING
            or type_.token_type != STRING
            or item.token_type != INTEGER
        ):
            continue
        event_type = _event_type(bytes_, base + type_.at, type_.size)
        if (
            event_type < 0
            or user.size == 0
            or (ts.token_type != NUMBER and ts.token_type != INTEGER)
            or item.size > 12
        ):
            continue
        seconds, exact = number(bytes_, base + ts.at, ts.size)
        if not exact:
            continue
        good[i] = True
        e = out[filled]
        e.offset = spans[i].offset
        e.timestamp = spans[i].timestamp
        e.ts = np.int64(np.rint(seconds * 1000.0))
        e.time = e.ts
        e.event_type = event_type
        e.item_hash = xxh64(bytes_, base + item.at, item.size)
        e.item = find(names, e.item_hash)
        e.event_hash = xxh64(bytes_, base + event_id.at, event_id.size)
        e.text_at = text_at
        e.user_bytes = user.size
        e.event_bytes = event_id.size
        text_at = copy_bytes(bytes_, base + user.at, user.size, texts, text_at)
        text_at = copy_bytes(bytes_, base + event_id.at, event_id.size, texts, text_at)
        filled += 1
    return filled, text_at
