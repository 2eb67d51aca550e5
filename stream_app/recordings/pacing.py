"""The schedule of a replay: when each record is due."""

from collections.abc import Callable

from stream_app.recordings.errors import PaceError

#: Seconds since the start of the replay at which a record is due, by its number and its timestamp (Unix ms).
Due = Callable[[int, int], float]


def due_times(speed: float | None, rate: float | None) -> Due:
    """Return the schedule of a replay: `rate` records per second, `speed` times the recorded pace, or no pauses.

    Due times never decrease: a record with an older timestamp than a record before it is due with that one. Raises
    `PaceError` if both are given, or if one is not above zero.
    """
    if speed is not None and rate is not None:
        raise PaceError("a replay runs at a speed or at a rate, not both: give one of them")
    for name, value in (("speed", speed), ("rate", rate)):
        if value is not None and not value > 0:
            raise PaceError(f"the {name} of a replay must be above 0, not {value:g}")
    if rate is not None:
        return _steady(rate)
    if speed is not None:
        return _as_recorded(speed)
    return lambda _, __: 0.0


def _steady(rate: float) -> Due:
    return lambda number, _: number / rate


def _as_recorded(speed: float) -> Due:
    first: int | None = None
    latest = 0.0

    def due(_: int, timestamp: int) -> float:
        nonlocal first, latest
        if first is None:
            first = timestamp
        latest = max(latest, (timestamp - first) / 1000 / speed)
        return latest

    return due
