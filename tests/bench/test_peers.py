"""The comparison with other engines: expected results, checks, runner and report, without any of the engines."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from bench.peers import environments, java, report
from bench.peers.check import Verdict, judge
from bench.peers.figures import Figures, Sample, measure
from bench.peers.generate import KINDS, Traffic, produce, recent_start, records, traffic, truth
from bench.peers.runner import Bed, Patience, Result, run
from bench.peers.systems import SYSTEMS, System, chosen
from bench.peers.topics import Topics
from stream_app.cli import main
from stream_app.lab.broker import EmbeddedKafka
from stream_app.lab.commands.bench import BenchError

EVENTS = 3_000
REFERENCE = Path(__file__).with_name("reference_job.py")
Outputs = list[tuple[bytes | None, bytes]]


@pytest.fixture(scope="module")
def events() -> Traffic:
    """Events in two windows."""
    return traffic(EVENTS, start_s=1_767_225_658, users=50)


@pytest.fixture(scope="module")
def answers(events: Traffic) -> Outputs:
    """Return what a correct job publishes, computed by a plain loop."""
    counts: Counter[tuple[str, int, str]] = Counter()
    found: Outputs = []
    for key, value, _ in records(events):
        event = json.loads(value)
        user, start = event["user_id"], int(event["ts"] // 60) * 60
        counts[user, start, event["event_type"]] += 1
        clicks, browses, purchases = (counts[user, start, kind] for kind in KINDS)
        answer = {"event_id": event["event_id"], "user_id": user, "window_start": start}
        answer |= {"clicks": clicks, "browses": browses, "purchases": purchases}
        found.append((key, json.dumps(answer).encode()))
    return found


def test_the_truth_is_that_of_a_plain_loop(events: Traffic, answers: Outputs) -> None:
    """The generator's counts per user and window equal the last counts of a loop over the JSON."""
    last: dict[tuple[str, int], tuple[int, int, int]] = {}
    for _, value in answers:
        a = json.loads(value)
        last[a["user_id"], a["window_start"]] = (a["clicks"], a["browses"], a["purchases"])
    assert truth(events).counts == last
    assert {start for _, start in last} == {1_767_225_600, 1_767_225_660}


def test_the_input_is_as_the_job_says() -> None:
    """Events have 107 bytes, 14 % are of one user; they are 1 ms apart and in the past. A prefix has equal events."""
    many = traffic(200_000, recent_start(200_000))
    sizes = [len(value) for _, value, _ in records(many)]
    assert np.mean(sizes) == pytest.approx(107, abs=1)
    assert np.mean(many.user == 0) == pytest.approx(0.145, abs=0.01)
    times = [time for _, _, time in records(many.take(10))]
    assert np.diff(times).tolist() == [1] * 9
    assert list(records(many))[:10] == list(records(many.take(10)))
    assert json.loads(next(records(many))[1]).keys() == {"event_id", "user_id", "event_type", "item_id", "ts"}


def changed(answer: tuple[bytes | None, bytes], **fields: object) -> tuple[bytes | None, bytes]:
    return answer[0], json.dumps({**json.loads(answer[1]), **fields}).encode()


def test_a_right_output_passes(events: Traffic, answers: Outputs) -> None:
    """Correct outputs have no problem, in whatever order the partitions were read."""
    by_user = sorted(answers, key=lambda answer: answer[0] or b"")
    for outputs in (answers, by_user):
        verdict = judge(outputs, truth(events), "counts")
        assert verdict.right
        assert verdict.faults() == ""
        assert verdict.outputs == EVENTS


def test_every_fault_is_found(events: Traffic, answers: Outputs) -> None:
    """Missing, repeated, misplaced, unasked, incomplete and wrong outputs are counted separately."""
    last = answers[-1]
    bare = changed(answers[9], window_start=None)
    counted = {key: json.loads(last[1])[key] for key in ("clicks", "browses", "purchases")}
    faults: dict[str, tuple[Outputs, int]] = {
        "missing": (answers[:5] + answers[6:], 1),
        "repeated": ([*answers, last, last], 2),
        "wrong_keys": ([*answers[:-1], (b"nobody", last[1])], 1),
        "unasked": ([*answers, (b"u1", b"no JSON"), changed(last, event_id="99999999-0")], 2),
        "incomplete": ([*answers[:9], bare, *answers[10:]], 1),
        "over": ([*answers[:-1], changed(last, clicks=counted["clicks"] + 3)], 3),
        "lost": ([*answers[:-1], changed(last, **dict.fromkeys(counted, 0))], sum(counted.values())),
    }
    for name, (outputs, number) in faults.items():
        verdict = judge(outputs, truth(events), "counts")
        assert getattr(verdict, name) == number, name
        assert not verdict.right, name
        assert verdict.faults(), name
    repeated = judge(faults["repeated"][0], truth(events), "counts")
    assert repeated.exact  # a repeat after a crash is not wrong
    assert judge(faults["over"][0], truth(events), "counts").wrong_windows == 1


