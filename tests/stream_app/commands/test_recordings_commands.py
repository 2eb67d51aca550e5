"""The commands for recordings on the command line."""

import signal
import subprocess
import threading
from pathlib import Path

import msgspec
import pytest

from stream_app.contract.received import received_of
from stream_app.contract.records import INPUT_TOPICS
from stream_app.contract.times import span
from stream_app.lab.broker import EmbeddedKafka
from stream_app.lab.generator import read_labels
from stream_app.recordings.recording import RecordingReader, RecordingWriter
from tests.stream_app.command_line import FORECLICK, run, run_json

SMALL = ("--events", "3000", "--users", "300", "--items", "200", "--categories", "10", "--partitions", "2")


def test_generate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`generate` writes recording and labels to the printed paths, and the same bytes a second time."""
    out = tmp_path / "a.stream"
    summary = run_json(capsys, "generate", "--out", out, *SMALL)
    assert (summary["records"], summary["recording"]) == (3_000, str(out))
    assert summary["labels"] == str(tmp_path / "a.labels.jsonl")
    assert len(list(RecordingReader(out))) == 3_000
    assert len(read_labels(tmp_path / "a.labels.jsonl")) == sum(summary["planted"].values()) > 0
    first = out.read_bytes()
    assert run("generate", "--out", out, *SMALL) == 0
    assert out.read_bytes() == first
    assert "3,000 records" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.labels.jsonl", "a.stream"]


def test_generate_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--start now` the traffic begins at the present time."""
    before = run_json(capsys, "generate", "--out", tmp_path / "a.stream", *SMALL)["first_ms"]
    summary = run_json(capsys, "generate", "--out", tmp_path / "a.stream", "--start", "now", *SMALL)
    assert summary["first_ms"] != before
    assert abs(summary["first_ms"] / 1000 - (tmp_path / "a.stream").stat().st_mtime) < 600


def test_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`import` writes the recording, names bad lines on the error stream, and counts both in its summary."""
    csv = tmp_path / "a.csv"
    csv.write_text("1,2,3,pv,1511658000\nnonsense\n1,2,3,buy,1511658001\n")
    assert run("import", "taobao", csv, "--out", tmp_path / "a.stream", "--json") == 0
    said = capsys.readouterr()
    assert "skipped a.csv, line 2: expected user" in said.err
    stats = msgspec.json.decode(said.out)
    assert (stats["records"], stats["bad_lines"], stats["recording"]) == (2, 1, str(tmp_path / "a.stream"))
    assert len(list(RecordingReader(tmp_path / "a.stream"))) == 2


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["generate", "--out", "none/a.stream"], "there is no folder none: make it first"),
        (
            ["generate", "--out", "a.stream", "--force", "--start", "soon"],
            'the start must be "now" or look like',
        ),
        (["generate", "--out", "a.stream", "--force", "--users", "5", "--span", "9"], "take at least"),
        (
            ["import", "other", "a.csv", "--out", "a.stream", "--force"],
            "take one of jsonl, csv, parquet, taobao, yoochoose",
        ),
        (["import", "taobao", "none.csv", "--out", "a.stream"], "cannot read none.csv: No such file"),
        (
            ["import", "yoochoose", "a.csv", "--out", "a.stream", "--force"],
            "none of 1 lines is of format yoochoose",
        ),
        (["generate", "--out", "a.stream"], "a.stream exists and is not a recording"),
        (["generate", "--out", "good.stream"], "good.stream is a recording already"),
        (["generate", "--out", "/dev/null", "--force"], "/dev/null is not a plain file"),
        (
            ["import", "taobao", "a.csv", "--out", "a.csv", "--force"],
            "a.csv is read and would be written over",
        ),
        (["import", "taobao", "a.csv", "--out", "link.stream", "--force"], "link.stream is read"),
        (["record", "good.stream", "--brokers", "127.0.0.1:1"], "good.stream is a recording already"),
        (["run", "good.stream", "--out", "mine"], "predictions.jsonl exists and is not of an earlier run"),
        (["replay", "none.stream"], "cannot read none.stream: No such file"),
        (["replay", "a.csv"], "a.csv is not a recording"),
        (["replay", "good.stream", "--rate", "-1"], "must be above 0"),
        (["replay", "good.stream", "--brokers", "127.0.0.1:1"], "no Kafka broker answers at 127.0.0.1:1"),
        (["record", "new.stream", "--brokers", "127.0.0.1:1"], "no Kafka broker answers at 127.0.0.1:1"),
        (["record", "new.stream", "--offset", "clicks=7"], "an offset looks like clicks:0=1234"),
    ],
)
def test_one_sentence_errors(
    args: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A failure gives one sentence and exit code 1, and keeps an earlier file of that name."""
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("hello\n")
    Path("a.stream").write_text("precious")
    RecordingWriter(Path("good.stream"), {"clicks": 1}).close()
    Path("link.stream").symlink_to("a.csv")
    Path("mine").mkdir()
    Path("mine/predictions.jsonl").write_text("precious")
    before = sorted(tmp_path.iterdir())
    assert run(*args) == 1
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert Path("a.stream").read_text() == Path("mine/predictions.jsonl").read_text() == "precious"
    assert Path("a.csv").read_text() == "hello\n"
    assert sorted(tmp_path.iterdir()) == before


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl-C while generating ends with a failure code and without a file."""
    out = tmp_path / "a.stream"
    process = subprocess.Popen(
        [*FORECLICK, "generate", "--out", str(out), "--events", "50000000", "--users", "50000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = threading.Event()
        for _ in range(600):  # until the first block is written
            if any(path.stat().st_size for path in tmp_path.glob(".part-*/a.stream")):
                break
            deadline.wait(0.05)
        else:
            pytest.fail("the generator wrote nothing within 30 s")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode not in (0, -signal.SIGKILL)
    assert b"Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.kafka
def test_replay_and_record(
    kafka: EmbeddedKafka, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A generated recording goes to Kafka by `replay` and comes back the same by `record`."""
    a, b = tmp_path / "a.stream", tmp_path / "b.stream"
    where = ("--brokers", kafka.bootstrap, "--topic-prefix", prefix)
    run_json(capsys, "generate", "--out", a, *SMALL)
    assert run("replay", a, *where) == 1
    assert "run `foreclick topics --create`" in capsys.readouterr().err
    run_json(capsys, "topics", "--create", "--partitions", 2, *where)
    stats = run_json(capsys, "replay", a, *where)
    assert (stats["records"], stats["stopped"]) == (3_000, False)
    stats = run_json(capsys, "record", b, *where)
    assert stats["records"] == 3_000
    for topic in INPUT_TOPICS:  # our topics have the broker's time; the recording's time is in a header
        sent, back = (
            [r for r in RecordingReader(path) if r.topic == topic and r.partition == 1] for path in (a, b)
        )
        assert [r[1:3] + r[4:6] for r in back] == [r[1:3] + r[4:6] for r in sent]
        assert [received_of(r) for r in back] == [r.timestamp for r in sent]
    stats = run_json(
        capsys, "record", b, "--force", *where, "--topic", "clicks", "--offset", "clicks:0=5", "--limit", 7
    )
    assert (stats["records"], stats["topics"]) == (7, {"clicks": 7})


