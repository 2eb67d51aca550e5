"""The provenance in a model folder, and the end of a training that is stopped or fails."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from model.artifact.errors import ModelError, TrainingError
from model.data.interactions import Interactions, from_events
from model.data.provenance import Provenance, provenance_of
from model.evaluation.evaluate import evaluate
from model.serving.runtime import Runtime
from model.training import fit, train
from model.training.export import NotWritten, check_target, export, export_or_keep
from model.training.train import Stopped, Trained, TrainingProgress, split_time
from tests.model.tiny import SETTINGS, tiny_interactions

DATA = tiny_interactions(1, users=30)
QUICK = msgspec.structs.replace(SETTINGS, epochs=2, patience=5)
REFIT = msgspec.structs.replace(QUICK, refit=True)


def made(trained: Trained) -> Provenance:
    found = provenance_of(trained.content.metrics)
    assert found is not None
    return found


def clicks(user: list[int], ts: list[int], item: list[int], items: int) -> Interactions:
    """A table of clicks only."""
    n = len(user)
    return from_events(
        np.array(user), np.array(ts), np.zeros(n, np.int8), np.array(item), np.full(n, -1),
        np.full(n, np.nan, np.float32), np.ones(n, np.int32), [f"i{number}" for number in range(items)], [],
    )  # fmt: skip


@pytest.mark.parametrize("refit", [False, True])
def test_the_folder_says_what_was_learned_and_what_was_held_out(refit: bool, tmp_path: Path) -> None:
    """Spans, counts and skipped records match the table; after a refit the held-out part counts as learned."""
    chosen = msgspec.structs.replace(QUICK, refit=refit)
    export(train.train(DATA, chosen, skipped={"duplicate": 3}, late=2), tmp_path / "m")
    found = provenance_of(Runtime.load(tmp_path / "m").content.metrics)
    assert found is not None
    times = sorted(DATA.ts.tolist())
    cut = split_time(DATA, QUICK.valid_share)
    before = [ts for ts in times if ts < cut]
    assert 0.1 < 1 - len(before) / len(times) < 0.2
    assert (found.given.first_ms, found.given.last_ms) == (times[0], times[-1])
    assert (found.validated.first_ms, found.validated.last_ms) == (times[0], before[-1])
    assert (found.validated.events, found.held_out.events) == (len(before), len(times) - len(before))
    assert (found.held_out.first_ms, found.held_out.last_ms) == (cut, times[-1])
    assert found.learned == (found.given if refit else found.validated)
    assert found.learned_until_ms == (times[-1] + 1 if refit else cut)
    assert found.given.users == len(set(DATA.user.tolist()))
    assert (found.items, sum(found.types.values())) == (len(set(DATA.item.tolist()) - {-1}), len(DATA))
    assert (found.skipped, found.late, found.refit, found.stopped) == ({"duplicate": 3}, 2, refit, False)


def test_the_table_is_of_the_held_out_events(tmp_path: Path) -> None:
    """Without a refit, the stored table equals an evaluation of the written model on the held-out events.

    With a refit it is the same table: that of the model before it learned these events.
    """
    plain = train.train(DATA, QUICK)
    export(plain, tmp_path / "m")
    cut = split_time(DATA, QUICK.valid_share)
    again = evaluate(Runtime.load(tmp_path / "m"), DATA, cut, exact=False)
    assert plain.content.metrics["validation"] == again
    cases = [int((DATA.ts[DATA.user == user] >= cut).sum()) for user in set(DATA.user.tolist())]
    assert again["next_event"]["cases"] == sum(max(0, count - 1) for count in cases)
    assert again["judged"]["events"] == int((DATA.ts >= cut).sum())
    refit = train.train(DATA, REFIT)
    assert refit.content.metrics["validation"] == again
    assert not torch.equal(refit.network.item_bias, plain.network.item_bias)


def test_a_refit_takes_as_many_epochs_as_the_first_training_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second training has as many epochs as the best one of the first, not as the last one."""
    scores = iter([0.1, 0.5, 0.2, 0.3])
    monkeypatch.setattr(fit, "_validate", lambda *_: next(scores))
    found = train.train(DATA, msgspec.structs.replace(REFIT, epochs=4, patience=2))
    assert [entry.epoch for entry in found.history if entry.refit] == [1, 2]
    assert made(found).epochs == 2


def test_a_model_of_an_earlier_release_says_nothing() -> None:
    """Metrics without this part, or with other fields in it, give no provenance."""
    assert provenance_of({"epochs": []}) is None
    assert provenance_of({"data": {"given": 3}}) is None