def test_an_answer_under_another_users_name_is_a_wrong_key(events: Traffic, answers: Outputs) -> None:
    """Key and user_id can be equal and still not be the event's user."""
    value = json.loads(answers[0][1])
    other = "u7" if value["user_id"] != "u7" else "u8"
    outputs = [changed((other.encode(), answers[0][1]), user_id=other), *answers[1:]]
    assert judge(outputs, truth(events), "counts").wrong_keys == 1


def test_no_outputs_are_not_right(events: Traffic) -> None:
    """A system without outputs is always wrong."""
    for kind in ("counts", "bare", "predictions", "changes"):
        assert not judge([], truth(events), kind).right


def test_predictions_need_items_and_next_event(events: Traffic, answers: Outputs) -> None:
    """Of predictions, everything except the numbers is checked."""
    full = [changed(a, next_event={"click": 1.0}, items=[{"item_id": "3"}]) for a in answers]
    assert judge(full, truth(events), "predictions").right
    assert judge([*full[1:], answers[0]], truth(events), "predictions").incomplete == 1


def test_changes_are_judged_by_the_latest(events: Traffic, answers: Outputs) -> None:
    """Changed counts may arrive in any order: their own time decides, and withdrawn ones do not count."""
    changes = [changed(answer, time=number, diff=1) for number, answer in enumerate(answers)]
    back = [changed(answer, time=number + 1, diff=-1) for number, answer in enumerate(answers)]
    verdict = judge([*reversed(changes), *back], truth(events), "changes")
    assert verdict.right
    assert verdict.outputs == 2 * EVENTS
    assert judge(changes[:-1], truth(events), "changes").lost == 1


def test_figures_are_those_of_a_run_made_by_hand() -> None:
    """The figures show 1,000 events/s for ten seconds at half a core, and a tenth of a core for the broker."""
    samples = [Sample(100 + t, 1 + 0.5 * t, 0.1 * t, 0.8 * t, 10_000_000 + t) for t in range(15)]
    times = 102 + np.arange(10_000) / 1000
    figures = measure(samples, times, 10_000, start_s=100.5, steady=True)
    assert figures.events_s == pytest.approx(1_000, rel=1e-3)
    assert figures.cpu_us == pytest.approx(500, rel=1e-3)
    assert figures.cores == pytest.approx(0.5)
    assert figures.broker_us == pytest.approx(100, rel=1e-3)
    assert figures.other_cores == pytest.approx(0.2)
    assert figures.cpu_us_whole == pytest.approx(800)
    assert figures.start_s == pytest.approx(1.5)
    assert figures.span_s == pytest.approx(8, rel=1e-3)
    few = measure(samples, times[::10], 10_000, start_s=100.5, steady=False)
    assert few.events_s == pytest.approx(1_000, rel=2e-3)


