"""`foreclick evaluate` on the command line: which events it judges, and its output."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.data.interactions import Interactions
from stream_app.commands import quality
from tests.reference import data as reference
from tests.stream_app.command_line import TINY, run, run_json

pytestmark = pytest.mark.usefixtures("as_it_was")


def test_evaluate_starts_after_what_was_learned(
    trained: dict[str, Any], shop: Path, table: Interactions, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --since only later events are judged, none of them trained on, as the heading shows."""
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
    """For all events, JSON, heading and stderr give the number of events that were trained on."""
    share = float((table.ts < trained["learned_until_ms"]).mean())
    first = int(table.ts.min())
    found = run_json(capsys, "evaluate", trained["out"], shop, "--since", first)
    assert found["trained_on"]["share"] == pytest.approx(share)
    assert found["trained_on"]["events"] == trained["learned"]["events"]
    assert f"{share:.0%}".replace("%", " % of these events") in found["warnings"][0]
    assert run("evaluate", trained["out"], shop, "--since", first) == 0
    said = capsys.readouterr()
    assert "on events it has not seen" not in said.out and "TRAINED ON" in said.out
    assert "were training data: the figures are too good" in said.err


def test_evaluate_without_later_events_shows_the_stored_table(
    trained: dict[str, Any], shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If a model has learned the whole recording, the table of the training is shown instead, with that title."""
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
    """The model of commit 3c99cd3 stores no provenance: evaluate reports that it is unknown."""
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
        ("0s", "is followed by another event of its user, so there is nothing to evaluate"),
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


def test_a_model_worse_than_a_baseline_is_said_to_be(trained: dict[str, Any]) -> None:
    """Each answer with a better baseline, and too few cases, give a sentence; a good model gives none."""
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
    assert few.startswith("7 next items are too few")
    assert unknown.startswith("71 % of the next items are unknown to the model")
    assert "worse than sequential rules and Markov and popularity" in items and "do not serve it" in items
    assert "next event is worse" in event and "worse than a random guess" in purchase
    report["purchase"] |= {"cases": 0, "roc_auc": None}
    assert "cover less time than its horizon" in list(quality.warnings(report))[-1]
