"""The micro-batch step: rounds, hidden states, and independence of how the stream is cut."""

from itertools import pairwise

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.evaluation import playback
from model.serving.hidden_states import HiddenStates
from model.serving.rounds import arrange
from model.serving.runtime import Runtime, StepResult
from model.training.train import Trained
from tests.model.tiny import tiny_interactions

DATA = tiny_interactions(3, users=12)
EVENTS = 150


@given(st.lists(st.integers(0, 6) | st.integers(0, 2**62), min_size=1, max_size=60))
def test_rounds_keep_every_users_order(slots: list[int]) -> None:
    """Each event's `before` row is the `after` row of its user's previous event, or the user's first row."""
    plan = arrange(np.array(slots))
    rows = {int(slot): place for place, slot in enumerate(plan.users)}  # the state before the batch
    for number, slot in enumerate(slots):
        assert plan.before[number] == rows[slot]
        rows[slot] = int(plan.after[number])
    assert [rows[int(slot)] for slot in plan.users] == plan.last.tolist()
    assert sum(plan.sizes) == len(slots)
    assert sorted(plan.sizes, reverse=True) == plan.sizes
    assert [slots[number] for number in plan.order[: plan.sizes[0]]] == plan.users.tolist()


def run(runtime: Runtime, cuts: list[int]) -> tuple[list[StepResult], np.ndarray]:
    batch = playback.part(playback.whole_batch(runtime, DATA), np.arange(EVENTS))
    hidden = runtime.hidden_states(12)
    bounds = [0, *sorted(cuts), EVENTS]
    results = [
        runtime.step(hidden, playback.part(batch, np.arange(start, end)), 5)
        for start, end in pairwise(bounds)
        if end > start
    ]
    return results, hidden.read(np.arange(12))


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, EVENTS), max_size=30))
def test_any_cutting_into_micro_batches_gives_the_same_answers(runtime: Runtime, cuts: list[int]) -> None:
    """All answers and the final states agree within 1e-5 with those of a single batch."""
    (whole,), states = run(runtime, [])
    pieces, final = run(runtime, cuts)
    np.testing.assert_allclose(final, states, atol=1e-5)
    for name, column in vars(whole).items():
        joined = np.concatenate([getattr(piece, name) for piece in pieces])
        if name == "items":  # an order may differ only where scores are equal within rounding
            different = joined != column
            scores = np.concatenate([piece.scores for piece in pieces])
            near = np.abs(np.diff(whole.scores, axis=1, prepend=2, append=-1)) < 1e-5
            assert (near[:, 1:] | near[:, :-1])[different].all()
            np.testing.assert_allclose(scores, whole.scores, atol=1e-5)
        else:
            # A tiny model's curve from surprise to p is steep between surprises that are nearly equal.
            atol = {"surprise": 1e-4, "p_value": 2e-3}.get(name, 1e-5)
            np.testing.assert_allclose(joined, column, atol=atol)


def test_step_equals_the_network_it_was_exported_from(runtime: Runtime, trained: Trained) -> None:
    """States and heads of the step equal those of torch's own GRU on whole sequences."""
    (result,), _ = run(runtime, [])
    batch = playback.part(playback.whole_batch(runtime, DATA), np.arange(EVENTS))
    inputs = runtime._encoder.encode(
        batch.event_type, batch.item, batch.category, batch.gap_s, batch.ts, batch.price, batch.quantity,
        batch.windows,
    )  # fmt: skip
    columns = [torch.from_numpy(column) for column in inputs]
    network = trained.network.eval()
    for slot in np.unique(batch.slots):
        rows = np.flatnonzero(batch.slots == slot)
        with torch.no_grad():
            readout = network(*(column[torch.from_numpy(rows)].unsqueeze(0) for column in columns))[0]
            following = torch.softmax(network.next_event_type(readout), dim=1).numpy()
            purchase = network.purchase(readout)[:, 0].numpy()
        np.testing.assert_allclose(result.next_event[rows], following, atol=1e-5)
        np.testing.assert_allclose(result.raw_purchase[rows], purchase, atol=1e-4)


