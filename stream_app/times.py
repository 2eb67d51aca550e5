"""Points in time as a person writes and reads them."""

import re
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from stream_app.errors import ForeclickError

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])")
_NUMBER = re.compile(r"-?\d+")
#: Unix times below are taken for seconds (as milliseconds they lie before March 1973), those above for microseconds.
_SECONDS_BELOW, _MICROSECONDS_FROM = 10**11, 10**14
#: Events further than this from the middle one are told of: such a span is seldom what happened in a shop.
FAR_MS = 10 * 365 * _UNITS_MS["d"]


class TimeError(ForeclickError):
    """A text that is not a point in time."""


def moment(text: str, end_ms: int, name: str) -> int:
    """The Unix time in ms that an option means: Unix ms, an ISO time (UTC where it names no zone), or a duration.

    A duration ("7d", "12h", "30m") is that long before `end_ms`. Raises TimeError, which names the option.
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        number = int(text)
        if 0 <= number < _SECONDS_BELOW:
            raise TimeError(f"{name} {text} looks like seconds: give Unix milliseconds ({text}000)")
        if number >= _MICROSECONDS_FROM:
            raise TimeError(f"{name} {text} looks like microseconds or less: give Unix milliseconds")
        if number > 0:
            return number
    elif match := _DURATION.fullmatch(text):
        return end_ms - round(float(match[1]) * _UNITS_MS[match[2]])
    else:
        try:
            when = datetime.fromisoformat(text)
            return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
        except (ValueError, OverflowError):
            pass
    raise TimeError(
        f"{name} {text!r} is not a time: give Unix milliseconds, a time like 2026-01-31T18:00 (UTC), or a duration "
        "before the end of the recording like 7d or 12h"
    )


def check(text: str, name: str) -> None:
    """Raise TimeError where `moment` would, before the end of a recording is known."""
    moment(text, 0, name)


def shown(ms: int) -> str:
    """A Unix time in ms as a person reads it: "2026-01-31 18:00:05 UTC"."""
    try:
        return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"


def span(first_ms: int | None, last_ms: int | None) -> str:
    """ "2026-01-31 18:00:05 UTC to 2026-02-01 06:12:40 UTC"; "none" without events."""
    return "none" if first_ms is None or last_ms is None else f"{shown(first_ms)} to {shown(last_ms)}"


def far_off(ts: npt.NDArray[np.int64]) -> str | None:
    """A sentence about events that lie more than ten years from the middle one; None where there are none."""
    far = ts[np.abs(ts - np.int64(np.median(ts))) > FAR_MS] if len(ts) else ts
    if not len(far):
        return None
    return (
        f"{len(far):,} of {len(ts):,} events lie more than ten years from the others (such as {shown(int(far[0]))}): "
        "is their ts in milliseconds?"
    )
