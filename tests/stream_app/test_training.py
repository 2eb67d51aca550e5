"""`foreclick train` and `evaluate`, run as a person runs them: what they say, what they refuse, how they end."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.interactions import Interactions, from_events
from model.provenance import provenance_of
from model.runtime import Runtime
from stream_app.agents.offline import interactions, tabulate
from stream_app.cli import main
from stream_app.commands import quality
from stream_app.commands import train as train_command
from stream_app.generator import read_labels
from stream_app.settings import Settings
from tests.reference import data as reference

SMALL = ("--events", "4000", "--users", "300", "--items", "100", "--categories", "10", "--partitions", "2")
FAST = ("--epochs", "2", "--hidden", "16")
#: What makes a run short of which only the end matters.
TINY = ("--epochs", "1", "--hidden", "8", "--no-refit")


def run(*args: object) -> int:
    """Exit code of the command."""
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    code = caught.value.code
    assert isinstance(code, int | None)
    return code or 0


def run_json(capsys: pytest.CaptureFixture[str], *args: object) -> Any:
    capsys.readouterr()
    assert run(*args, "--json") == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wide lines, one thread, and the handlers of signals that were there."""
    monkeypatch.setenv("COLUMNS", "200")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 4,000 records."""
    path = tmp_path_factory.mktemp("shop") / "shop.stream"
    assert run("generate", "--out", path, *SMALL) == 0
    return path


@pytest.fixture(scope="module")
def table(shop: Path) -> Interactions:
    return interactions(shop, Settings())


@pytest.fixture(scope="module")
def trained(shop: Path, table: Interactions, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model that learned the first three quarters of the shop, with what `train --json` said of it."""
    out = tmp_path_factory.mktemp("models") / "shop"
    until = int(np.quantile(table.ts, 0.75))
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("typer.echo", lambda text, err=False: None if err else said.append(text))
        assert run("train", shop, "--out", out, "--until", until, *FAST, "--json") == 0
    return {**json.loads(said[0]), "until": until, "out": out}


def test_train_says_what_it_learned_held_out_and_skipped(
    trained: dict[str, Any], shop: Path, table: Interactions
) -> None:
    """Spans and counts are those of the table; skipped are the records that the generator made bad on purpose."""
    early = table.ts[table.ts < trained["until"]]
    assert trained["events"] == trained["learned"]["events"] == len(early)
    assert (trained["learned"]["first_ms"], trained["learned"]["last_ms"]) == (early.min(), early.max())
    assert trained["learned_until_ms"] == early.max() + 1
    assert 0.1 < trained["held_out"]["events"] / len(early) < 0.2
    assert trained["refit"] and trained["epochs"] in (1, 2)
    skipped = dict(trained["skipped"])
    planted = [label.kind for label in read_labels(shop.with_suffix(".labels.jsonl"))]
    assert skipped.pop("after_until") == len(table) - len(early)
    assert skipped.pop("duplicate") == planted.count("duplicate") > 0
    assert sum(skipped.values()) == planted.count("malformed") > 0
    assert provenance_of(Runtime.load(trained["out"], "cpu").content.metrics) is not None


