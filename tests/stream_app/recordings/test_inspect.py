"""`foreclick inspect`: every number against pandas or a plain loop, on planted faults and on real events."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pandas as pd
import pytest

from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.lab.generator import read_labels
from stream_app.recordings.errors import RecordingMismatchError
from stream_app.recordings.importers import import_files
from stream_app.recordings.inspection.measure import Report, inspect
from stream_app.recordings.inspection.page import page
from stream_app.recordings.recording import RecordingReader, RecordingWriter
from tests.stream_app.command_line import run, run_json

T0 = 1_767_225_600_000  # 2026-01-01, Unix ms


def write(path: Path, events: list[tuple[str, dict[str, Any]]]) -> Path:
    """A recording of events in one partition."""
    with RecordingWriter(path, dict.fromkeys(INPUT_TOPICS, 1)) as writer:
        offsets = dict.fromkeys(INPUT_TOPICS, 0)
        for topic, event in events:
            body = json.dumps(event).encode()
            key = str(event.get("user_id", "")).encode()
            writer.append(Record(topic, 0, offsets[topic], event.get("ts", T0), key, body))
            offsets[topic] += 1
    return path


def table(path: Path) -> pd.DataFrame:
    """The events of a recording as pandas has them; only for recordings without invalid records."""
    rows = [{"topic": r.topic, **msgspec.json.decode(r.value or b"")} for r in RecordingReader(path)]
    return pd.DataFrame(rows)


def against_pandas(report: Report, frame: pd.DataFrame) -> None:
    """The numbers that pandas has a word for."""
    sizes = frame.groupby("user_id").size()
    assert (report.users, report.events) == (len(sizes), len(frame))
    assert report.items == frame["item_id"].nunique()
    assert report.events_per_user.largest == sizes.max()
    assert report.events_per_user.median == sizes.quantile(0.5, interpolation="lower")
    assert report.single_event_users == (sizes == 1).sum()
    ordered = frame.sort_values(["user_id", "ts"], kind="stable")
    pause = ordered.groupby("user_id")["ts"].diff()
    assert report.sessions == (pause.isna() | (pause > 1_800_000)).sum()
    assert report.longest_silence_ms == frame["ts"].sort_values().diff().max()
    assert (report.first_ms, report.last_ms) == (frame["ts"].min(), frame["ts"].max())
    names = {"clicks": "click", "browses": "browse", "purchases": "purchase"}
    assert report.by_type == {names[t]: int((frame["topic"] == t).sum()) for t in INPUT_TOPICS}
    hours = pd.to_datetime(frame["ts"], unit="ms").dt.hour.value_counts().reindex(range(24), fill_value=0)
    assert report.by_hour == hours.tolist()
    days = pd.to_datetime(frame["ts"], unit="ms").dt.strftime("%Y-%m-%d").value_counts()
    assert {day: sum(counts) for day, counts in report.by_day.items() if sum(counts)} == days.to_dict()


def test_each_fault_is_counted(tmp_path: Path) -> None:
    """One or a few of everything that the report names."""
    seen = {"user_id": "u", "ts": T0 + 600_000, "item_id": "i", "event_id": "e"}
    events: list[tuple[str, dict[str, Any]]] = [
        ("clicks", seen),
        ("clicks", seen),  # a duplicate
        ("browses", {"user_id": "u", "ts": T0 + 700_000}),
        ("browses", {"user_id": "u", "ts": T0 + 700_000}),  # possibly one
        ("clicks", {"user_id": "u", "ts": T0 + 500_000, "item_id": "i"}),  # late by 100 s
        ("clicks", {"user_id": "u", "ts": T0 + 550_000, "item_id": "i"}),  # by 50 s only
        ("purchases", {"user_id": "v", "ts": T0 + 900_000, "item_id": "j", "price": 0}),
        ("purchases", {"user_id": "v", "ts": T0 + 900_001, "item_id": "j", "quantity": 1001}),
        ("purchases", {"user_id": "v", "ts": T0 + 900_002, "item_id": "j", "price": 1e6, "category_id": "c"}),
        ("clicks", {"user_id": "w", "ts": T0 + 901_000}),  # invalid: no item
        ("clicks", {"user_id": "w", "item_id": "k"}),  # invalid: no time
        *(
            ("clicks", {"user_id": "bot", "ts": T0 + 902_000 + 900 * n, "item_id": f"b{n}"})
            for n in range(61)
        ),
        *(("clicks", {"user_id": "fast", "ts": T0 + 960_000 + 1000 * n, "item_id": "x"}) for n in range(60)),
        *(("purchases", {"user_id": "receipt", "ts": T0 + 999_000, "item_id": f"r{n}"}) for n in range(90)),
    ]
    report = inspect(write(tmp_path / "a.stream", events))
    assert (report.records, report.events, report.invalid) == (222, 220, {"missing_field": 2})
    assert (report.duplicates, report.possible_duplicates, report.late) == (1, 1, 1)
    assert report.impossible == {
        "purchases at a price of 0": 1, "prices above 100,000": 1, "quantities above 1,000": 1,
    }  # fmt: skip
    missing = {name: (share.count, share.of) for name, share in report.missing.items()}
    assert missing == {
        "event_id": (218, 220), "item_id": (2, 220), "category_id": (219, 220), "price of a purchase": (91, 93),
    }  # fmt: skip
    assert (report.robots, report.robot_events) == (1, 61)
    assert report.warnings == []


def test_planted_faults_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Duplicates and malformed records of generated traffic, as its labels count them."""
    out = tmp_path / "g.stream"
    assert run("generate", "--out", out, "--events", 8000, "--users", 300, "--malformed-share", 0.01) == 0
    report = inspect(out)
    kinds = [label.kind for label in read_labels(tmp_path / "g.labels.jsonl")]
    # An event that arrives before this process's clock of the record counts; a time far ahead does as well here.
    assert sum(report.invalid.values()) <= kinds.count("malformed") <= report.records - report.events + 60
    assert report.duplicates == kinds.count("duplicate") > 20
    assert report.late > 0
    capsys.readouterr()


