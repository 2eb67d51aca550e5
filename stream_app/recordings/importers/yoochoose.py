"""YooChoose (RecSys Challenge 2015): sessions of a shop without user ids, so the session is the user.

There are three forms, recognised by their lines: the challenge's `yoochoose-clicks.dat` (session,time,item,category)
and `yoochoose-buys.dat` (session,time,item,price,quantity) with ISO times, and the tab-separated
`SessionId ItemId Time` with Unix seconds of the session-based recommender papers. Category 0, price 0 and
quantity 0 mean "unknown" there and are left out.
"""

import math
from datetime import UTC, datetime

from stream_app.recordings.importers.lines import Row, in_range, number_id, shown


def row(line: bytes) -> Row:
    """Return the event of a line. Raises ValueError for a line that does not describe one."""
    fields = line.split(b"\t")
    if len(fields) == 3:
        session, item, seconds = fields
        return _event("clicks", session, item, _unix_ms(seconds), b"")
    fields = line.split(b",")
    if len(fields) == 4:
        session, time, item, category = fields
        if not category.isalnum():
            raise ValueError(f"the category must be a word, not {shown(category)}")
        more = b"" if category == b"0" else b',"category_id":"%b"' % category
        return _event("clicks", session, item, _iso_ms(time), more)
    if len(fields) == 5:
        session, time, item, price, quantity = fields
        return _event("purchases", session, item, _iso_ms(time), _price(price) + _quantity(quantity))
    raise ValueError(f"expected 3 fields between tabs, or 4 or 5 between commas, not {shown(line)}")


def _event(topic: str, session: bytes, item: bytes, ts: int, more: bytes) -> Row:
    number_id(session, "the session")
    number_id(item, "the item")
    value = b'{"user_id":"%b","ts":%d,"item_id":"%b","session_id":"%b"%b}' % (
        session,
        ts,
        item,
        session,
        more,
    )
    return Row(ts, topic, session, value)


def _unix_ms(seconds: bytes) -> int:
    value = _number(seconds, "the time")
    return in_range(round(value * 1000))


def _iso_ms(time: bytes) -> int:
    try:
        moment = datetime.fromisoformat(time.decode("ascii").removesuffix(" UTC"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return in_range(round(moment.timestamp() * 1000))
    except (ValueError, OverflowError):
        raise ValueError(f"the time must look like 2014-04-07T10:51:09.277Z, not {shown(time)}") from None


def _price(raw: bytes) -> bytes:
    value = _number(raw, "the price")
    return b',"price":%b' % repr(value).encode() if value > 0 else b""


def _quantity(raw: bytes) -> bytes:
    value = int(number_id(raw, "the quantity")) if len(raw) < 10 else _number(b"", "the quantity")
    return b',"quantity":%d' % value if value > 0 else b""


def _number(raw: bytes, name: str) -> float:
    try:
        value = float(raw)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e15:
        raise ValueError(f"{name} must be a number of 0 or more, not {shown(raw)}")
    return value
