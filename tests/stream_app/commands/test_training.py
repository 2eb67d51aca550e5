"""`foreclick train` on the command line: its output, its refusals and its settings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.data.interactions import Interactions, from_events
from model.data.provenance import provenance_of
from model.serving.runtime import Runtime
from stream_app.lab.generator import read_labels
from stream_app.recordings.offline.training_table import tabulate
from stream_app.settings import Settings
from tests.stream_app.command_line import FAST, TINY, run, run_json

pytestmark = pytest.mark.usefixtures("as_it_was")


def test_train_says_what_it_learned_held_out_and_skipped(
    trained: dict[str, Any], shop: Path, table: Interactions
) -> None:
    """Spans and counts match the table; the skipped records are the planted invalid ones."""
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
    """The output fits 80 columns: held-out table next to the baselines, number of cases, what to do next."""
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


def test_the_training_table_is_what_the_worker_sees(shop: Path) -> None:
    """For events in order of time, the tables by the worker's state and by `from_events` are equal."""
    found = tabulate(shop, Settings())
    late = np.isin(found.events.user, found.events.user[found.late])  # their clocks differ
    events = found.events.take(~late)
    columns = (
        events.user,
        events.ts,
        events.event_type,
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
        if (np.diff(events.ts[events.user == user]) >= 0).all()  # the user's events are in order
    ]
    kept = np.isin(plain.user, ordered)
    assert kept.sum() > 3_000
    np.testing.assert_array_equal(plain.gap_s[kept], events.gap_s[in_time][kept])
    np.testing.assert_allclose(plain.windows[kept], events.windows[in_time][kept], rtol=1e-5)


def sessions(path: Path, rows: list[tuple[int, int, int]]) -> Path:
    """Make a recording of clicks (session, item, Unix seconds)."""
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
            "followed by another event of their user, and training needs at least 200",
        ),
    ],
)
def test_data_that_teaches_nothing_is_one_sentence(
    rows: list[tuple[int, int, int]], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Users with one event, one time for all, few events: one sentence, exit code 1, no folder."""
    recording = sessions(tmp_path / "a.stream", rows)
    assert run("train", recording, "--out", tmp_path / "m", *TINY) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_visitors_of_one_event_beside_others_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """25 minutes of traffic: 3,000 users with one click and 50 users with 24 each."""
    rows = [(1_000 + i, i % 30 + 1, 1_767_225_660 + i // 2) for i in range(1, 3_001)]
    rows += [(i % 50 + 1, i * 7 % 30 + 1, 1_767_225_660 + i) for i in range(1, 1_201)]
    found = run_json(capsys, "train", sessions(tmp_path / "a.stream", rows), "--out", tmp_path / "m", *TINY)
    assert found["given"]["users"] == 3_050


@pytest.mark.parametrize("place", ["file", "file/shop", "/proc/self/shop"])
def test_a_target_that_cannot_be_written_is_told_before_reading(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target is checked first, even before the recording, which does not exist here."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    assert run("train", "nowhere.stream", "--out", place) == 1
    said = capsys.readouterr().err
    assert place.partition("/shop")[0] in said and "nowhere.stream" not in said
    assert said.count("\n") == 1


def test_train_settings_come_from_the_file(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every training setting has a key in [train]; variables and options override it; the model stores them."""
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
    """Mistakes in file, variable and option are listed at once, each with its place and the expected value."""
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
