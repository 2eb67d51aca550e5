"""Points in time as people write and read them."""

import re
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from stream_app.errors import ForeclickError

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])")
_NUMBER = re.compile(r"-?\d+")
#: Unix times below the first number count as seconds (as ms they are before March 1973), from the second as µs.
_SECONDS_BELOW, _MICROSECONDS_FROM = 10**11, 10**14
#: Events further than this from the median are reported: a shop's events seldom span that much time.
FAR_MS = 10 * 365 * _UNITS_MS["d"]


class TimeError(ForeclickError):
    """A text does not name a point in time."""


def moment(text: str, end_ms: int, name: str) -> int:
    """The Unix time in ms of an option: Unix ms, an ISO time (UTC if it names no zone), or a duration.

    A duration ("7d", "12h", "30m") counts back from `end_ms`. Raises TimeError, which names the option.
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
    """Raises TimeError if `moment` would, before the end of a recording is known."""
    moment(text, 0, name)


def shown(ms: int) -> str:
    """A Unix time in ms for people: "2026-01-31 18:00:05 UTC"."""
    try:
        return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"


def span(first_ms: int | None, last_ms: int | None) -> str:
    """ "2026-01-31 18:00:05 UTC to 2026-02-01 06:12:40 UTC"; "none" without events."""
    return "none" if first_ms is None or last_ms is None else f"{shown(first_ms)} to {shown(last_ms)}"


def far_off(ts: npt.NDArray[np.int64]) -> str | None:
    """A sentence about events more than ten years from the median; None if there are none."""
    far = ts[np.abs(ts - np.int64(np.median(ts))) > FAR_MS] if len(ts) else ts
    return _far(len(far), len(ts), int(far[0])) if len(far) else None


def _far(events: int, of: int, example_ms: int) -> str:
    return (
        f"{events:,} of {of:,} events lie more than ten years from the others (such as {shown(example_ms)}): "
        "is their ts in milliseconds?"
    )


class Spread:
    """The times of any number of events in little memory: the first, the last, and a count per day."""

    def __init__(self) -> None:
        self.first_ms: int | None = None
        self.last_ms: int | None = None
        self._days: Counter[int] = Counter()

    def add(self, ts: npt.NDArray[np.int64]) -> None:
        """Adds events by their times in ms."""
        if not len(ts):
            return
        first, last = int(ts.min()), int(ts.max())
        self.first_ms = first if self.first_ms is None else min(self.first_ms, first)
        self.last_ms = last if self.last_ms is None else max(self.last_ms, last)
        days, counts = np.unique(ts // _UNITS_MS["d"], return_counts=True)
        self._days.update(dict(zip(days.tolist(), counts.tolist(), strict=True)))

    def far_off(self) -> str | None:
        """As the function `far_off`, with the precision of a day."""
        days = np.array(sorted(self._days), np.int64)
        if not len(days):
            return None
        counts = np.array([self._days[day] for day in days.tolist()])
        middle = days[np.searchsorted(counts.cumsum(), counts.sum() / 2)]
        far = np.abs(days - middle) * _UNITS_MS["d"] > FAR_MS
        if not far.any():
            return None
        example = self.first_ms if far[0] else self.last_ms
        return _far(int(counts[far].sum()), int(counts.sum()), example or 0)