@pytest.fixture(scope="module")
def bed(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """The common part of all runs with a small input, on an existing broker."""
    part = traffic(EVENTS, recent_start(EVENTS), users=50)
    topics = Topics(kafka.bootstrap)
    name = "peers-test-events"
    topics.create(name)
    produce(kafka.bootstrap, name, part)
    patience = Patience(complete=0.8, changes=1, stalled=3, after_crash=1, restart=20)
    folder = tmp_path_factory.mktemp("runs")
    yield Bed(topics, kafka.pid, folder, {EVENTS: name}, {EVENTS: truth(part)}, 60, patience=patience)
    topics.remove(name)


def reference(fault: str = "") -> System:
    return System(
        "reference", "reference", lambda place: [[sys.executable, str(REFERENCE)]], env={"FAULT": fault}
    )


@pytest.mark.kafka
@pytest.mark.parametrize("fault", ["", "missing", "twice", "key", "counts"])
def test_the_runner_tells_right_from_wrong(bed: Bed, fault: str) -> None:
    """A correct job on a real broker passes, and each kind of mistake is found."""
    result = run(reference(fault), bed, EVENTS, 1)
    assert result.failure is None
    assert result.verdict is not None
    wrong = EVENTS // 100
    found = {
        "missing": result.verdict.missing, "twice": result.verdict.repeated,
        "key": result.verdict.wrong_keys, "counts": result.verdict.lost,
    }  # fmt: skip
    if fault == "key":  # the key chooses the partition: with several, the last count is unknown
        del found["counts"]
    assert found == {name: wrong if name == fault else 0 for name in found}
    assert result.verdict.right == (fault == "")
    assert result.figures is not None
    assert result.figures.events_s > 0
    assert result.figures.rss_mb > 1
    assert result.figures.cpu_us_whole > 1
    (row,) = report.rows([result])
    assert row.right == (fault == "")


@pytest.mark.kafka
def test_the_runner_survives_a_crash_of_the_job(bed: Bed) -> None:
    """The killed job starts again; a job that reads from the beginning repeats all its outputs exactly."""
    result = run(reference(), bed, EVENTS, 1, crash=True)
    assert result.verdict is not None
    assert result.crash is not None
    assert result.verdict.exact
    assert result.verdict.repeated == result.crash.outputs_before >= EVENTS // 2
    assert result.crash.restart_s is not None
    assert 0 < result.crash.restart_s < 20
    (row,) = report.crash_rows([result])
    assert row.counts == "exact"


@pytest.mark.kafka
def test_a_job_that_fails_is_told_with_its_reason(bed: Bed) -> None:
    """A job that ends by itself has no figures; the reason is the last line of its log that names an error."""
    code = "import sys; sys.exit('ValueError: not today')"
    (system,) = chosen("", "j1", False, (f'broken={sys.executable} -c "{code}"',))
    result = run(system, bed, EVENTS, 1)
    assert result.failure is not None
    assert "ended with 1: ValueError: not today" in result.failure
    assert result.figures is None
    assert report.rows([result])[0].verdict.startswith("failed")


def made(name: str, events_s: float, verdict: Verdict, round_number: int = 1) -> Result:
    """Return a result with a rate and a verdict."""
    return Result(
        system=name, label=name, role="peer", answers="counts", remark="", round=round_number, events=100,
        calibration_ms=30.0, verdict=verdict, figures=Figures(events_s, *range(10, 20)),
    )  # fmt: skip


def test_wrong_is_shown_as_wrong_and_not_as_fast(tmp_path: Path) -> None:
    """A fast system with wrong counts is listed below the slow correct one, without a rate, in every format."""
    right = Verdict(outputs=100)
    wrong = Verdict(outputs=100, windows=9, wrong_windows=1, over=4)
    results = [made("fast", 77_777, wrong), made("slow", 1_234, right)]
    slow, fast = report.rows(results)
    assert (slow.system, slow.right) == ("slow", True)
    assert (fast.system, fast.right) == ("fast", False)
    about = {"machine": {"date": "d", "cores": 2, "cpu": "c", "memory_gb": 1}, "versions": {"x": "1"}}
    report.write(tmp_path, results, False, about)
    text = (tmp_path / "table.md").read_text()
    assert "1,234" in text
    assert "77,777" not in text
    assert "WRONG: 1 of 9 counts wrong (+4 -0)" in text
    saved = json.loads((tmp_path / "results.json").read_text())
    assert [row["right"] for row in saved["rows"]] == [True, False]
    console = Console(width=120, record=True, file=(tmp_path / "screen").open("w"))
    with console.file:
        console.print(report.terminal_table(results, crash=False))
    screen = console.export_text()
    assert "WRONG" in screen
    assert "77,777" not in screen


def test_one_wrong_run_of_several_is_enough() -> None:
    """A wrong run is never hidden by the median; correct runs give their median."""
    right, wrong = Verdict(outputs=100), Verdict(outputs=99, missing=1)
    (row,) = report.rows([made("a", 10, right), made("a", 30, wrong, 2), made("a", 20, right, 3)])
    assert not row.right
    assert row.verdict == "1 of 3 runs: WRONG: 1 events unanswered"
    (row,) = report.rows([made("a", rate, right, n) for n, rate in enumerate((10, 30, 20))])
    assert (row.events_s, row.low_events_s, row.high_events_s, row.runs) == (20, 10, 30, 3)


def test_systems_are_named_once_and_found() -> None:
    """Names are unique; an unknown name is reported; --cmd adds a system."""
    assert len({system.name for system in SYSTEMS}) == len(SYSTEMS)
    names = [system.name for system in chosen("flink,faust", "j1", False, ("mine=true --x",))]
    assert names == ["flink", "faust", "mine"]
    assert all(system.crash for system in chosen(None, "j1", True))
    with pytest.raises(BenchError, match="no system 'storm'"):
        chosen("storm", "j1", False)
    with pytest.raises(BenchError, match="name=COMMAND"):
        chosen(None, "j1", False, ("mine",))


def test_environments_are_pinned_to_the_last_package() -> None:
    """Each line of the requirements is name==version, and they include the packages that the report names."""
    from bench.peers.machine import NAMED, versions

    for path in environments.REQUIREMENTS.glob("*.txt"):
        lines = path.read_text().splitlines()
        assert lines
        assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    found = versions(with_java=False)
    assert {name for names in NAMED.values() for name in names} <= found.keys()


def test_every_java_source_is_compiled_into_a_job() -> None:
    """Every Java file of the folder belongs to a job."""
    sources = {path.name for path in java.SOURCES.glob("*.java")}
    assert sources == {*java.SHARED, *(f"{main}.java" for main in java.COORDINATES)}


def test_the_command_lists_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` shows the systems without starting anything; an unknown job is one clear sentence."""
    with pytest.raises(SystemExit) as done:
        main(["bench", "peers", "--list"])
    assert not done.value.code
    shown = capsys.readouterr().out
    assert all(system.label in shown for system in chosen(None, "j1", False))
    with pytest.raises(SystemExit) as failed:
        main(["bench", "job", "../../setup"])
    assert failed.value.code == 1
    assert "there is no job" in capsys.readouterr().err


def test_results_come_back_from_json() -> None:
    """A result file can be read with the types that wrote it."""
    result = made("a", 10, Verdict(outputs=1))
    assert msgspec.json.decode(msgspec.json.encode(result), type=Result) == result
