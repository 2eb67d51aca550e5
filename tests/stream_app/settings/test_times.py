"""Times as users write them, and the remaining time of a training."""

import numpy as np
import pytest

from model.training.train import TrainingProgress
from stream_app.commands.learning import Remaining, duration
from stream_app.contract import times

END = 1_767_316_773_000


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (str(END), END),
        ("7d", END - 7 * 86_400_000),
        ("12h", END - 12 * 3_600_000),
        ("1.5h", END - 5_400_000),
        ("90s", END - 90_000),
        ("2w", END - 14 * 86_400_000),
        ("2026-01-02", 1_767_312_000_000),
        ("2026-01-02T01:19:33", END),
        ("2026-01-02 02:19:33+01:00", END),
        ("2026-01-02T01:19:33Z", END),
        (" 7d ", END - 7 * 86_400_000),
    ],
)
def test_times_that_are_understood(text: str, wanted: int) -> None:
    """Unix milliseconds, ISO times (UTC without a zone), durations before the end."""
    assert times.moment(text, END, "--since") == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1767316773", r"--since 1767316773 looks like seconds: give Unix milliseconds \(1767316773000\)"),
        ("1767316773000000", "looks like microseconds"),
        ("0", "looks like seconds"),
        ("-3", "is not a time"),
        ("", "is not a time"),
        ("7", "looks like seconds"),
        ("7 days", "is not a time"),
        ("9" * 400 + "d", "is not a time"),
        ("9" * 400, "looks like microseconds"),
        ("2026-13-01", "is not a time"),
        ("yesterday", "a time like 2026-01-31T18:00"),
    ],
)
def test_times_that_are_refused(text: str, says: str) -> None:
    """Wrong times are refused with the option's name and the expected form."""
    with pytest.raises(times.TimeError, match=says):
        times.moment(text, END, "--since")


def test_any_time_can_be_shown() -> None:
    """Times that have no date are shown as numbers."""
    assert times.shown(END) == "2026-01-02 01:19:33 UTC"
    assert times.shown(10**18) == f"{10**18} ms"
    assert times.span(None, None) == "none"


def test_events_decades_from_the_rest_are_told_of() -> None:
    """A ts in seconds is a time in January 1970: the text has a count and an example; ordinary spans give none."""
    good = END + np.arange(1_000) * 86_400
    assert times.far_off(good) is None
    assert times.far_off(good[:0]) is None
    found = times.far_off(np.append(good, [END // 1_000, END // 1_000]))
    assert found is not None
    assert found.startswith("2 of 1,002 events lie more than ten years from the others (such as 1970-01-21")


def test_time_left_counts_the_second_training_too() -> None:
    """At ten seconds per epoch: the rest of this one, of all others at most, and of the refit."""
    now = [0.0]
    remaining = Remaining(refit=True, clock=lambda: now[0])
    assert remaining(TrainingProgress(1, 6, 0.01, 1.0)) == ""
    now[0] = 5.0
    assert remaining(TrainingProgress(1, 6, 0.5, 1.0)) == "about 2 min left"  # 5.5 epochs and 6 of the refit
    now[0] = 20.0
    assert remaining(TrainingProgress(2, 6, 1.0, 1.0)) == "about 2 min left"
    now[0] = 30.0
    assert remaining(TrainingProgress(1, 2, 0.5, 1.0, refit=True)) == "about 15 s left"
    now[0] = 40.0
    assert remaining(TrainingProgress(1, 2, 1.0, 1.0, refit=True)) == "about 10 s left"


def test_durations_have_the_unit_that_suits_them() -> None:
    """Seconds, minutes, hours."""
    assert [duration(seconds) for seconds in (9, 89, 1_800, 9_000)] == ["9 s", "89 s", "30 min", "2.5 h"]


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_spread_says_what_the_whole_says(pieces: int) -> None:
    """Counts by day and in pieces give the same ends, and the same sentence about times decades off."""
    good = END + np.arange(1_000) * 86_400_0
    for ts in (good, np.append(good, [END // 1_000] * 3), np.append(good, [END + 40 * times.FAR_MS // 10])):
        spread = times.Spread()
        for part in np.array_split(ts, pieces):
            spread.add(part)
        assert (spread.first_ms, spread.last_ms) == (ts.min(), ts.max())
        assert spread.far_off() == times.far_off(ts)
    empty = times.Spread()
    empty.add(good[:0])
    assert (empty.first_ms, empty.last_ms, empty.far_off()) == (None, None, None)
