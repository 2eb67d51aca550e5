"""The Complete Journey as the demo's traffic: its latest events, the first part to learn from, the rest to replay.

All times move by the same number of whole days, so that the events end today and keep their hours of the day. Nothing
is planted in these data, so only results that follow from the events themselves can be checked.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.lab.demo.plan import DemoError, Plan
from stream_app.recordings.importers import complete_journey
from stream_app.recordings.importers.assemble import records_of
from stream_app.recordings.importers.lines import Row
from stream_app.recordings.recording import RecordingWriter

_DAY_MS = 86_400_000

WriteProgress = Callable[[int], None]


def write_history(plan: Plan, now_ms: int, progress: WriteProgress) -> None:
    """Write the first `plan.events` of the events. Raises DemoError if there are too few."""
    records, _ = _parts(plan, now_ms)
    _write(plan, plan.history, records)
    progress(plan.events)


def write_live(plan: Plan, now_ms: int, progress: WriteProgress) -> list[Record]:
    """Write the events after the history, and return them. Offsets count from zero."""
    _, records = _parts(plan, now_ms)
    _write(plan, plan.live_recording, records)
    progress(plan.events + plan.live)
    return records


def _parts(plan: Plan, now_ms: int) -> tuple[list[Record], list[Record]]:
    wanted = plan.events + plan.live
    rows = list(complete_journey.rows(latest=wanted))
    if len(rows) < wanted:
        raise DemoError(
            f"the data have {len(rows):,} events, not {wanted:,}: lower --events, --rate or --seconds"
        )
    days = (now_ms - rows[-1].ts - 1) // _DAY_MS
    moved = list(_moved(rows, days * _DAY_MS))
    return (
        [*chain.from_iterable(records_of(moved[: plan.events], plan.partitions))],
        [*chain.from_iterable(records_of(moved[plan.events :], plan.partitions))],
    )


def _moved(rows: list[Row], by_ms: int) -> Iterator[Row]:
    for ts, topic, key, value in rows:
        fresh = ts + by_ms
        yield Row(fresh, topic, key, value.replace(b'"ts":%d' % ts, b'"ts":%d' % fresh, 1))


def _write(plan: Plan, path: Path, records: list[Record]) -> None:
    topics = dict.fromkeys(INPUT_TOPICS, plan.partitions)
    with RecordingWriter(path, topics, {"made_by": "demo", "data": str(plan.data)}) as writer:
        writer.extend(records)