def test_surprise_is_the_exact_log_loss_where_the_references_are_all_items(
    runtime: Runtime, trained: Trained
) -> None:
    """With fewer items than references the estimate joins the item itself to a full softmax."""
    (result,), _ = run(runtime, [])
    batch = playback.part(playback.whole_batch(runtime, DATA), np.arange(EVENTS))
    hidden = runtime.hidden_states(12)
    for number in range(40):
        one = playback.part(batch, np.array([number]))
        row = torch.from_numpy(hidden.read(one.slots))
        runtime.rebuild(hidden, one)
        if one.first[0]:
            assert result.surprise[number] == 0.0
            assert result.p_value[number] == 1.0
            continue
        with torch.no_grad():
            last = trained.network.item(row[:, -1].long() - 1)  # of the user's previous event
            state = row[:, :-1] + trained.network.shortcut(last)
            event_type = torch.log_softmax(trained.network.next_event_type(state), 1)[
                0, int(one.event_type[0])
            ].item()
            scores = trained.network.item_scores(state)[0].double()
        wanted = -event_type
        if one.item[0] < len(runtime.item_ids):
            own = scores[int(one.item[0])]
            wanted -= float(own - torch.logaddexp(own, torch.logsumexp(scores, 0)))
        assert result.surprise[number] == pytest.approx(wanted, abs=1e-4)


def test_replay_leaves_the_same_states_as_step(runtime: Runtime) -> None:
    """Rebuilding the states without ranking gives the same states as the step, bit for bit."""
    _, states = run(runtime, [40])
    batch = playback.whole_batch(runtime, DATA)
    hidden = runtime.hidden_states(12)
    runtime.rebuild(hidden, playback.part(batch, np.arange(40)))
    runtime.rebuild(hidden, playback.part(batch, np.arange(40, EVENTS)))
    np.testing.assert_array_equal(hidden.read(np.arange(12)), states)


def test_step_leaves_other_slots_alone(runtime: Runtime) -> None:
    """Only the slots named in a batch change."""
    hidden = runtime.hidden_states(40)
    marks = np.random.default_rng(0).normal(size=(40, runtime.hidden)).astype(np.float32)
    hidden.write(np.arange(40), marks)
    batch = playback.part(playback.whole_batch(runtime, DATA), np.arange(EVENTS))
    runtime.step(hidden, batch)
    untouched = np.setdiff1d(np.arange(40), batch.slots)
    np.testing.assert_array_equal(hidden.read(untouched), marks[untouched])
    assert (hidden.read(batch.slots) != marks[batch.slots]).any()


def test_an_empty_batch_has_empty_answers(runtime: Runtime) -> None:
    """No events give no answers, with the same shapes."""
    none = playback.part(playback.whole_batch(runtime, DATA), np.zeros(0, np.int64))
    result = runtime.step(runtime.hidden_states(1), none, 7)
    assert result.items.shape == (0, 7)
    assert result.next_event.shape == (0, 3)


@given(st.data())
def test_slab_reads_back_what_was_written_bit_for_bit(data: st.DataObject) -> None:
    """Writing, growing, resetting and reading agree with a plain array."""
    hidden, mirror = HiddenStates(8, 4, torch.device("cpu")), np.zeros((8, 4), np.float32)
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    for _ in range(data.draw(st.integers(1, 6))):
        slots = np.array(data.draw(st.lists(st.integers(0, len(mirror) - 1), unique=True)), np.int64)
        what = data.draw(st.sampled_from(["write", "reset", "grow"]))
        if what == "write":
            states = random.integers(0, 1 << 32, (len(slots), 4), np.uint32).view(np.float32)
            hidden.write(slots, states)
            mirror[slots] = states
        elif what == "reset":
            hidden.reset(slots)
            mirror[slots] = 0.0
        else:
            hidden.grow(hidden.capacity + 3)
            mirror = np.vstack((mirror, np.zeros((3, 4), np.float32)))
        read = hidden.read(np.arange(len(mirror)))
        np.testing.assert_array_equal(read.view(np.uint32), mirror.view(np.uint32))


def test_a_large_slab_takes_memory_only_where_it_is_used() -> None:
    """On a CPU a million rows (516 MB) cost almost nothing until users need them; so do added rows."""
    process = psutil.Process()
    before = process.memory_info().rss
    hidden = HiddenStates(1_000_000, 129, torch.device("cpu"))
    hidden.write(np.arange(1000), np.ones((1000, 129), np.float32))
    assert process.memory_info().rss - before < 64 << 20
    hidden.grow(1_000_000)
    assert hidden.capacity == 1_000_000
    assert hidden.read(np.array([999, 1000, 999_999])).sum(axis=1).tolist() == [129.0, 0.0, 0.0]