def shop_on(
    kafka: EmbeddedKafka, prefix: str, recording: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[str, ...]:
    """Make a recording, and topics for it; return the options for the broker and these topics."""
    where = ("--brokers", kafka.bootstrap, "--topic-prefix", prefix)
    run_json(capsys, "generate", "--out", recording, *SMALL)
    run_json(capsys, "topics", "--create", "--partitions", 2, *where)
    return where


@pytest.mark.kafka
def test_record_since_a_time(
    kafka: EmbeddedKafka, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`record --since` records from that time on, in whatever form it is given; the summary has the times."""
    a, b = tmp_path / "a.stream", tmp_path / "b.stream"
    where = shop_on(kafka, prefix, a, capsys)
    run_json(capsys, "replay", a, *where, "--limit", 1_000)
    assert run_json(capsys, "record", b, *where)["records"] == 1_000
    since = max(each.timestamp for each in RecordingReader(b)) + 1
    run_json(capsys, "replay", a, *where)  # starts a consumer first, so its records are later
    assert run_json(capsys, "record", b, "--force", *where, "--since", since)["records"] == 3_000
    stored = [each.timestamp for each in RecordingReader(b)]
    assert min(stored) >= since and stored == sorted(stored)
    assert run_json(capsys, "record", b, "--force", *where, "--since", "1h")["records"] == 4_000
    assert run_json(capsys, "record", b, "--force", *where, "--since", "2100-01-01")["records"] == 0
    assert run("record", b, "--force", *where, "--since", since) == 0
    assert f"span      {span(stored[0], stored[-1])}" in capsys.readouterr().out
    assert run("record", b, "--force", *where, "--since", since // 1000) == 1
    assert "looks like seconds" in capsys.readouterr().err


@pytest.mark.kafka
def test_ctrl_c_ends_a_replay_after_what_is_under_way(
    kafka: EmbeddedKafka, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C during a replay waits for the broker's answers, prints the progress, and exits with 130."""
    a, b = tmp_path / "a.stream", tmp_path / "b.stream"
    where = shop_on(kafka, prefix, a, capsys)
    process = subprocess.Popen(
        [*FORECLICK, "replay", str(a), *where, "--rate", "20", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        for _ in range(60):  # until something has arrived
            if run_json(capsys, "record", b, "--force", *where)["records"]:
                break
        else:
            pytest.fail("nothing was replayed within 60 looks")
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, said
    stats = msgspec.json.decode(out)
    assert stats["stopped"]
    assert run_json(capsys, "record", b, "--force", *where)["records"] == stats["records"] < 3_000


def test_import_and_run_say_what_time_the_events_cover(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The summary has the time span; times in seconds as ms are bad lines; times decades off give a warning."""
    path, recording = tmp_path / "views.csv", tmp_path / "views.stream"
    times = [
        44,
        *(1_511_544_070 + i for i in range(20)),
        2_120_000_000,
    ]  # the first in 1970, the last in 2037
    path.write_text("".join(f"1,{i},2520377,pv,{second}\n" for i, second in enumerate(times)))
    made = run_json(capsys, "import", "taobao", path, "--out", recording)
    assert (made["records"], made["bad_lines"]) == (21, 1)
    assert (made["first_ms"], made["last_ms"]) == (1_511_544_070_000, 2_120_000_000_000)
    said = "1 of 21 events lie more than ten years from the others (such as 2037-03-07"
    assert made["warnings"][0].startswith(said)
    done = run_json(capsys, "run", recording, "--out", tmp_path / "out")
    assert (done["first_ms"], done["last_ms"]) == (1_511_544_070_000, 2_120_000_000_000)
    assert done["warnings"] == made["warnings"]
    assert run("run", recording, "--out", tmp_path / "out") == 0
    shown = capsys.readouterr()
    assert "events from 2017-11-24 17:21:10 UTC to 2037-03-07" in shown.out.replace("\n", " ")
    assert "warning: " + said in shown.err
