"""Training: seeded, learning, and blind to the future."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.artifact.errors import TrainingError
from model.data import sequences
from model.data.interactions import Interactions
from model.training import fit, train
from model.training.train import Trained, TrainingProgress
from tests.model.tiny import SETTINGS, tiny_interactions, train_tiny

DATA = tiny_interactions(1, users=30)


def test_training_twice_gives_identical_weights() -> None:
    """Same data, seed and threads: every weight, curve and exported byte is the same; the seed matters."""
    trained, again = train_tiny(), train_tiny()
    for name, weight in trained.network.state_dict().items():
        assert torch.equal(weight, again.network.state_dict()[name]), name
    assert again.content.step == trained.content.step
    assert again.content.calibration == trained.content.calibration
    other = train.train(DATA, msgspec.structs.replace(SETTINGS, seed=1, epochs=1))
    same = train.train(DATA, msgspec.structs.replace(SETTINGS, seed=0, epochs=1))
    assert not torch.equal(other.network.item.weight, same.network.item.weight)


def test_training_leaves_the_callers_random_numbers_alone() -> None:
    """The global generator of torch does not change."""
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    train.train(DATA, msgspec.structs.replace(SETTINGS, epochs=1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_loss_falls_and_beats_guessing(trained: Trained) -> None:
    """Over the epochs the loss falls, and the final validation MRR is far above that of a random order."""
    losses = [entry.loss for entry in trained.history]
    assert losses == sorted(losses, reverse=True)
    chance = sum(1 / rank for rank in range(1, 21)) / 40
    assert max(entry.mrr or 0.0 for entry in trained.history) > 1.3 * chance


@pytest.mark.parametrize("full", [True, False])
def test_full_and_sampled_softmax_both_learn(full: bool) -> None:
    """With sampled negatives the same shop is learnt about as well."""
    chosen = msgspec.structs.replace(
        SETTINGS, full_softmax_items=100 if full else 0, negatives=30, epochs=4, patience=4
    )
    found = train.train(tiny_interactions(0), chosen).history
    assert max(entry.mrr or 0.0 for entry in found) > 0.125


def test_progress_counts_up_to_the_end() -> None:
    """Each epoch is reported from its first batch to its validation, and refit reports its own."""
    seen: list[TrainingProgress] = []
    chosen = msgspec.structs.replace(SETTINGS, epochs=2, refit=True)
    trained = train.train(DATA, chosen, seen.append)
    first = [entry for entry in seen if not entry.refit]
    assert [entry.epoch for entry in first] == sorted(entry.epoch for entry in first)
    assert [entry.mrr is not None for entry in first] == [entry.share == 1.0 for entry in first]
    assert any(entry.refit for entry in seen)
    assert trained.content.settings.events == len(DATA)
    assert trained.content.settings.fingerprint == train.fingerprint(DATA)


def test_early_stopping_keeps_the_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training ends `patience` epochs after the best validation, with the weights of the best."""
    scores = iter([0.1, 0.5, 0.2, 0.3, 0.9])
    states: list[torch.Tensor] = []

    def judged(network: torch.nn.Module, *_: object) -> float:
        states.append(network.get_parameter("item_bias").detach().clone())
        return next(scores)

    monkeypatch.setattr(fit, "_validate", judged)
    found = train.train(DATA, msgspec.structs.replace(SETTINGS, epochs=5, patience=2))
    assert [entry.mrr for entry in found.history] == [0.1, 0.5, 0.2, 0.3]
    assert torch.equal(found.network.item_bias, states[1])


def test_what_nothing_can_be_learned_from_is_refused_in_words() -> None:
    """No events, one event, the same time for all, users with one event only, few events: each has its message."""
    alone = replace(DATA, user=np.arange(len(DATA)))
    moment = replace(DATA, ts=np.full(len(DATA), 1_767_225_660_000))
    few = DATA.take(np.isin(DATA.user, [0, 1, 2]))
    for data, says in (
        (DATA.take(np.zeros(0, np.int64)), "0 events are too few"),
        (DATA.take(np.array([0])), "1 events are too few"),
        (moment, r"have the same time \(2026-01-01 00:01:00\+00:00\)"),
        (alone, "has one event only"),
        (few, "followed by another event of their user, and training needs at least 200"),
    ):
        with pytest.raises(TrainingError, match=says):
            train.train(data, SETTINGS)
    assert train.train(few, msgspec.structs.replace(SETTINGS, min_events=1, epochs=1)).history


