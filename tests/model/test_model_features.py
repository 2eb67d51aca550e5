"""Vocabulary, features and sliding windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data import features, vocabulary
from model.data.vocabulary import Index
from model.data.windows import LAST_EVENTS, WINDOW_FEATURES, WINDOWS
from tests.model.tiny import tiny_interactions


@given(st.lists(st.text(min_size=1), unique=True, max_size=20), st.text(), st.integers(1, 9))
def test_every_id_has_a_stable_number(ids: list[str], name: str, buckets: int) -> None:
    """Known ids have their place, others a bucket after them, the same in every index of that shape."""
    index = Index(ids, buckets)
    assert [index.of(each) for each in ids] == list(range(len(ids)))
    if name not in ids:
        assert index.known <= index.of(name) < index.none
    assert index.of(name) == Index(ids, buckets).of(name)
    assert index.lookup([name])[-1] == index.none == index.size - 1


def test_buckets_do_not_depend_on_the_process() -> None:
    """The hash of an id is xxh64, forever: models on disk rely on it."""
    assert [Index([], 1000).of(name) for name in ("item-1", "été", "")] == [823, 729, 921]


def test_vocabulary_counts_and_cuts() -> None:
    """The most frequent item comes first; rare ones and those beyond the limit fall into buckets."""
    data = tiny_interactions(0, users=20)
    counts = np.bincount(data.item[data.item >= 0], minlength=len(data.items))
    names = vocabulary.build(data, min_count=1, max_items=10, buckets=4)
    order = sorted(range(len(counts)), key=lambda item: (-counts[item], data.items[item]))
    assert names.items.ids == [data.items[item] for item in order[:10]]
    item, category = names.columns(data)
    assert ((item == names.items.none) == (data.item < 0)).all()
    assert ((category == names.categories.none) == (data.category < 0)).all()
    often = int(np.sort(counts)[-3])
    rare = vocabulary.build(data, min_count=often, max_items=100, buckets=4)
    assert rare.items.known == int((counts >= often).sum())


def test_gap_buckets_rise_and_keep_the_first_apart() -> None:
    """Bucket 0 is only for first events; longer gaps never have a lower bucket; the last one has no upper limit."""
    gaps = np.array([-1.0, 0.0, 0.3, 1.0, 60.0, 3600.0, 86400.0, 1e9], np.float32)
    found = features.gap_bucket(gaps).tolist()
    assert found[:2] == [0, 1]
    assert found == sorted(found)
    assert found[-1] == features.GAP_BUCKETS - 1


def test_hours_are_utc() -> None:
    """Unix time 0 is midnight; times before 1970 still have an hour."""
    hours = features.hour_of_day(np.array([0, 3_600_000, 86_399_999, -1], np.int64))
    assert hours.tolist() == [0, 1, 23, 23]


@settings(max_examples=30)
@given(st.lists(st.one_of(st.just(float("nan")), st.floats(0, 2.0**100, width=32)), min_size=1, max_size=20))
def test_inputs_are_always_finite_and_bounded(prices: list[float]) -> None:
    """Unknown and absurd prices, huge counts and amounts cannot leave the range of the inputs."""
    n = len(prices)
    price = np.array(prices, np.float32)
    quantity = np.full(n, 2**31 - 1, np.int32)
    windows = np.full((n, len(WINDOW_FEATURES)), 1e30, np.float32)
    scale = features.fit_scale(features.numeric(price, quantity, windows))
    found = features.FeatureEncoder(scale).encode(
        np.zeros(n, np.int8), np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.float32),
        np.zeros(n, np.int64), price, quantity, windows,
    )  # fmt: skip
    assert np.isfinite(found.numeric).all()
    assert (np.abs(found.numeric) <= 8.0).all()


def test_scale_standardises_what_is_known() -> None:
    """Known values get mean 0 and deviation 1, unknown ones 0, a constant column 0."""
    random = np.random.default_rng(0)
    price = np.where(random.random(500) < 0.5, np.nan, random.lognormal(3, 1, 500)).astype(np.float32)
    windows = random.integers(0, 9, (500, len(WINDOW_FEATURES))).astype(np.float32)
    quantity = np.ones(500, np.int32)
    scale = features.fit_scale(features.numeric(price, quantity, windows))
    zeros = np.zeros(500, np.int32)
    values = features.FeatureEncoder(scale).encode(
        zeros.astype(np.int8), zeros, zeros, zeros.astype(np.float32), zeros.astype(np.int64), price,
        quantity, windows,
    ).numeric  # fmt: skip
    known = ~np.isnan(price)
    assert values[known, 0].mean() == pytest.approx(0.0, abs=1e-3)
    assert values[known, 0].std() == pytest.approx(1.0, abs=1e-3)
    assert not values[~known, 0].any()
    assert not values[:, 2].any()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_sliding_windows_equal_a_plain_loop(seed: int) -> None:
    """Counts and money of every event match the rows in its windows' buckets; distinct items its last events."""
    data = tiny_interactions(seed, users=3)

    def covered(row: int, mine: np.ndarray, length: int, buckets: int) -> np.ndarray:
        bucket = length // buckets
        return data.ts[mine] // bucket > data.ts[row] // bucket - buckets

    for row in range(len(data)):
        mine = np.flatnonzero((data.user == data.user[row]) & (np.arange(len(data)) <= row))
        for number, (_, length, buckets) in enumerate(WINDOWS):
            inside = mine[covered(row, mine, length, buckets)]
            counts = np.bincount(data.event_type[inside], minlength=3)
            np.testing.assert_array_equal(data.windows[row, 3 * number : 3 * number + 3], counts)
        day = mine[covered(row, mine, 86_400_000, 24)]
        bought = day[data.event_type[day] == 2]
        assert data.windows[row, 15] == pytest.approx(np.nan_to_num(data.price[bought]).sum())
        assert data.windows[row, 16] == len(set(data.item[mine[-LAST_EVENTS:]].tolist()) - {-1})
        gap = -1.0 if len(mine) == 1 else (data.ts[row] - data.ts[mine[-2]]) / 1000
        assert data.gap_s[row] == pytest.approx(gap)
