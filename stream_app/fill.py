"""Compiled: from the tokens of JSON objects to the columns of events, for records that hold the contract.

Whatever might break the contract is not decided here but handed to the general decoder, which says what is wrong.
"""

import msgspec
import numpy as np

from stream_app.events import MAX_ID_BYTES, MAX_PRICE, MAX_QUANTITY, MAX_TS_MS, MAX_VALUE_BYTES, Event
from stream_app.hashing import xxh64
from stream_app.names import find, pointers
from stream_app.pointer import copy_bytes, jit, pointer_to, same_bytes
from stream_app.received import UNKNOWN, received
from stream_app.records import BROWSE
from stream_app.scan import ABSENT, INTEGER, NULL, NUMBER, OBJECT, STRING, Fields, integer, number

FIELDS = Fields([f.encode_name for f in msgspec.structs.fields(Event)])
_AT = {f.name: i for i, f in enumerate(msgspec.structs.fields(Event))}
USER, TS, EVENT_ID, ITEM, CATEGORY, SENT, PRICE, QUANTITY = (
    _AT[name]
    for name in ("user_id", "ts", "event_id", "item_id", "category_id", "sent_at", "price", "quantity")
)
_POSITION, _PROPS = _AT["position"], _AT["props"]
#: Fields of text that are checked and not read.
_TEXTS = np.array([_AT[f] for f in ("session_id", "order_id", "list_id", "query", "currency")])


@jit
def _none(token):  # type: ignore[no-untyped-def]
    return token.kind == ABSENT or token.kind == NULL


@jit
def _hash(data, at, size):  # type: ignore[no-untyped-def]
    hashed = xxh64(data, at, size)
    return hashed if hashed != 0 else np.uint64(1)


@jit
def _other_fields(tokens):  # type: ignore[no-untyped-def]
    """Whether the fields that are not read have the types of the contract."""
    for f in _TEXTS:
        if not (_none(tokens[f]) or tokens[f].kind == STRING):
            return False
    return _none(tokens[_PROPS]) or tokens[_PROPS].kind == OBJECT


@jit
def _time(data, base, token):  # type: ignore[no-untyped-def]
    """A time in ms, -1 where it is none."""
    if token.kind != INTEGER or data[base + token.at] == 45:
        return -1
    value = integer(data, base + token.at, token.size)
    return value if value <= MAX_TS_MS else -1


@jit
def _event(  # type: ignore[no-untyped-def]
    data, span, tokens, kind, max_future_ms, correct_clock, items, categories, e, text, text_at
):
    """Fills one event; returns where its text ends, or -1 where the general decoder must look."""
    base = span.value_at
    user, event_id, item, category = tokens[USER], tokens[EVENT_ID], tokens[ITEM], tokens[CATEGORY]
    if span.value_bytes > MAX_VALUE_BYTES or user.kind != STRING or not 0 < user.size <= MAX_ID_BYTES:
        return -1
    if span.key_bytes != user.size or not same_bytes(data, span.key_at, data, base + user.at, user.size):
        return -1
    if not (_none(event_id) or (event_id.kind == STRING and event_id.size <= MAX_ID_BYTES)):
        return -1
    if not (_none(category) or category.kind == STRING) or not _other_fields(tokens):
        return -1
    position = tokens[_POSITION]
    if not (_none(position) or (position.kind == INTEGER and data[base + position.at] != 45)):
        return -1
    ts = _time(data, base, tokens[TS])
    sent = tokens[SENT]
    if ts < 0 or not (_none(sent) or _time(data, base, sent) >= 0):
        return -1
    stored = received(data, span)
    if correct_clock and stored != UNKNOWN and not _none(sent):
        ts = stored - (_time(data, base, sent) - ts)
    # What the correction took over the end of 64 bits is beyond one of these limits too.
    if not 0 <= ts <= MAX_TS_MS or (stored != UNKNOWN and ts - max_future_ms > stored):
        return -1
    price = tokens[PRICE]
    e.price = np.nan
    if not _none(price):
        if price.kind != INTEGER and price.kind != NUMBER:
            return -1
        value, exact = number(data, base + price.at, price.size)
        if not exact or not 0 <= value <= MAX_PRICE:
            return -1
        e.price = value + 0.0  # minus zero is zero
    quantity = tokens[QUANTITY]
    e.quantity = 1
    if quantity.kind != ABSENT:
        if quantity.kind != INTEGER:
            return -1
        count = integer(data, base + quantity.at, quantity.size)
        if not 1 <= count <= MAX_QUANTITY:
            return -1
        e.quantity = count
    e.item_hash = 0
    e.item = items[4]
    if not _none(item):
        first = data[base + item.at] if item.size > 0 else 0
        if item.size == 0 or not (item.kind == STRING or item.kind == INTEGER):
            return -1
        if item.kind == INTEGER and first == 45 and data[base + item.at + 1] == 48:
            return -1  # minus zero, which is 0
        e.item_hash = _hash(data, base + item.at, item.size)
        e.item = find(items, e.item_hash)
    elif kind != BROWSE:
        return -1
    e.category_hash = 0
    e.category = categories[4]
    if not _none(category) and category.size > 0:
        e.category_hash = _hash(data, base + category.at, category.size)
        e.category = find(categories, e.category_hash)
    e.offset = span.offset
    e.received = span.timestamp
    e.ts = ts
    e.time = ts if stored == UNKNOWN else min(ts, stored)
    e.kind = kind
    e.text_at = text_at
    e.user_bytes = user.size
    e.event_hash = 0
    e.event_bytes = -1
    end = copy_bytes(data, base + user.at, user.size, text, text_at)
    if not _none(event_id):
        e.event_bytes = event_id.size
        if event_id.size > 0:
            e.event_hash = _hash(data, base + event_id.at, event_id.size)
        end = copy_bytes(data, base + event_id.at, event_id.size, text, end)
    return end


@jit
def fill(  # type: ignore[no-untyped-def]
    data,  # bytes of the records
    spans,  # (n,) SPAN
    tokens,  # (n, fields) TOKEN
    good,  # (n,) bool, cleared where a record is not vouched for
    kind,
    partition,
    max_future_ms,
    correct_clock,
    items,  # `Names.columns`
    categories,
    out,  # (n,) EVENT
    text,  # bytes, enough for the ids of all
):
    """Fills the columns of the good records, one after the other; returns how many, and the bytes of text."""
    bytes_, texts = pointer_to(data), pointer_to(text)
    item_names = pointers(items)
    category_names = pointers(categories)
    filled = 0
    text_at = 0
    for i in range(len(spans)):
        if not good[i]:
            continue
        e = out[filled]
        end = _event(
            bytes_,
            spans[i],
            tokens[i],
            kind,
            max_future_ms,
            correct_clock,
            item_names,
            category_names,
            e,
            texts,
            text_at,
        )
        if end < 0:
            good[i] = False
            continue
        e.partition = partition
        text_at = end
        filled += 1
    return filled, text_at