def test_training_sees_nothing_of_the_validation_part() -> None:
    """Weights after the first epoch do not change if all events from the split on change."""
    chosen = msgspec.structs.replace(SETTINGS, epochs=1)
    cut = train.split_time(DATA, chosen.valid_share)
    later = DATA.ts >= cut
    assert 0.1 < later.mean() < 0.2
    other = replace(
        DATA,
        event_type=np.where(later, 2, DATA.event_type).astype(np.int8),
        item=np.where(later, 0, DATA.item),
        category=np.where(later, 0, DATA.category),
        price=np.where(later, 999.0, DATA.price).astype(np.float32),
        windows=np.where(later[:, None], 50.0, DATA.windows).astype(np.float32),
    )
    one, two = train.train(DATA, chosen), train.train(other, chosen)
    assert one.content.vocabulary.items.ids == two.content.vocabulary.items.ids
    assert one.content.settings == two.content.settings
    for name, table in one.content.tables._asdict().items():
        np.testing.assert_array_equal(table, two.content.tables._asdict()[name])
    for name, weight in one.network.state_dict().items():
        assert torch.equal(weight, two.network.state_dict()[name]), name


def reference_targets(data: Interactions, known: int, horizon_ms: int) -> list[tuple[int, int, int]]:
    """Return (event_type, item, bought) of every event by looking through the rows after it."""
    found = []
    for row in range(len(data)):
        mine = [other for other in range(row + 1, len(data)) if data.user[other] == data.user[row]]
        event_type = int(data.event_type[mine[0]]) if mine else -1
        item = int(data.item[mine[0]]) if mine and 0 <= data.item[mine[0]] < known else -1
        end = int(data.ts[row]) + horizon_ms
        every = [other for other in range(len(data)) if data.user[other] == data.user[row]]
        bought = any(data.event_type[other] == 2 and data.ts[row] < data.ts[other] <= end for other in every)
        found.append((event_type, item, -1 if end > data.ts.max() else int(bought)))
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 400_000))
def test_targets_equal_a_plain_loop(seed: int, horizon_ms: int) -> None:
    """Next type, next item and the purchase label match the rows after each event."""
    data = tiny_interactions(seed, users=3)
    none = len(data.items)
    item = np.where(data.item < 0, none, data.item).astype(np.int32)
    found = sequences.targets(data, item, 30, horizon_ms)
    wanted = reference_targets(data, 30, horizon_ms)
    assert (
        list(zip(found.event_type.tolist(), found.item.tolist(), found.bought.tolist(), strict=True))
        == wanted
    )


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(1, 9), st.integers(0, 5))
def test_every_event_learns_exactly_once_an_epoch(user: list[int], length: int, context: int) -> None:
    """Chunks and batches cover every row once; context rows are the user's rows just before them."""
    column = np.array(user)
    parts = sequences.chunks(column, length, context)
    for part in parts:
        assert len(set(column[part.rows])) == 1
        assert (np.diff(part.rows) > 0).all()
    learnt: list[int] = []
    for batch in sequences.batches(parts, 10, np.random.default_rng(0)):
        learnt += batch.rows[batch.learn].tolist()
    assert sorted(learnt) == list(range(len(user)))


def test_fingerprint_notices_any_change() -> None:
    """The fingerprint depends on each column and both name lists."""
    base = train.fingerprint(DATA)
    assert base == train.fingerprint(tiny_interactions(1, users=30))
    for name in ("user", "ts", "event_type", "item", "category", "price", "quantity", "gap_s", "windows"):
        column = getattr(DATA, name).copy()
        column[3] = column[3] + 1 if not (column.dtype.kind == "f" and math.isnan(column.flat[0])) else 1
        assert train.fingerprint(replace(DATA, **{name: column})) != base, name
    assert train.fingerprint(replace(DATA, items=["x", *DATA.items[1:]])) != base
