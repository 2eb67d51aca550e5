"""Times of a shop in all formats, against pandas."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.contract.mapping import TimeFormat, unix_ms

MS = st.integers(0, 253_402_300_799_999)


@pytest.mark.parametrize(
    ("value", "format_", "ms"),
    [
        (1_700_000_000_123, "ms", 1_700_000_000_123),
        ("1700000000123", "ms", 1_700_000_000_123),
        (1_700_000_000, "s", 1_700_000_000_000),
        (1_700_000_000.1239, "s", 1_700_000_000_123),
        ("1700000000.5", "s", 1_700_000_000_500),
        (1_700_000_000_123_999, "us", 1_700_000_000_123),
        ("1700000000123999", "us", 1_700_000_000_123),
        ("2026-03-01T12:00:00Z", "iso8601", 1_772_366_400_000),
        ("2026-03-01 12:00:00 UTC", "iso8601", 1_772_366_400_000),
        ("2026-03-01T13:00:00.0009+01:00", "iso8601", 1_772_366_400_000),
        ("20260301T120000Z", "iso8601", 1_772_366_400_000),
        ("1969-12-31T23:59:59.9999Z", "iso8601", -1),
        ("0001-01-01T00:00:00+14:00", "iso8601", -62_135_647_200_000),  # before the first year in UTC
        ("9999-12-31T23:59:59-14:00", "iso8601", 253_402_351_199_000),
    ],
)
def test_each_format(value: object, format_: TimeFormat, ms: int) -> None:
    """A time becomes Unix ms, rounded down."""
    assert unix_ms(value, format_, None) == ms


@pytest.mark.parametrize(
    ("value", "format_", "why"),
    [
        (True, "ms", "not a number"),
        (None, "s", "not a number"),
        (float("nan"), "ms", "not a number"),
        (float("inf"), "s", "not a number"),
        ("today", "ms", "text that is not a number"),
        ("1_000", "s", "text that is not a number"),
        ("nan", "s", "text that is not a number"),
        ("1e400", "s", "too large"),
        (10**30, "ms", "too large"),
        ([1], "us", "not a number"),
        (1_700_000_000, "iso8601", "is not text"),
        ("yesterday", "iso8601", "is not an ISO 8601 time"),
        ("2026-02-30T00:00:00Z", "iso8601", "is not an ISO 8601 time"),
        ("2026-03-01T12:00:00", "iso8601", "has no time zone"),
    ],
)
def test_what_is_no_time_is_told(value: object, format_: TimeFormat, why: str) -> None:
    """The error says what is wrong and does not quote the value."""
    with pytest.raises(ValueError, match=why) as caught:
        unix_ms(value, format_, None)
    assert "yesterday" not in str(caught.value)
    assert "today" not in str(caught.value)


@given(MS, st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC"]))
def test_times_in_zones_are_those_of_pandas(ms: int, name: str) -> None:
    """A time written in a zone, with and without its offset, is the same moment for pandas."""
    zone = ZoneInfo(name)
    moment = datetime.fromtimestamp(ms / 1000, UTC).replace(microsecond=ms % 1000 * 1000)
    if moment.year > 2200:  # beyond the nanoseconds of pandas
        moment = moment.replace(year=2200, day=1)
    local = moment.astimezone(zone)
    wanted = int(pd.Timestamp(local.isoformat()).timestamp() * 1000 + 0.5)
    assert unix_ms(local.isoformat(), "iso8601", None) == wanted
    if not local.fold:  # an hour that a clock shows twice means the first one
        assert unix_ms(local.replace(tzinfo=None).isoformat(), "iso8601", zone) == wanted


@given(MS)
def test_units_agree(ms: int) -> None:
    """The same moment in seconds, milliseconds and microseconds."""
    assert unix_ms(ms, "ms", None) == unix_ms(ms * 1000, "us", None) == ms
    assert unix_ms(ms // 1000, "s", None) == ms // 1000 * 1000
