"""The statistics of the demo: latency join, exactness, hit rate, flags, and the truth about the live traffic."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.lab.demo.measures import AnswerTimes, FlagMatch, NextItems, Rate, exactness
from stream_app.lab.demo.plan import Plan
from stream_app.lab.demo.processes import Running, runs, stop_left
from stream_app.lab.demo.traffic import write_history, write_live
from stream_app.lab.demo.truth import Truth
from stream_app.lab.generator import Label
from stream_app.lab.generator.stream import labels_beside, read_labels
from stream_app.recordings.recording import RecordingReader

NOW_MS = 1_790_000_000_000


def _rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(-1, 9), st.integers(0, 10_000)), max_size=60),
    st.integers(0, 10_000),
)
def test_answers_join_equals_naive(steps: list[tuple[bool, int, int]], since: int) -> None:
    """The join gives the same latencies as a plain dictionary, in either order, and counts every answer."""
    answers = AnswerTimes(10)
    appended: dict[int, int] = {}
    first: dict[int, int] = {}
    times = [0] * 10
    strangers = 0
    for is_answer, row, at in steps:
        if is_answer:
            answers.answered(_rows(row), _rows(at))
            if row < 0:
                strangers += 1
            else:
                first.setdefault(row, at)
                times[row] += 1
        elif row >= 0 and row not in appended:
            answers.appended(_rows(row), _rows(at))
            appended[row] = at
    took = [first[row] - appended[row] for row in first if row in appended and first[row] >= since]
    found = answers.latency(since)
    assert found.count == len(took)
    assert answers.times.tolist() == times
    assert answers.strangers == strangers
    assert np.flatnonzero(answers.present).tolist() == sorted(appended)
    if took:
        assert found.p50 == pytest.approx(np.quantile(took, 0.5))
        assert found.p99 == pytest.approx(np.quantile(took, 0.99))
    else:
        assert math.isnan(found.p50)


def test_answers_repeated_in_one_batch() -> None:
    """Of two answers to one record in a batch, the latency is that of the first, and both are counted."""
    answers = AnswerTimes(3)
    answers.appended(_rows(0, 1, 2), _rows(100, 100, 100))
    answers.answered(_rows(1, 1, 0), _rows(110, 150, 130))
    assert answers.times.tolist() == [1, 2, 0]
    assert answers.latency().p50 == 20.0  # of 10 and 30
    assert answers.latency(since_ms=120).count == 1


@pytest.mark.parametrize(
    ("times", "strangers", "expected"),
    [
        ([1, 1, 0], 0, (2, 2, 0, 0, True)),
        ([1, 0, 0], 0, (2, 1, 0, 0, False)),
        ([1, 3, 0], 0, (2, 2, 2, 0, False)),
        ([1, 1, 1], 0, (2, 2, 0, 1, False)),
        ([1, 1, 0], 1, (2, 2, 0, 1, False)),
    ],
)
def test_exactness(times: list[int], strangers: int, expected: tuple[object, ...]) -> None:
    """A missing and a repeated answer, and one to an invalid or unknown record, each make the result inexact."""
    found = exactness(np.array([True, True, False]), np.array(times, np.int32), strangers)
    assert (found.good, found.answered, found.repeated, found.unasked, found.exact) == expected


def test_next_items_settled_by_the_next_event() -> None:
    """A prediction is judged by its own user's next event, and not at all if that names no item."""
    items = NextItems(["a", "b"], k=2)
    items.add("u", "x", ["y", "z", "a"])  # a user's first event decides nothing
    items.add("v", "y", ["q"])
    items.add("u", "y", ["b"])  # hit
    items.add("u", None, ["a"])  # nothing to decide
    items.add("u", "b", ["c"])  # missed, although popular
    items.add("v", "a", [])  # missed, although popular: "a" was in no list of v
    assert (items.cases, items.hits, items.popular_hits) == (3, 1, 2)
    assert items.rate == pytest.approx(1 / 3)
    assert items.popular_rate == pytest.approx(2 / 3)


def test_next_items_cut_to_k() -> None:
    """Items beyond the k-th do not count, for the model and for the popular ones alike."""
    items = NextItems(["a", "b", "c"], k=2)
    items.add("u", None, ["x", "y", "z"])
    items.add("u", "z", [])
    items.add("u", "c", [])
    assert (items.cases, items.hits, items.popular_hits) == (2, 0, 0)
    assert math.isnan(NextItems([]).rate)


def test_flags_against_planted_users() -> None:
    """Users count once, codes of another kind do not count, and without planted users there is no rate."""
    flags = FlagMatch()
    flags.add("bot1", ["click_rate", "many_items"])
    flags.add("bot1", ["click_rate"])
    flags.add("someone", ["many_items"])
    flags.add("thief", ["amount_jump"])
    found = flags.against(["click_rate", "many_items"], {"bot1", "bot2"})
    assert (found.planted, found.found, found.flagged) == (2, 1, 2)
    assert (found.recall, found.precision) == (0.5, 0.5)
    assert flags.codes["click_rate"] == 2
    assert math.isnan(flags.against(["purchase_rate"], set()).precision)
    assert math.isnan(flags.against(["purchase_rate"], set()).recall)