def test_visitors_with_one_event_do_not_end_the_training() -> None:
    """Batches have sequences of similar length: one of 3,000 visitors with one click would teach nothing."""
    user, ts, item = zip(
        *[(1_000 + i, 1_767_225_660_000 + 500 * i, i % 30) for i in range(3_000)],
        *[(i % 50, 1_767_225_660_000 + 1_000 * i, i * 7 % 30) for i in range(1_200)],
        strict=True,
    )
    found = train.train(
        clicks(list(user), list(ts), list(item), 30), msgspec.structs.replace(QUICK, epochs=1)
    )
    assert np.isfinite(found.history[0].loss)
    assert made(found).given.users == 3_050


def test_events_of_one_moment_are_never_divided() -> None:
    """If most events have the first time, the later ones are held out, however few they are."""
    ts = np.sort(DATA.ts)
    data = replace(DATA, ts=np.where(DATA.ts <= ts[int(len(ts) * 0.95)], ts[0], DATA.ts))
    later = np.unique(data.ts)[1]
    assert split_time(data, 0.15) == later


def test_a_stop_in_the_first_epoch_leaves_no_model() -> None:
    """Nothing is kept before the first epoch is complete."""
    with pytest.raises(Stopped):
        train.train(DATA, QUICK, stop=lambda: True)


def test_a_stop_keeps_the_best_epoch_so_far() -> None:
    """Stopped in the third epoch, the result is the best earlier model, calibrated, with its table and a note."""
    seen: list[TrainingProgress] = []

    def stop() -> bool:
        return bool(seen) and seen[-1].epoch == 3

    chosen = msgspec.structs.replace(REFIT, epochs=8)
    found = train.train(DATA, chosen, seen.append, stop=stop)
    assert [entry.epoch for entry in found.history] == [1, 2]
    assert found.stopped and made(found).stopped and not made(found).refit
    assert found.content.calibration.events > 0 and found.content.metrics["validation"]


def test_a_stop_in_the_refit_keeps_the_first_model() -> None:
    """A second training that is stopped is discarded for the validated model."""
    seen: list[TrainingProgress] = []
    whole = train.train(DATA, QUICK)
    found = train.train(DATA, REFIT, seen.append, stop=lambda: bool(seen) and seen[-1].refit)
    assert found.stopped and not made(found).refit
    assert torch.equal(found.network.item_bias, whole.network.item_bias)


def test_a_loss_that_is_nan_is_said_in_words() -> None:
    """An absurd learning rate ends in a message that names it."""
    with pytest.raises(TrainingError, match=r"NaN in epoch 1: lower learning_rate \(it is 1e\+30\)"):
        train.train(DATA, msgspec.structs.replace(QUICK, learning_rate=1e30))


def test_too_little_memory_is_said_in_words() -> None:
    """A width that no machine can hold gives a message with the settings to lower."""
    one = replace(DATA, item=np.zeros(len(DATA), np.int64), category=np.zeros(len(DATA), np.int64))
    with pytest.raises(TrainingError, match="not enough memory to train with hidden = 4194304"):
        train.train(one, msgspec.structs.replace(QUICK, hidden=1 << 22, buckets=1))


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("mine")
    return folder / "file"


def below_a_file(folder: Path) -> Path:
    return a_file(folder) / "shop"


def other_files(folder: Path) -> Path:
    (folder / "other").mkdir()
    a_file(folder / "other")
    return folder / "other"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (a_file, "file is a file|not a model folder"),
        (below_a_file, "cannot be made|Not a directory"),
        (other_files, "not a model|not part of a model"),
        (lambda _: Path("/proc/self/shop"), "No such file|not permitted|cannot be made|Permission denied"),
        (lambda folder: folder / ("x" * 300), "too long"),
        (lambda _: Path("/"), "not a model|not part of a model"),
    ],
)
def test_a_target_that_cannot_be_written_is_told_before_the_work(
    target: Callable[[Path], Path], says: str, tmp_path: Path
) -> None:
    """A file, a folder below a file, a foreign folder, a read-only place, a name too long: one sentence each."""
    path = target(tmp_path)
    with pytest.raises(ModelError, match=says):
        check_target(path)


def test_a_target_that_can_be_written_is_left_as_it_is(trained: Trained, tmp_path: Path) -> None:
    """The check leaves nothing behind: for a new folder, missing parents, an empty one, an earlier model."""
    (tmp_path / "empty").mkdir()
    export(trained, tmp_path / "model")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    for name in ("new", "a/b/c", "empty", "model", "link"):
        check_target(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before
    label = export(trained, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert Runtime.load(tmp_path / "model").label == label


def test_a_model_that_cannot_be_written_is_kept_elsewhere(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the target disappeared during the training, the error names the folder with the complete model."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spare"))
    (tmp_path / "spare").mkdir()
    with pytest.raises(NotWritten, match=r"could not be written to .*It is kept in (\S+): move it") as caught:
        export_or_keep(trained, a_file(tmp_path) / "shop", "tiny")
    kept = Path(str(caught.value).partition("kept in ")[2].partition(": move")[0])
    assert kept.is_relative_to(tmp_path / "spare")
    assert Runtime.load(kept).label.startswith("tiny@")
