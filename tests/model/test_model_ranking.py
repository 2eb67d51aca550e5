"""The ranking kernel, compared with a plain Python reference and with torch."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.evaluation import playback
from model.ranking import candidates, rank_all_items, rank_on_gpu
from model.ranking.candidates import CATEGORY_BEST, FOLLOWERS, POPULAR, QUOTAS, SUCCESSORS, Tables
from model.ranking.quantised_items import FINE_LOST, FINE_STEPS, LOST, SCALE, quantised
from model.ranking.rank_candidates import Ranked, Ranker
from model.serving.runtime import Runtime
from tests.model.tiny import tiny_interactions

CATEGORIES = 4


def padded(random: np.random.Generator, known: int, width: int) -> np.ndarray:
    """Return a row of different items, followed by -1."""
    row = np.full(width, -1, np.int32)
    count = int(random.integers(0, min(known, width) + 1))
    row[:count] = random.permutation(known)[:count]
    return row


def make(seed: int, known: int, m: int) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    tables = Tables(
        np.array([padded(random, known, FOLLOWERS) for _ in range(known)]),
        random.integers(0, 4, (known, FOLLOWERS)).astype(np.float32),
        np.array([padded(random, known, CATEGORY_BEST) for _ in range(CATEGORIES)]),
        padded(random, known, POPULAR),
        np.zeros((known, SUCCESSORS), np.int32),
    )
    # Whole numbers keep sums exact in any order, and make ties common.
    states = random.integers(-1, 2, (m, 8)).astype(np.float32)
    table = random.integers(-1, 2, (known + 3, 8)).astype(np.float32)
    bias = random.integers(-1, 2, known).astype(np.float32)
    recent = random.integers(0, known + 3, (m, 5)).astype(np.int32)
    category = random.integers(0, CATEGORIES, m).astype(np.int32)
    return tables, states, table, bias, recent, category  # type: ignore[return-value]


def reference(
    state: np.ndarray, recent: np.ndarray, category: int, table: np.ndarray, bias: np.ndarray, tables: Tables,
    boost: float, k: int, exact: bool,
) -> tuple[list[int], list[float]]:  # fmt: skip
    """Rank one event with dictionaries and a sort."""
    known = len(bias)
    bonus: dict[int, float] = dict.fromkeys(range(known), 0.0) if exact else {}
    for place, (item, quota) in enumerate(zip(recent.tolist(), QUOTAS, strict=False)):
        if item >= known:
            continue
        if not exact:
            bonus.setdefault(item, 0.0)
        for column in range(quota):
            follower = int(tables.followers[item, column])
            if follower >= 0:
                extra = boost * 0.5**place * float(tables.strength[item, column])
                bonus[follower] = bonus.get(follower, 0.0) + extra
    if not exact:
        for item in [*tables.category_best[category].tolist(), *tables.popular.tolist()]:
            if item >= 0:
                bonus.setdefault(item, 0.0)
    raw = {item: float(state @ table[item]) + float(bias[item]) + extra for item, extra in bonus.items()}
    best = sorted(raw, key=lambda item: (-raw[item], item))[:k]
    top = max(raw.values(), default=0.0)
    total = sum(np.exp(score - top) for score in raw.values())
    return best, [np.exp(raw[item] - top) / total for item in best]


def ranked(ranker: Ranker, states: np.ndarray, *columns: Any) -> Ranked:
    """Return what the ranker's tasks find for the events of these states."""
    found, tasks = ranker.rank(states, np.arange(len(states)), *columns)
    for task in tasks:
        task(1)
    return found


@pytest.mark.parametrize("exact", [False, True])
@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([1, 10, 20])
)
def test_kernel_and_torch_equal_the_reference(
    exact: bool, seed: int, known: int, boost: float, k: int
) -> None:
    """Both rankings give the reference's items in its order (ties: lower number) and its scores."""
    tables, states, table, bias, recent, category = make(seed, known, 6)
    if exact:
        raw = (states @ table[:known].T + bias).astype(np.float32)
        found = rank_all_items.rank(raw, recent, tables, boost, k)
    else:
        found = ranked(Ranker(table, bias, tables), states, recent, category, boost, k)
    on_device = rank_on_gpu.DeviceTables(tables, torch.device("cpu"))
    columns = [torch.from_numpy(column) for column in (states, recent, category, table, bias)]
    if exact:
        items, scores = rank_on_gpu.rank_exact(columns[0], columns[1], *columns[3:], on_device, boost, k)
    else:
        items, scores = rank_on_gpu.rank(*columns, on_device, boost, k)
    for event in range(len(states)):
        best, shares = reference(
            states[event], recent[event], int(category[event]), table, bias, tables, boost, k, exact
        )
        full = best + [-1] * (k - len(best))
        assert found.items[event].tolist() == full
        assert items[event].tolist() == full
        np.testing.assert_allclose(found.scores[event, : len(best)], shares, atol=1e-5)
        np.testing.assert_allclose(scores[event, : len(best)].numpy(), shares, atol=1e-5)
        assert not found.scores[event, len(best) :].any()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 200),
    st.sampled_from([8, 30, 64]),
    st.sampled_from([1e-9, 0.3, 5.0]),
)
def test_eight_bits_are_never_further_off_than_they_say(
    seed: int, known: int, hidden: int, size: float
) -> None:
    """One layer and both differ from the float32 score by at most |state| times the number in the table."""
    random = np.random.default_rng(seed)
    table = (random.normal(0, size, (known, hidden)) ** random.integers(1, 4)).astype(np.float32)
    table[random.random(known) < 0.1] = 0.0
    states = random.normal(0, 2, (5, hidden)).astype(np.float32)
    layers = quantised(table, np.zeros(known, np.float32))
    assert layers.rows.ctypes.data % 64 == 0
    length = np.linalg.norm(states, axis=1)[:, None]
    true = states.astype(np.float64) @ table.T.astype(np.float64)
    scale = layers.facts[:, SCALE].astype(np.float64)
    one = states @ layers.rows.T * scale
    both = one + states @ layers.fine.T * (scale / FINE_STEPS)
    assert (np.abs(one - true) <= length * layers.facts[:, LOST]).all()
    assert (np.abs(both - true) <= length * layers.facts[:, FINE_LOST]).all()
    assert (layers.facts[:, FINE_LOST] <= layers.facts[:, LOST] * 1.01).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 23), st.sampled_from([1, 5, 10]))
