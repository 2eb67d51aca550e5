"""How a topic of a shop is read: which values of its own records are the fields of our events."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from stream_app.contract.paths import Path, Step

#: Fields of an event that a shop file can fill.
MAPPED_FIELDS = (
    "user_id", "ts", "event_id", "item_id", "category_id", "price", "quantity", "session_id", "order_id",
    "list_id", "query", "currency",
)  # fmt: skip
REQUIRED_FIELDS = ("user_id", "ts")
#: Fields that hold numbers; text with a number counts as one.
NUMBERS = ("price", "quantity")

TimeFormat = Literal["ms", "s", "us", "iso8601"]
TIME_FORMATS: tuple[TimeFormat, ...] = ("ms", "s", "us", "iso8601")

#: Milliseconds per unit of a time that is a number.
_UNIT_MS = {"ms": 1.0, "s": 1000.0, "us": 0.001}
#: The smallest number of each format that is a time after March 1973.
_LEAST: tuple[tuple[float, TimeFormat], ...] = ((1e8, "s"), (1e11, "ms"), (1e14, "us"))
_MOST = 1e19  # no time in any of these units is larger
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]{1,19}")
_ZONE_WORD = re.compile(r"\s*(?:UTC|GMT)$")


class EventTypes(NamedTuple):
    """Where the type of an event comes from."""

    #: Alternatives: the first with a name in `names` counts, or else the first that is present. () if all events
    #: of the topic have the type `always`.
    paths: tuple[Path, ...]
    #: The event type (click, browse, purchase) by the shop's own name of it; "" means that the event is skipped.
    names: Mapping[str, str]
    #: For names that are not in `names`: skipped and counted, or invalid.
    others: Literal["skip", "dead_letter"] = "skip"
    always: str = ""


class TopicMapping(NamedTuple):
    """One topic of a shop file."""

    topic: str
    #: For each field the alternatives; the first that is present and not null counts.
    fields: Mapping[str, tuple[Path, ...]]
    types: EventTypes
    time: TimeFormat = "ms"
    #: Of ISO 8601 times without a zone; None refuses them.
    zone: ZoneInfo | None = None
    #: The steps to the array of which each element is an event; None if a record is one event.
    lines: tuple[Step, ...] | None = None


def number_in(text: str) -> int | float:
    """Return the number that a text holds. Raises ValueError for any other text; NaN and infinity are no numbers."""
    if not _NUMBER.fullmatch(text.strip()):
        raise ValueError("is text that is not a number")
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("is a number that is too large")
    return int(text) if _WHOLE.fullmatch(text.strip()) else number


def unix_ms(value: object, format_: TimeFormat, zone: tzinfo | None) -> int:
    """Return a time of the shop in Unix ms, rounded down. Raises ValueError that says what is wrong, no quote."""
    if format_ == "iso8601":
        if not isinstance(value, str):
            raise ValueError("is not text with an ISO 8601 time such as 2026-03-01T12:00:00Z")
        return _iso_ms(value, zone)
    number = number_in(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= _MOST:
        raise ValueError("is not a number, or one that is too large")
    if isinstance(number, int):  # exact where a float is not
        return {"ms": number, "s": number * 1000, "us": number // 1000}[format_]
    return math.floor(number * _UNIT_MS[format_])


def likely_format(value: object) -> TimeFormat | None:
    """Return the format that a number has if it is a time from 1973 to 5138; None for anything else."""
    try:
        number = number_in(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if isinstance(number, int | float):
        return next((format_ for least, format_ in _LEAST if least <= number < 1000 * least), None)
    return None


def _iso_ms(text: str, zone: tzinfo | None) -> int:
    plain, words = _ZONE_WORD.subn("", text.strip())
    try:
        time = datetime.fromisoformat(plain)
    except ValueError:
        raise ValueError("is not an ISO 8601 time such as 2026-03-01T12:00:00Z") from None
    if time.tzinfo is None and words:
        time = time.replace(tzinfo=UTC)
    elif time.tzinfo is None and zone is not None:
        time = time.replace(tzinfo=zone)
    elif time.tzinfo is None:
        raise ValueError('has no time zone: add `zone = "UTC"` or the zone of the shop to the shop file')
    since = time - _EPOCH
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000