def test_train_ends_with_its_table_and_the_next_command(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 80 columns: the held-out table beside the baselines, how many cases, what to do next."""
    monkeypatch.setenv("COLUMNS", "80")
    assert run("train", shop, "--out", tmp_path / "m", *FAST) == 0
    said = capsys.readouterr()
    assert "on the held-out events, before it learned them" in said.out
    for row in (
        "this model",
        "sequential rules",
        "Markov",
        "popularity",
        "always the commonest",
        "purchase in 30 min",
    ):
        assert sum(line.startswith(f"│ {row}") for line in said.out.splitlines()) >= 1, row
    assert "next items of" in said.out and "the model does not know" in said.out
    assert f"foreclick evaluate {tmp_path / 'm'} later.stream" in said.out
    assert "skipped   " in said.out and "held out  " in said.out
    assert max(len(line) for line in said.out.splitlines() if line.startswith(("│", "┃"))) <= 80


def test_evaluate_starts_after_what_was_learned(
    trained: dict[str, Any], shop: Path, table: Interactions, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --since only later events are judged, none of them trained on, and the heading says so."""
    found = run_json(capsys, "evaluate", trained["out"], shop)
    later = table.ts[table.ts > trained["learned"]["last_ms"]]
    assert (found["judged"]["events"], found["judged"]["first_ms"]) == (len(later), later.min())
    assert (found["source"], found["trained_on"]) == ("recording", {"events": 0, "share": 0.0, "held_out": 0})
    assert found["next_item"]["cases"] > 0 and found["next_item"]["users"] > 0
    assert run("evaluate", trained["out"], shop) == 0
    said = capsys.readouterr()
    assert "on events it has not seen" in said.out and "after what the model learned" in said.out
    assert "trained on" not in said.err


def test_evaluate_on_learned_events_says_their_share(
    trained: dict[str, Any], shop: Path, table: Interactions, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked for all events, it says in JSON, in the heading and on the error stream how many were trained on."""
    share = float((table.ts < trained["learned_until_ms"]).mean())
    first = int(table.ts.min())
    found = run_json(capsys, "evaluate", trained["out"], shop, "--since", first)
    assert found["trained_on"]["share"] == pytest.approx(share)
    assert found["trained_on"]["events"] == trained["learned"]["events"]
    assert f"{share:.0%}".replace("%", " % of these events") in found["warnings"][0]
    assert run("evaluate", trained["out"], shop, "--since", first) == 0
    said = capsys.readouterr()
    assert "on events it has not seen" not in said.out and "TRAINED ON" in said.out
    assert "were trained on: the figures flatter the model" in said.err


def test_evaluate_without_later_events_shows_the_stored_table(
    trained: dict[str, Any], shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the recording that a model has learned to its end, the training's table stands in, and is called that."""
    made = run_json(capsys, "train", shop, "--out", tmp_path / "m", *TINY, "--refit")
    found = run_json(capsys, "evaluate", tmp_path / "m", shop)
    assert found["source"] == "training" and found["trained_on"] is None
    for part, values in made["validation"].items():
        assert found[part] == values
    assert run("evaluate", tmp_path / "m", shop) == 0
    said = capsys.readouterr()
    assert "has no event to judge after the time that the model learned from" in said.out
    assert "foreclick record later.stream" in said.out and "not seen" not in said.out


def test_events_held_out_are_called_that(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that was not refitted is judged on its held-out events by default: the same table as its own."""
    made = run_json(capsys, "train", shop, "--out", tmp_path / "m", *TINY)
    found = run_json(capsys, "evaluate", tmp_path / "m", shop)
    assert found["source"] == "recording" and found["trained_on"]["events"] == 0
    assert found["trained_on"]["held_out"] == found["judged"]["events"] == made["held_out"]["events"]
    assert found["next_item"] == made["validation"]["next_item"]
    assert run("evaluate", tmp_path / "m", shop) == 0
    said = capsys.readouterr()
    assert "on events held out in its training" in said.out and "chose the epoch" in said.err


def test_a_model_of_an_earlier_release_is_judged_with_a_warning(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model of commit 3c99cd3 says nothing of its data: evaluate says that it cannot know."""
    found = run_json(capsys, "evaluate", reference.MODEL, shop)
    assert found["trained_on"] is None and found["source"] == "recording"
    assert run("evaluate", reference.MODEL, shop) == 0
    said = capsys.readouterr()
    assert "does not say what it was trained on" in said.err
    assert "perhaps on events it was trained on" in said.out and "not seen" not in said.out


@pytest.mark.parametrize(
    ("since", "says"),
    [
        ("1767316773", "looks like seconds: give Unix milliseconds (1767316773000)"),
        ("1767316773000000", "looks like microseconds"),
        ("yesterday", "is not a time: give Unix milliseconds, a time like 2026-01-31T18:00"),
        ("-5", "is not a time"),
        ("2050-01-01", "has no event from 2050-01-01 00:00:00 UTC on: it ends at"),
        ("0s", "is followed by another event of its user, so there is nothing to judge"),
    ],
)
def test_a_since_that_judges_nothing_is_an_error(
    since: str, says: str, trained: dict[str, Any], shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seconds, microseconds, words, times beyond the end, no case: one sentence, exit code 1, no table."""
    assert run("evaluate", trained["out"], shop, f"--since={since}") == 1
    said = capsys.readouterr()
    assert says in said.err and "Recall" not in said.out


def test_since_takes_durations_and_iso_times(
    trained: dict[str, Any], shop: Path, table: Interactions, capsys: pytest.CaptureFixture[str]
) -> None:
    """A duration counts back from the recording's end; an ISO time without a zone is UTC."""
    found = run_json(capsys, "evaluate", trained["out"], shop, "--since", "2h")
    assert found["judged"]["since_ms"] == int(table.ts.max()) - 2 * 3_600_000
    found = run_json(capsys, "evaluate", trained["out"], shop, "--since", "2026-01-01T05:00")
    assert found["judged"]["since_ms"] == 1_767_243_600_000


def test_the_training_table_is_what_the_worker_sees(shop: Path) -> None:
    """Of events in order of time, the tables by the worker's state and by `from_events` are one and the same."""
    found = tabulate(shop, Settings())
    late = np.isin(found.events.user, found.events.user[found.late])  # their clocks differ
    events = found.events.take(~late)
    columns = (
        events.user,
        events.ts,
        events.kind,
        events.item,
        events.category,
        events.price,
        events.quantity,
    )
    plain = from_events(*columns, events.items, events.categories)
    in_time = np.lexsort((np.arange(len(events)), events.ts))
    ordered = [
        user
        for user in np.unique(events.user)
        if (np.diff(events.ts[events.user == user]) >= 0).all()  # no event before another one of the user
    ]
    kept = np.isin(plain.user, ordered)
    assert kept.sum() > 3_000
    np.testing.assert_array_equal(plain.gap_s[kept], events.gap_s[in_time][kept])
    np.testing.assert_allclose(plain.windows[kept], events.windows[in_time][kept], rtol=1e-5)


def sessions(path: Path, rows: list[tuple[int, int, int]]) -> Path:
    """A recording of clicks (session, item, Unix seconds)."""
    path.with_suffix(".tsv").write_text("".join(f"{s}\t{i}\t{t}\n" for s, i, t in rows))
    assert run("import", "yoochoose", path.with_suffix(".tsv"), "--out", path) == 0
    return path


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([(i, i % 7 + 1, 1_767_225_660 + i) for i in range(300)], "has one event only"),
        (
            [(i % 20 + 1, i % 7 + 1, 1_767_225_600) for i in range(1_000)],
            "events have the same time (2026-01-01",
        ),
        (
            [(1, i % 3 + 1, 1_767_225_660 + i) for i in range(6)],
            "are too few to train on, at least 200 are needed",
        ),
    ],
)
def test_data_that_teaches_nothing_is_one_sentence(
    rows: list[tuple[int, int, int]], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Visitors of one event, one moment for all, a handful of events: a sentence, exit code 1, no folder."""
    recording = sessions(tmp_path / "a.stream", rows)
    assert run("train", recording, "--out", tmp_path / "m", *TINY) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_visitors_of_one_event_beside_others_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """25 minutes of traffic: 3,000 visitors with one click beside 50 users with 24 each."""
    rows = [(1_000 + i, i % 30 + 1, 1_767_225_660 + i // 2) for i in range(1, 3_001)]
    rows += [(i % 50 + 1, i * 7 % 30 + 1, 1_767_225_660 + i) for i in range(1, 1_201)]
    found = run_json(capsys, "train", sessions(tmp_path / "a.stream", rows), "--out", tmp_path / "m", *TINY)
    assert found["given"]["users"] == 3_050


def test_a_model_worse_than_a_baseline_is_said_to_be(trained: dict[str, Any]) -> None:
    """Each answer that a baseline gives better, and too few cases, have a sentence; a good model has none."""
    report = json.loads(json.dumps(trained["validation"]))
    assert report["next_item"]["cases"] > quality.FEW_CASES
    report["next_item"]["mrr@20"], report["purchase"]["roc_auc"] = 0.9, 0.8
    report["next_event"] |= {"accuracy": 0.99, "f1": 0.99}
    assert list(quality.warnings(report)) == []
    report["next_item"]["mrr@20"] = report["baselines"]["popularity"]["mrr@20"] / 2
    report["next_event"] |= {"accuracy": 0.01, "f1": 0.01}
    report["purchase"]["roc_auc"] = 0.4
    report["next_item"]["cases"] = 7
    report["next_item"]["unseen"] = 5
    few, unknown, items, event, purchase = quality.warnings(report)
    assert few.startswith("7 next items are few")
    assert unknown.startswith("71 % of the next items are unknown to the model")
    assert "worse than sequential rules and Markov and popularity" in items and "do not serve it" in items
    assert "next event is worse" in event and "worse than a coin" in purchase
    report["purchase"] |= {"cases": 0, "roc_auc": None}
    assert "cover less time than its horizon" in list(quality.warnings(report))[-1]


@pytest.mark.parametrize("place", ["file", "file/shop", "/proc/self/shop"])
def test_a_target_that_cannot_be_written_is_told_before_reading(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recording does not even exist: the target is looked at first."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    assert run("train", "nowhere.stream", "--out", place) == 1
    said = capsys.readouterr().err
    assert place.partition("/shop")[0] in said and "nowhere.stream" not in said
    assert said.count("\n") == 1


def test_train_settings_come_from_the_file(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every training setting has a key in [train]; variables and options go before it; the model keeps them."""
    config = tmp_path / "foreclick.toml"
    config.write_text(
        "[train]\nhidden = 24\nepochs = 1\nvalid_share = 0.3\nrefit = false\nlearning_rate = 0.02\nmax_items = 40\n"
    )
    monkeypatch.setenv("FORECLICK_TRAIN_BATCH_EVENTS", "99")
    found = run_json(
        capsys, "train", shop, "--out", tmp_path / "m", "--config", config, "--hidden", "8", "--seed", "5"
    )
    runtime = Runtime.load(tmp_path / "m", "cpu")
    kept = runtime.content.settings.train
    wanted = {
        "hidden": 8, "epochs": 1, "valid_share": 0.3, "refit": False, "learning_rate": 0.02, "max_items": 40,
        "batch_events": 99, "seed": 5,
    }  # fmt: skip
    assert {name: kept[name] for name in wanted} == wanted
    assert not found["refit"] and len(runtime.item_ids) == 40
    assert 0.25 < found["held_out"]["events"] / found["events"] < 0.35


def test_mistakes_in_train_settings_are_told_like_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """File, variable and option: all mistakes at once, each with where it is and what is expected."""
    config = tmp_path / "foreclick.toml"
    config.write_text("[train]\nlearning_rate = 5\nbatch_event = 3\n")
    monkeypatch.setenv("FORECLICK_TRAIN_DROPOUT", "all")
    options = ("--config", config, "--hidden", "100000")
    assert run("train", "x.stream", "--out", tmp_path / "m", *options) == 1
    said = capsys.readouterr().err
    assert "4 settings are wrong" in said
    assert "key train.learning_rate, is 5, expected a number, above 0, at most 1" in said
    assert "unknown key train.batch_event: did you mean train.batch_events?" in said
    assert "variable FORECLICK_TRAIN_DROPOUT is 'all'" in said
    assert "option --hidden is '100000', expected a whole number, at least 8, at most 2,048" in said


def ctrl_c(monkeypatch: pytest.MonkeyPatch, epoch: int, number: int = signal.SIGINT) -> None:
    """Sends a signal to this process when the training reports its first batch of an epoch."""
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
    """In the second epoch: the model of the first is written, whole and with its table; exit code 130 or 143."""
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
    """It says so, with exit code 130, or 143 for SIGTERM."""
    ctrl_c(monkeypatch, 1, number)
    assert run("train", shop, "--out", tmp_path / "m", "--epochs", "9", "--hidden", "8") == 128 + number
    assert "stopped, nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "evaluate", "run"])
def test_a_recording_that_cannot_be_read_shows_no_bar(
    command: str, trained: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence stands alone: no empty line, no finished bar."""
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
    """Before there is anything to keep, Ctrl-C ends at once, in words."""

    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(f"stream_app.commands.{command}.tabulated", interrupted)
    signal.signal(signal.SIGINT, signal.default_int_handler)
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