def test_items_too_near_for_sixteen_bits_keep_the_order_of_float32(seed: int, bits: int, k: int) -> None:
    """Rows that differ by a few units of 2^-bits are in the order of their exact scores; equal ones by number."""
    random = np.random.default_rng(seed)
    tables, _, _, bias, recent, category = make(seed, 50, 6)
    # Multiples of 2^-bits below 1 and a state of zeros and one: sums are exact in float32 in any order.
    base = random.integers(0, 2**bits, 8)
    rows = np.clip(base + random.integers(-2, 3, (53, 8)), 0, 2**bits - 1)
    table = (rows * 2.0**-bits).astype(np.float32)
    states = np.eye(8, dtype=np.float32)[random.integers(0, 8, 6)]
    found = ranked(Ranker(table, bias * 0, tables), states, recent, category, 0.0, k)
    for event in range(6):
        best, _ = reference(
            states[event], recent[event], int(category[event]), table, bias * 0, tables, 0.0, k, False
        )
        assert found.items[event].tolist() == best + [-1] * (k - len(best))


def test_ranking_a_real_model_gives_the_lists_of_float32(runtime: Runtime) -> None:
    """On the states of a trained model, the ten items, their order and their shares equal those of torch."""
    batch = playback.whole_batch(runtime, tiny_interactions(6, users=40))
    found = runtime.step(runtime.hidden_states(40), batch)
    plain = runtime.plainly().step(runtime.hidden_states(40), batch)
    same = (found.items == plain.items).all(axis=1)
    gaps = -np.diff(plain.scores, axis=1).min(axis=1, where=plain.items[:, 1:] >= 0, initial=1.0)
    assert same[gaps > 1e-5].all()
    assert same.mean() > 0.98
    np.testing.assert_allclose(found.scores, plain.scores, atol=5e-4)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=2, max_size=40))
def test_pairs_equal_a_plain_loop(events: list[tuple[int, int]]) -> None:
    """Weights of ordered pairs are the sums of 1 / distance within one user's known items."""
    user, item = (np.array(column, np.int64) for column in zip(*events, strict=True))
    known = 5  # item 5 is an unknown one and is skipped
    wanted: dict[tuple[int, int], float] = {}
    for who in set(user.tolist()):
        path = [what for each, what in events if each == who and what < known]
        for at, target in enumerate(path):
            for distance in (1, 2, 3):
                if at >= distance:
                    pair = (path[at - distance], target)
                    wanted[pair] = wanted.get(pair, 0.0) + 1 / distance
    found = candidates.pairs(user, item.astype(np.int32), known, 3)
    assert {(int(a), int(b)): pytest.approx(w) for a, b, w in zip(*found, strict=True)} == wanted


def test_associates_take_only_empty_places() -> None:
    """Counted followers keep their places and strengths; associates come after them, none twice."""
    tables = make(3, 30, 1)[0]
    random = np.random.default_rng(0)
    associates = np.array([random.permutation(30)[:25] for _ in range(30)], np.int32)
    filled = candidates.fill(tables, associates)
    for before, after in zip(tables.followers, filled.followers, strict=True):
        have = before[before >= 0]
        assert after[: len(have)].tolist() == have.tolist()
        present = after[after >= 0]
        assert len(set(present.tolist())) == len(present) >= 25
    np.testing.assert_array_equal(filled.strength, tables.strength)


def test_exact_ranking_contains_the_candidates_best_item_or_a_better_one(runtime: Runtime) -> None:
    """Over all items, the first score is never below the first one of the candidates."""
    data = tiny_interactions(5, users=10)
    batch = playback.whole_batch(runtime, data)
    some = runtime.step(runtime.hidden_states(10), batch, 20)
    every = runtime.exactly().step(runtime.hidden_states(10), batch, 20)
    assert (every.items >= 0).all()
    agreed = (some.items[:, 0] == every.items[:, 0]).mean()
    assert agreed > 0.9  # 40 items: nearly all of them are candidates


def test_recent_items_are_distinct_and_newest_first() -> None:
    """The helper keeps the last distinct items, moves a repeated one to the front, skips events without an item."""
    user = np.array([0, 0, 1, 0, 0, 0])
    item = np.array([1, 2, 7, 1, 9, 3], np.int32)  # 9: none
    recent, first = playback.recent_items(user, item, 9)
    assert recent[-1].tolist() == [3, 1, 2, 9]
    assert recent[2].tolist() == [7, 9, 9, 9]
    assert recent[4].tolist() == [1, 2, 9, 9]
    assert first.tolist() == [True, False, True, False, False, False]
