"""`foreclick demo` from outside: a small demo succeeds; Ctrl-C ends all of it; --keep and --stop."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

_SMALL = ("--events", "12000", "--rate", "400", "--seconds", "5", "--epochs", "2")
_RUN_S, _END_S = 200.0, 15.0


class Demo:
    """A demo as a process without a terminal; its output is read line by line."""

    def __init__(self, folder: Path, *options: str) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("FORECLICK_") or "CACHE" in k}
        self.process = subprocess.Popen(
            [
                sys.executable, "-c", "from stream_app.cli import main; main()",
                "demo", "--data-dir", str(folder), *options,
            ],
            env={**env, "COLUMNS": "100", "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self._came = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._came:
                self.lines.append(line)
                self._came.notify_all()

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def wait_for(self, text: str) -> None:
        """Return once the output contains `text`."""
        with self._came:
            found = self._came.wait_for(
                lambda: text in self.text or self.process.poll() is not None, timeout=_RUN_S
            )
        assert found, f"waited {_RUN_S:.0f} s for {text!r}:\n{self.text}"
        assert text in self.text, f"the demo ended before {text!r}:\n{self.text}"

    def wait(self, limit_s: float) -> int:
        """Return the exit code."""
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the demo did not end within {limit_s:.0f} s:\n{self.text}") from None
        self._reader.join(10)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()


def run(folder: Path, *options: str) -> Demo:
    """Run a demo to its end, with exit code 0."""
    demo = Demo(folder, *options)
    try:
        code = demo.wait(_RUN_S)
    finally:
        demo.close()
    assert code == 0, demo.text
    return demo


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the other processes that name the folder on their command line or in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            named = str(folder) in " ".join(process.cmdline()) or str(folder) in process.environ().get(
                "FORECLICK_DATA_DIR", ""
            )
        except psutil.Error:  # ended meanwhile, or of another user
            continue
        if named and process.pid != os.getpid():
            found.append(process)
    return found


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Demo]:
    """A folder in which a whole demo ran, and that demo."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, run(folder, *_SMALL)


@pytest.fixture
def demos() -> Iterator[list[Demo]]:
    """Demos to end after the test, whatever happens in it."""
    started: list[Demo] = []
    yield started
    for demo in started:
        demo.close()


def test_runs_through(first: tuple[Path, Demo]) -> None:
    """A small demo exits with 0, answers every valid event once, shows its figures and leaves no process."""
    folder, demo = first
    assert "p99" in demo.text
    assert "events/s" in demo.text
    assert "\x1b[" not in demo.text  # no terminal, no colours
    (row,) = (line for line in demo.lines if "good events with a prediction" in line)
    measured, wanted = (cell.strip() for cell in row.replace("│", "|").split("|")[2:4])
    assert measured == wanted
    assert int(wanted.replace(",", "")) > 1_900
    assert "✗" not in "".join(line for line in demo.lines if "dead letters," in line or "duplicates" in line)
    assert processes_of(folder) == []


def test_real_purchases_run_through(tmp_path: Path) -> None:
    """With the Complete Journey, each purchase has one prediction; flags are not judged without planted records."""
    pytest.importorskip("pyarrow")
    demo = run(tmp_path, *_SMALL, "--data", "complete-journey", "--epochs", "1")
    (row,) = (line for line in demo.lines if "good events with a prediction" in line)
    assert row.count("2,000") == 2
    assert "not judged" in demo.text and "planted" not in demo.text
    assert processes_of(tmp_path) == []


def test_second_time_keeps_the_model(first: tuple[Path, Demo]) -> None:
    """The same plan does not train again, uses the same model and takes less than two minutes."""
    folder, before = first
    start = time.monotonic()
    again = run(folder, *_SMALL)
    assert time.monotonic() - start < 120
    assert "epoch 1" in before.text
    assert "epoch 1" not in again.text
    label = before.text.partition("demo@")[2][:12]
    assert f"demo@{label}, kept" in again.text


@pytest.mark.parametrize(
    ("moment", "options"),
    [("1/6", ()), ("epoch 1 of", ("--fresh", "--epochs", "9")), ("4/6", ()), ("lag", ("--seconds", "60"))],
    ids=["broker starts", "training", "worker starts", "replay"],
)
def test_ctrl_c_ends_everything(
    first: tuple[Path, Demo], demos: list[Demo], tmp_path: Path, moment: str, options: tuple[str, ...]
) -> None:
    """SIGINT at any step ends the demo and all its processes within 15 s, with exit code 130 and one line."""
    folder = tmp_path if "--fresh" in options else first[0]
    demo = Demo(folder, *_SMALL, *options)
    demos.append(demo)
    demo.wait_for(moment)
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait(_END_S) == 130, demo.text
    assert "stopped: all that the demo had started has ended" in demo.text
    assert "Traceback" not in demo.text
    assert processes_of(folder) == []


def test_keep_and_stop(first: tuple[Path, Demo], demos: list[Demo]) -> None:
    """--keep leaves a running worker that answers; a second demo reports it in one sentence; --stop ends it."""
    folder, _ = first
    try:
        kept = run(folder, *_SMALL, "--keep")
        (line,) = (each for each in kept.lines if "/users/" in each)
        url = line.split()[-1]
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert json.loads(answer.read())["events"] >= 1
        second = Demo(folder, *_SMALL)
        demos.append(second)
        assert second.wait(60) == 1
        assert "foreclick demo --stop" in second.text
        assert "Traceback" not in second.text
    finally:
        stopped = run(folder, "--stop")
    assert "worker" in stopped.text
    assert "broker" in stopped.text
    assert processes_of(folder) == []