def test_rate_over_a_window() -> None:
    """The rate is that of the last seconds only."""
    rate = Rate(window_s=2.0)
    assert rate.mark(0.0, 0) == 0.0
    assert rate.mark(1.0, 1000) == 1000.0
    for second in range(2, 6):
        last = rate.mark(float(second), 1000 + 10 * second)
    assert last == 10.0


def _record(topic: str, offset: int, **body: object) -> Record:
    return Record(topic, 0, offset, 0, b"u", msgspec.json.encode(body))


def test_truth_of_a_small_stream() -> None:
    """Malformed records and duplicates need no answer; a duplicate of a record before the traffic does."""
    records = [
        _record("clicks", 0, user_id="u", event_id="a", item_id="x"),
        _record("purchases", 0, user_id="w", event_id="b", item_id="x"),
        _record("clicks", 1, user_id="u", event_id="a", item_id="x"),
        Record("clicks", 0, 2, 0, b"u", b"{"),
        Record("browses", 0, 0, 0, b"v", msgspec.msgpack.encode({"user_id": "v", "event_id": "c"})),
    ]
    labels = [
        Label("duplicate", "clicks", 0, 1, "u", "a"),
        Label("duplicate", "browses", 0, 0, "v", "c"),
        Label("malformed", "clicks", 0, 2, "u", "d", "broken_json"),
        Label("fraud", "purchases", 0, 0, "w", "b"),
        Label("late", "clicks", 0, 0, "u", "a", 7_000),
    ]
    truth = Truth(records, labels, 1)
    assert truth.good.tolist() == [True, False, False, True, True]
    assert truth.malformed.tolist() == [False, False, True, False, False]
    assert truth.duplicate.tolist() == [False, True, False, False, False]
    assert dict(truth.reasons) == {"malformed": 1}
    assert truth.late == 1
    assert truth.users_of("fraud", np.ones(5, np.bool_)) == {"w"}
    assert truth.users_of("fraud", np.zeros(5, np.bool_)) == set()
    assert [truth.row_of_id(f"{t}-0-0") for t in INPUT_TOPICS] == [0, 3, 4]
    for stranger in ("clicks-0-3", "clicks-1-0", "other-0-0", "clicks", "clicks-0-x", ""):
        assert truth.row_of_id(stranger) == -1
    assert truth.items[truth.item[4]] == "x"
    assert truth.item[3] == -1


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A small demo."""
    return Plan(folder=tmp_path_factory.mktemp("demo"), events=15_000, rate=1_000, seconds=5, seed=3)


def test_live_follows_history_and_ends_now(plan: Plan) -> None:
    """Live records come after the history, from the same users, end just before now, and count from zero."""
    write_history(plan, NOW_MS, lambda _: None)
    truth = write_live(plan, NOW_MS, lambda _: None)
    history, live = list(RecordingReader(plan.history)), list(RecordingReader(plan.live_recording))
    assert (len(history), len(live), len(truth)) == (15_000, 5_000, 5_000)
    assert history[-1].timestamp < live[0].timestamp
    assert 0 < NOW_MS - live[-1].timestamp < 5_000
    assert len({r.key for r in live} & {r.key for r in history}) > 0.8 * len({r.key for r in live})
    assert not {r.value for r in live if r.value} & {r.value for r in history if r.value}
    for topic in INPUT_TOPICS:
        for partition in range(4):
            offsets = [r.offset for r in live if (r.topic, r.partition) == (topic, partition)]
            assert offsets == list(range(len(offsets)))


def test_labels_beside_the_live_recording(plan: Plan) -> None:
    """Each label belongs to an existing record, with the record's current offset."""
    truth = write_live(plan, NOW_MS, lambda _: None)
    live = {(r.topic, r.partition, r.offset): r for r in RecordingReader(plan.live_recording)}
    labels = read_labels(labels_beside(plan.live_recording))
    assert {label.kind for label in labels} >= {"late", "duplicate", "malformed"}
    for label in labels:
        value = live[label.topic, label.partition, label.offset].value
        if label.kind != "malformed":
            assert value is not None
            assert label.event_id.encode() in value
    assert sum(truth.reasons.values()) == sum(label.kind == "malformed" for label in labels)


def test_history_is_the_same_at_any_time(plan: Plan) -> None:
    """The same plan on another day, with more live traffic, gives the same history, moved by whole days."""
    write_history(plan, NOW_MS, lambda _: None)
    first = list(RecordingReader(plan.history))
    longer = msgspec.structs.replace(plan, seconds=2 * plan.seconds)
    write_history(longer, NOW_MS + 40 * 3_600_000, lambda _: None)
    second = list(RecordingReader(plan.history))
    shifts = {b.timestamp - a.timestamp for a, b in zip(first, second, strict=True)}
    assert len(shifts) == 1
    assert shifts.pop() % 86_400_000 == 0
    assert [r.key for r in first] == [r.key for r in second]


def test_a_stale_note_ends_no_stranger(tmp_path: Path) -> None:
    """The file of an ended worker whose process id another process has now neither counts nor kills that process."""
    import os

    plan = Plan(folder=tmp_path)
    (tmp_path / "running.json").write_bytes(msgspec.json.encode(Running(os.getpid(), 1.0)))
    assert not runs(plan)
    assert stop_left(plan) == []
    assert not (tmp_path / "running.json").exists()
