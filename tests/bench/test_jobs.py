"""The jobs of the comparison: their decoding and counting, compared with a few lines of plain Python."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.jobs.environment import job_of
from bench.jobs.events import JobDecoder
from bench.jobs.j1 import Counts
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import EVENT_TYPES, Record
from stream_app.decoding.name_table import NameTable
from tests.stream_app.helpers import changelog

T0 = 1_760_000_000

events = st.lists(
    st.tuples(
        st.sampled_from(["u1", "u2", 'ü"3']),
        st.sampled_from(EVENT_TYPES),
        st.integers(0, 10**6),
        st.sampled_from([0, 1, 1, 1000, 59_999, 60_000, 61_000, -1, -1000]),
    ),
    max_size=60,
)


def records_of(drawn: list[tuple[str, str, int, int]]) -> list[Record]:
    """Draw records of the job's topic; event time mostly moves forward."""
    ms, out = T0 * 1000, []
    for i, (user, event_type, item, step) in enumerate(drawn):
        ms += step
        event = {
            "event_id": f"{i:08d}-ab",
            "user_id": user,
            "event_type": event_type,
            "item_id": item,
            "ts": ms / 1000,
        }
        value = json.dumps(event, ensure_ascii=i % 2 == 0).encode()
        out.append(Record("in", 0, i, ms, user.encode(), value))
    return out


def plain_counts(records: list[Record]) -> list[dict[str, Any]]:
    """Return what J1 must answer, for events that are late by at most one window."""
    counts: dict[tuple[str, int], list[int]] = {}
    newest: dict[str, int] = {}
    out = []
    for r in records:
        e = json.loads(r.value or b"")
        start = int(round(e["ts"] * 1000) // 60_000 * 60)
        newest[e["user_id"]] = max(start, newest.get(e["user_id"], start))
        held = counts.setdefault((e["user_id"], start), [0, 0, 0])
        if start < newest[e["user_id"]] - 60:
            held = [0, 0, 0]
        else:
            held[EVENT_TYPES.index(e["event_type"])] += 1
        out.append(
            {"event_id": e["event_id"], "user_id": e["user_id"], "window_start": start}
            | dict(zip(("clicks", "browses", "purchases"), held, strict=True))
        )
    return out


def job(tmp_path: Path) -> Counts:
    """J1 of one partition, outside Kafka."""
    environment = {"BROKER": "127.0.0.1:1", "IN": "in", "OUT": "out", "RID": "r", "STATE": str(tmp_path)}
    made = Counts(job_of(environment, resident_users=100, max_batch=7), 1)
    made.assign(0, [0])
    return made


def answers(made: Counts) -> list[dict[str, Any]]:
    """Return all answers that are ready, each with its user as the key."""
    out = []
    while (step := made.step(0.0, ended=True)) is not None:
        for topic, partition, columns in step.columns:
            assert (topic, partition) == ("out", 0)
            for key, value in columns.each():
                said = json.loads(value or b"")
                assert key == said["user_id"].encode()
                out.append(said)
    return out


@given(events, st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None, max_examples=150)
def test_j1_counts_each_event_once(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, str, int, int]], cut: int, back: int
) -> None:
    """The counts after each event are right, even after a restart that reads some events a second time."""
    folder, records = tmp_path_factory.getbasetemp(), records_of(drawn)
    cut = min(cut, len(records))
    first = job(folder)
    first.restored(0)
    if cut:
        first.ingest(0, 0, RecordColumns.of(records[:cut]), cut)
    said = answers(first)
    made = first.checkpoint(0, 1)
    second = job(folder)
    if made is not None:
        second.restore(0, changelog(made.records.each()))
    second.restored(0)
    again = max(0, cut - back)
    if records[again:]:
        second.ingest(0, 0, RecordColumns.of(records[again:]), len(records))
    assert said + answers(second) == plain_counts(records)


def test_job_events_that_are_none() -> None:
    """A broken record becomes a bad one, an escape goes to the general decoder; neither affects other records."""
    good = {"event_id": "a", "user_id": 'u"', "event_type": "browse", "item_id": 5, "ts": 1.5}
    values = [json.dumps(good).encode(), b"{", json.dumps({**good, "event_type": "x"}).encode()]
    values.append(json.dumps({**good, "user_id": "u"}).encode())
    records = [Record("in", 3, i, 9, b"u", value) for i, value in enumerate(values)]
    found, bad = JobDecoder(NameTable(lambda _: 0, 0), 7).decode(0, RecordColumns.of(records))
    assert found.user.tolist() == ['u"', "u"]
    assert found.event_id.tolist() == ["a", "a"]
    assert [b.record.offset for b in bad] == [1, 2]
    for field, value in {"ts": 1500, "event_type": 1, "partition": 3, "category": 7, "timestamp": 9}.items():
        assert found.data[field].tolist() == [value] * 2
    assert np.isnan(found.data["price"]).all()
