"""Accepts forms of fields that differ from the contract but mean the same, and names those that it does not accept.

Null counts as absent. An id may be an integer, and an integer may be written as a number without a fraction. Fields
that are not used here are not checked, so no event is rejected because of them.
"""

import math
from typing import Annotated, Any, NamedTuple

import msgspec

from stream_app.contract.events import (
    MAX_ID_BYTES,
    MAX_NAME_BYTES,
    MAX_PRICE,
    MAX_QUANTITY,
    MAX_TS_MS,
    MIN_TS_MS,
    Id,
    Name,
    Timestamp,
)
from stream_app.decoding.dead_letter_texts import EXPECTED, type_words

#: A double represents every integer up to here.
EXACT = 2**53


class LenientFields(msgspec.Struct, gc=False, frozen=True):
    """The fields of an event that are used, in the forms that most senders write."""

    user_id: Id
    ts: Annotated[int, msgspec.Meta(ge=MIN_TS_MS, le=MAX_TS_MS)]
    event_id: Annotated[str, msgspec.Meta(max_length=MAX_ID_BYTES)] | None = None
    item_id: Name | int | None = None
    category_id: Annotated[str, msgspec.Meta(max_length=MAX_NAME_BYTES)] | None = None
    price: Annotated[float, msgspec.Meta(ge=0, le=MAX_PRICE)] | None = None
    quantity: Annotated[int, msgspec.Meta(ge=1, le=MAX_QUANTITY)] = 1


class LenientTimedFields(LenientFields, gc=False, frozen=True):
    """As `LenientFields`, and the time of the sender's clock."""

    sent_at: Timestamp | None = None


class LooseFields(msgspec.Struct, gc=False, frozen=True):
    """The same fields in any form."""

    user_id: Any = msgspec.UNSET
    ts: Any = msgspec.UNSET
    event_id: Any = None
    item_id: Any = None
    category_id: Any = None
    price: Any = None
    quantity: Any = None
    sent_at: Any = None


class RecordProblem(NamedTuple):
    """The fields of a `BadRecord` without the record."""

    reason: str
    field: str
    expected: str
    got: str


#: A click or a purchase without its item.
NO_ITEM = RecordProblem("missing_field", "item_id", "the item of a click or a purchase", "item_id is missing")


class _Refused(Exception):  # noqa: N818 - carries a problem out of the reading of one field
    def __init__(self, field: str, got: str, reason: str = "invalid_field", expected: str = "") -> None:
        self.problem = RecordProblem(reason, field, expected or EXPECTED[field], f"{field} {got}")


def fields_of(loose: LooseFields, correct_clock: bool) -> LenientFields | RecordProblem:
    """The event's fields in the contract's own forms, or the problem of the first field that is not accepted."""
    try:
        user = _id("user_id", _required("user_id", loose.user_id), MAX_ID_BYTES, 1)
        ts = _ts(_required("ts", loose.ts))
        event_id = _id("event_id", loose.event_id, MAX_ID_BYTES)
        item = _id("item_id", loose.item_id, MAX_NAME_BYTES, 1)
        category = _id("category_id", loose.category_id, MAX_NAME_BYTES)
        price = _price(loose.price)
        quantity = 1 if loose.quantity is None else _whole("quantity", loose.quantity, 1, MAX_QUANTITY)
        assert user is not None
        if not correct_clock:
            return LenientFields(user, ts, event_id, item, category, price, quantity)
        sent_at = None if loose.sent_at is None else _whole("sent_at", loose.sent_at, 0, MAX_TS_MS)
        return LenientTimedFields(user, ts, event_id, item, category, price, quantity, sent_at)
    except _Refused as refused:
        return refused.problem


def _required(field: str, value: Any) -> Any:
    if value is msgspec.UNSET or value is None:
        raise _Refused(field, "is missing" if value is msgspec.UNSET else "is null", "missing_field")
    return value


def _id(field: str, value: Any, most: int, least: int = 0) -> str | None:
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _Refused(field, f"is {type_words(value)}")
    if len(value) < least:
        raise _Refused(field, "is empty")
    if len(value) * 4 > most and (size := len(value.encode())) > most:
        raise _Refused(field, f"has {size} bytes")
    return value


def _number(field: str, value: Any) -> int | float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (isinstance(value, float) and not math.isfinite(value)):
        raise _Refused(field, f"is {type_words(value)}")
    number: int | float = value
    return number


def _price(value: Any) -> float | None:
    if value is None:
        return None
    if not 0 <= _number("price", value) <= MAX_PRICE:
        raise _Refused("price", "is negative" if value < 0 else "is too large")
    return float(value)


def _whole(field: str, value: Any, least: int, most: int) -> int:
    number = _number(field, value)
    if number != int(number):
        raise _Refused(field, f"is {type_words(number)}")
    if not least <= number <= most:
        raise _Refused(field, "is too small" if number < least else "is too large")
    return int(number)


def _ts(value: Any) -> int:
    number = _number("ts", value)
    if number < 0:
        raise _Refused("ts", "is negative")
    if number < MIN_TS_MS:
        raise _Refused("ts", "looks like seconds: give milliseconds", "past", "milliseconds")
    if number > MAX_TS_MS:
        unit = "microseconds" if number < MAX_TS_MS * 1000 else "nanoseconds"
        raise _Refused("ts", f"looks like {unit}: give milliseconds", expected="milliseconds")
    return _whole("ts", number, MIN_TS_MS, MAX_TS_MS)
