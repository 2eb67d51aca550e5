"""A data-quality report in words: the same lines for the terminal and for the page."""

from collections.abc import Iterator

from stream_app.contract import times
from stream_app.recordings.inspection.measure import (
    ROBOT_EVENTS_1D,
    ROBOT_EVENTS_1M,
    Distribution,
    Report,
    Share,
)

Section = tuple[str, list[tuple[str, str]]]


def sections(report: Report) -> Iterator[Section]:
    """Yield headings with names and values, the same for every recording."""
    days = (report.last_ms - report.first_ms) / 86_400_000
    yield (
        "Events",
        [
            ("time", f"{times.span(report.first_ms, report.last_ms)} ({days:,.1f} days)"),
            ("records", f"{report.records:,}"),
            ("events", _share(Share(report.events, report.records))),
            *((name, _share(Share(n, report.events))) for name, n in report.by_type.items()),
        ],
    )
    yield (
        "Users and items",
        [
            ("users", f"{report.users:,}"),
            ("with one event only", _share(Share(report.single_event_users, report.users))),
            ("events per user", _quantiles(report.events_per_user, "{:,.0f}")),
            ("items", f"{report.items:,}"),
            ("categories", f"{report.categories:,}"),
            ("sessions (30 min without an event end one)", f"{report.sessions:,}"),
            ("events per session", _quantiles(report.events_per_session, "{:,.0f}")),
            ("minutes per session", _quantiles(report.session_minutes, "{:,.1f}")),
        ],
    )
    quality = [
        (f"invalid: {reason}", _share(Share(n, report.records))) for reason, n in report.invalid.items()
    ]
    quality += [
        ("duplicates (same user, event_id, type, item)", _share(Share(report.duplicates, report.events))),
        (
            "possible duplicates (no event_id; same user, time, type, item)",
            _share(Share(report.possible_duplicates, report.events)),
        ),
        ("late by more than a minute", _share(Share(report.late, report.events))),
        *((f"without {name}", _share(share)) for name, share in report.missing.items()),
        *((name, f"{n:,}") for name, n in report.impossible.items()),
        (
            f"robots (over {ROBOT_EVENTS_1M} clicks and browses in a minute, or {ROBOT_EVENTS_1D:,} in 24 hours)",
            f"{report.robots:,} users, {_share(Share(report.robot_events, report.events))} of all events",
        ),
        (
            "longest time without any event",
            f"{report.longest_silence_ms / 3_600_000:,.1f} h from {times.shown(report.longest_silence_from_ms)}",
        ),
    ]
    yield "Quality", quality


def _share(share: Share) -> str:
    return f"{share.count:,} ({100 * share.part:.1f} %)" if share.of else f"{share.count:,}"


def _quantiles(values: Distribution, form: str) -> str:
    names = ("median", "90 %", "99 %", "largest")
    numbers = (values.median, values.p90, values.p99, values.largest)
    return ", ".join(f"{name} {form.format(number)}" for name, number in zip(names, numbers, strict=True))
