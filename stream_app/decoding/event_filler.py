"""Compiled code that fills the columns of events from the tokens of JSON objects, for records that obey the contract.

It leaves every record that might violate the contract to the general decoder, which says what is wrong.
"""

import msgspec
import numpy as np

from stream_app.contract.events import (
    MAX_ID_BYTES,
    MAX_NAME_BYTES,
    MAX_PRICE,
    MAX_QUANTITY,
    MAX_TS_MS,
    MAX_VALUE_BYTES,
    MIN_TS_MS,
)
from stream_app.contract.received import UNKNOWN
from stream_app.contract.received_kernel import received_time
from stream_app.contract.records import BROWSE
from stream_app.decoding.json_scanner import (
    ABSENT,
    INTEGER,
    NULL,
    NUMBER,
    STRING,
    FieldNames,
    integer,
    number,
)
from stream_app.decoding.lenient import LenientTimedFields
from stream_app.decoding.name_table import find, pointers
from stream_app.kernels.hashing import xxh64
from stream_app.kernels.item_checks import UNKNOWN_CHECK, check
from stream_app.kernels.jit import jit
from stream_app.kernels.memory import copy_bytes, pointer_to, same_bytes

_NAMES = [f.encode_name for f in msgspec.structs.fields(LenientTimedFields)]
FIELDS = FieldNames(_NAMES)
USER, TS, EVENT_ID, ITEM, CATEGORY, SENT, PRICE, QUANTITY = (
    _NAMES.index(name)
    for name in ("user_id", "ts", "event_id", "item_id", "category_id", "sent_at", "price", "quantity")
)


@jit
def _none(token):  # type: ignore[no-untyped-def]
    return token.token_type == ABSENT or token.token_type == NULL


@jit
def _hash(data, at, size):  # type: ignore[no-untyped-def]
    hashed = xxh64(data, at, size)
    return hashed if hashed != 0 else np.uint64(1)


@jit
def _is_id(data, base, token, most):  # type: ignore[no-untyped-def]
    """Whether a token is text, or an integer in decimal, of at most so many bytes."""
    if token.token_type == STRING:
        return token.size <= most
    # The general decoder handles minus zero, whose text is "0".
    return token.token_type == INTEGER and not (
        data[base + token.at] == 45 and data[base + token.at + 1] == 48
    )


@jit
def _whole(data, base, token, least, most):  # type: ignore[no-untyped-def]
    """The value of an integer, also if written as 2.0 or 2e3; -1 if it is none or outside of its limits."""
    if token.token_type == INTEGER:
        value = integer(data, base + token.at, token.size)
    elif token.token_type == NUMBER:
        x, exact = number(data, base + token.at, token.size)
        if not exact or not least <= x <= most or x != np.floor(x):
            return -1
        value = np.int64(x)
    else:
        return -1
    return value if least <= value <= most else -1


@jit
def _event(  # type: ignore[no-untyped-def]
    data,
    span,
    tokens,
    topic_index,
    max_future_ms,
    max_past_ms,
    correct_clock,
    items,
    categories,
    key,
    e,
    text,
    text_at,
):
    """Fills one event; returns where its text ends, or -1 if the general decoder has to decode the record."""
    base = span.value_at
    user, event_id, item, category = tokens[USER], tokens[EVENT_ID], tokens[ITEM], tokens[CATEGORY]
    if span.value_bytes > MAX_VALUE_BYTES or not _is_id(data, base, user, MAX_ID_BYTES) or user.size == 0:
        return -1
    if span.key_bytes != user.size or not same_bytes(data, span.key_at, data, base + user.at, user.size):
        return -1
    if not (_none(event_id) or _is_id(data, base, event_id, MAX_ID_BYTES)):
        return -1
    if not (_none(category) or _is_id(data, base, category, MAX_NAME_BYTES)):
        return -1
    ts = _whole(data, base, tokens[TS], MIN_TS_MS, MAX_TS_MS)
    if ts < 0:
        return -1
    received = received_time(data, span)
    if correct_clock and not _none(tokens[SENT]):
        sent = _whole(data, base, tokens[SENT], 0, MAX_TS_MS)
        if sent < 0:
            return -1
        if received != UNKNOWN:
            ts = received - (sent - ts)
    # If the correction overflowed 64 bits, the result is outside of these limits too.
    if not MIN_TS_MS <= ts <= MAX_TS_MS or (received != UNKNOWN and ts - max_future_ms > received):
        return -1
    if max_past_ms > 0 and received != UNKNOWN and ts + max_past_ms < received:
        return -1
    price = tokens[PRICE]
    e.price = np.nan
    if not _none(price):
        if price.token_type != INTEGER and price.token_type != NUMBER:
            return -1
        value, exact = number(data, base + price.at, price.size)
        if not exact or not 0 <= value <= MAX_PRICE:
            return -1
        e.price = value + 0.0  # minus zero becomes zero
    quantity = tokens[QUANTITY]
    e.quantity = 1
    if not _none(quantity):
        e.quantity = _whole(data, base, quantity, 1, MAX_QUANTITY)
        if e.quantity < 0:
            return -1
    e.item_hash = 0
    e.item_check = UNKNOWN_CHECK
    e.item = items[4]
    if not _none(item):
        if item.size == 0 or not _is_id(data, base, item, MAX_NAME_BYTES):
            return -1
        e.item_hash = _hash(data, base + item.at, item.size)
        e.item_check = check(data, base + item.at, item.size, key[0], key[1])
        e.item = find(items, e.item_hash)
    elif topic_index != BROWSE:
        return -1
    e.category_hash = 0
    e.category = categories[4]
    if not _none(category) and category.size > 0:
        e.category_hash = _hash(data, base + category.at, category.size)
        e.category = find(categories, e.category_hash)
    e.offset = span.offset
    e.timestamp = span.timestamp
    e.ts = ts
    e.time = ts if received == UNKNOWN else min(ts, received)
    e.event_type = topic_index
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
    good,  # (n,) bool, cleared for records that the general decoder has to decode
    topic_index,
    partition,
    max_future_ms,
    max_past_ms,  # 0 for no limit
    correct_clock,
    items,  # `NameTable.columns`
    categories,
    key,  # of the items' checks
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
            topic_index,
            max_future_ms,
            max_past_ms,
            correct_clock,
            item_names,
            category_names,
            key,
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
