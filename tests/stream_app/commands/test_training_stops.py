"""`foreclick train` and `evaluate` while they run: Ctrl-C, and the number of threads."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.data.provenance import provenance_of
from model.serving.runtime import Runtime
from stream_app.commands import train as train_command
from tests.stream_app.command_line import TINY, run

pytestmark = pytest.mark.usefixtures("as_it_was")


def ctrl_c(monkeypatch: pytest.MonkeyPatch, epoch: int, number: int = signal.SIGINT) -> None:
    """Send a signal to this process when the training reports its first batch of an epoch."""
    original = train_command.reader

    def reader(*args: Any) -> Callable[[Any], None]:
        report, sent = original(*args), []

        def reported(at: Any) -> None:
            if at.epoch == epoch and not sent:
                sent.append(at)
                signal.raise_signal(number)
            report(at)

        return reported

    monkeypatch.setattr(train_command, "reader", reader)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_keep_the_best_model_so_far(
    number: signal.Signals,
    shop: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in the second epoch, the model of the first is written with its table; exit code 130 or 143."""
    ctrl_c(monkeypatch, 2, number)
    assert run("train", shop, "--out", tmp_path / "m", "--epochs", "9", "--hidden", "8") == 128 + number
    said = capsys.readouterr()
    assert f"stopped early, the best model so far was written to {tmp_path / 'm'}" in said.err
    assert "this model" in said.out
    made = provenance_of(Runtime.load(tmp_path / "m", "cpu").content.metrics)
    assert made is not None and made.stopped and made.epochs == 1 and not made.refit


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_first_epoch_writes_nothing(
    number: signal.Signals,
    shop: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stop before the first model is reported, with exit code 130, or 143 for SIGTERM."""
    ctrl_c(monkeypatch, 1, number)
    assert run("train", shop, "--out", tmp_path / "m", "--epochs", "9", "--hidden", "8") == 128 + number
    assert "stopped, nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "evaluate", "run"])
def test_a_recording_that_cannot_be_read_shows_no_bar(
    command: str, trained: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the message is printed: no empty line, no finished bar."""
    capsys.readouterr()
    none = tmp_path / "none.stream"
    args = (trained["out"], none) if command == "evaluate" else (none, "--out", tmp_path / "m")
    assert run(command, *args) == 1
    assert capsys.readouterr() == ("", f"foreclick: cannot read {none}: No such file or directory\n")


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_ctrl_c_while_reading(
    command: str,
    trained: dict[str, Any],
    shop: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before there is a result, Ctrl-C ends immediately with a message."""

    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(f"stream_app.commands.{command}.tabulated", interrupted)
    options = ("--out", tmp_path / "m") if command == "train" else ()
    where = (shop,) if command == "train" else (trained["out"], shop)
    assert run(command, *where, *options) == 130
    assert "foreclick: stopped" in capsys.readouterr().err


def test_one_thread_unless_told_otherwise(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever torch is set to, training runs on one thread, or on as many as --threads says."""
    used: list[int] = []
    original = train_command.reader

    def reader(*args: Any) -> Callable[[Any], None]:
        used.append(torch.get_num_threads())
        return original(*args)

    monkeypatch.setattr(train_command, "reader", reader)
    torch.set_num_threads(2)
    assert run("train", shop, "--out", tmp_path / "m", *TINY) == 0
    assert run("train", shop, "--out", tmp_path / "m", *TINY, "--threads", "3") == 0
    assert (used, torch.get_num_threads()) == ([1, 3], 2)