def test_a_random_stream_against_pandas(tmp_path: Path) -> None:
    """Users, sessions, silences, days and hours."""
    random = np.random.default_rng(5)
    ts = np.sort(T0 + random.integers(0, 5 * 86_400_000, 3000))
    events = []
    for t in ts.tolist():
        topic, user, item = (int(random.integers(n)) for n in (3, 200, 99))
        events.append((INPUT_TOPICS[topic], {"user_id": f"u{user}", "ts": t, "item_id": f"i{item}"}))
    path = write(tmp_path / "a.stream", events)
    against_pandas(inspect(path), table(path))


def test_real_events_against_pandas(data_dir_real: Path, tmp_path: Path) -> None:
    """Two hours of Taobao."""
    out = tmp_path / "t.stream"
    import_files("taobao", [data_dir_real / "taobao_user_behavior" / "UserBehavior.csv"], out)
    report = inspect(out)
    against_pandas(report, table(out))
    assert report.robots == 0


def test_what_the_command_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text, JSON and a page with the same numbers; a page never replaces another file."""
    path = write(tmp_path / "a.stream", [("clicks", {"user_id": "u", "ts": T0, "item_id": "<i>"})])
    html = tmp_path / "a.html"
    assert run("inspect", path, "--html", html) == 0
    text = capsys.readouterr().out
    assert re.search(r"^  users +1$", text, re.M)
    assert "click     1 (100.0 %)" in text
    found = run_json(capsys, "inspect", path, "--html", html)
    assert (found["users"], found["by_day"]) == (1, {"2026-01-01": [1, 0, 0]})
    drawn = html.read_text()
    for image in re.findall(r"<svg.*?</svg>", drawn, re.S):
        ElementTree.fromstring(image)
    assert drawn == page(inspect(path))
    assert "http" not in drawn
    assert "<script" not in drawn
    (tmp_path / "notes.html").write_text("mine")
    assert run("inspect", path, "--html", tmp_path / "notes.html") == 1
    assert "is not a report" in capsys.readouterr().err
    assert run("inspect", path, "--html", path) == 1
    assert "would be written over" in capsys.readouterr().err


def test_a_recording_without_events(tmp_path: Path) -> None:
    """One sentence that says what there was instead."""
    with pytest.raises(RecordingMismatchError, match="no valid event: 1 missing_field"):
        inspect(write(tmp_path / "a.stream", [("clicks", {"user_id": "w", "item_id": "k"})]))
    with pytest.raises(RecordingMismatchError, match="no records"):
        inspect(write(tmp_path / "b.stream", []))


def test_one_wrong_time_hides_no_days(tmp_path: Path) -> None:
    """The plot of days shows the days around the median; the page says how many events lie elsewhere."""
    near = [("clicks", {"user_id": "u", "ts": T0 + n * 86_400_000, "item_id": "i"}) for n in range(3)]
    for far in (10**11, 253_402_300_799_999):
        event = {"user_id": "u", "ts": far, "item_id": "i"}
        report = inspect(write(tmp_path / "a.stream", [*near, ("clicks", event)]))
        days = {"2026-01-01": [1, 0, 0], "2026-01-02": [1, 0, 0], "2026-01-03": [1, 0, 0]}
        assert report.by_day == days
        assert "1 events lie before or after these days" in page(report)
    two = inspect(write(tmp_path / "b.stream", [near[0], ("clicks", event)]))
    assert two.by_day == {"2026-01-01": [1, 0, 0]}
