"""Calibration curves, and the report of an evaluation."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data import calibration_curves as calibration
from model.data.calibration_curves import TAILS
from model.evaluation import evaluate
from model.serving.runtime import Runtime
from tests.model.tiny import tiny_interactions


@given(st.lists(st.integers(0, 20), min_size=1, max_size=200), st.integers(-3, 25))
def test_tail_of_counts_is_the_conformal_p_value(sample: list[int], value: int) -> None:
    """At a value of the sample, p is (1 + number of values at least as large) / (n + 1); beyond all, 1 / (n + 1)."""
    curve = calibration.tail_curve(np.array(sample, np.float32))
    p = float(np.exp(curve(np.array([value], np.float64)))[0])
    n = len(sample)
    if value in sample:
        assert p == pytest.approx((1 + sum(each >= value for each in sample)) / (n + 1), rel=1e-4)
    elif value > max(sample):
        assert p == pytest.approx(1 / (n + 1), rel=1e-4)
    assert 1 / (n + 1) <= p * 1.0001
    assert p <= 1.0001


def test_p_values_of_new_data_are_uniform() -> None:
    """A thinned table of many values still gives p < x to a share x of new values, far into the tail."""
    random = np.random.default_rng(0)
    curve = calibration.tail_curve(random.gamma(2.0, 2.0, 20_000))
    p = np.exp(curve(random.gamma(2.0, 2.0, 100_000)))
    for level in (0.5, 0.1, 0.01, 0.001):
        assert (p <= level).mean() == pytest.approx(level, rel=0.35 if level < 0.01 else 0.1)
    assert len(curve.x) < 300


@pytest.mark.parametrize(("n", "method"), [(20_000, "isotonic"), (600, "platt")])
def test_purchase_probabilities_are_true_rates(n: int, method: str) -> None:
    """Overconfident raw scores become probabilities that new data confirm; their order never changes."""
    random = np.random.default_rng(1)
    raw = random.normal(0, 3, 2 * n)
    bought = random.random(2 * n) < 1 / (1 + np.exp(-(raw / 3 - 1.5)))
    curve = calibration.purchase_curve(raw[:n].astype(np.float32), bought[:n])
    p = curve(raw[n:])
    assert (np.diff(curve.y) >= 0).all()
    assert 0.0 < p.min() <= p.max() < 1.0
    top = p >= np.quantile(p, 0.9)
    assert p[top].mean() == pytest.approx(bought[n:][top].mean(), abs=0.05 if method == "isotonic" else 0.15)


def test_without_purchases_the_probability_is_small_and_constant() -> None:
    """No purchase in n events gives about 1 / n, not zero; an unlabelled sample gives a half."""
    curve = calibration.purchase_curve(np.linspace(-5, 5, 998).astype(np.float32), np.zeros(998, bool))
    assert curve(np.array([-9.0, 0.0, 9.0])).tolist() == pytest.approx([1e-3] * 3)
    none = calibration.purchase_curve(np.zeros(0, np.float32), np.zeros(0, bool))
    assert none(np.array([1.0])).tolist() == [0.5]


def test_window_tails_fall_with_the_value(runtime: Runtime) -> None:
    """More clicks, items, purchases or money are never less rare; an unknown name is refused."""
    for name in TAILS:
        p = runtime.tail(name, np.array([0.0, 1.0, 5.0, 50.0, 1e6]))
        assert (np.diff(p) <= 0).all()
        assert p[0] == pytest.approx(1.0, abs=1e-4)
        assert p[-1] < 0.02
    with pytest.raises(KeyError, match="clicks_1m"):
        runtime.tail("clicks_9m", np.zeros(1))


def test_surprise_p_values_are_calibrated_on_new_data(runtime: Runtime) -> None:
    """On another week of the same shop about a tenth of the events has p below 0.1."""
    data = tiny_interactions(9, users=150)
    from model.evaluation import playback

    (found,) = [
        result.p_value[data.gap_s[rows] >= 0]
        for rows, result in playback.play(runtime, data, np.ones(len(data), bool), 1, size=len(data))
    ]
    assert (found < 0.1).mean() == pytest.approx(0.1, abs=0.06)
    assert (found < 0.5).mean() == pytest.approx(0.5, abs=0.15)


def test_evaluation_reports_every_number_and_beats_popularity(runtime: Runtime) -> None:
    """The report is JSON with the documented fields, and the network is better than popularity."""
    report = evaluate.evaluate(runtime, tiny_interactions(7, users=60))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert {"recall@20", "mrr@20", "cases", "unseen", "known", "exact", "exact_known"} <= set(
        report["next_item"]
    )
    assert {"accuracy", "precision", "recall", "f1", "log_loss"} <= set(report["next_event"])
    assert {"roc_auc", "pr_auc", "f1", "calibration_error", "rate"} <= set(report["purchase"])
    assert {"popularity", "markov", "sequential_rules"} <= set(report["baselines"])
    popularity = report["baselines"]["popularity"]
    assert isinstance(popularity, dict)
    assert report["next_item"]["mrr@20"] > 2 * popularity["mrr@20"]
    assert report["next_event"]["accuracy"] > 0.5


def test_evaluation_of_the_later_part_asks_only_later_events(runtime: Runtime) -> None:
    """With `since`, earlier events only build up states: only later rows count as cases."""
    data = tiny_interactions(7, users=20)
    since = int(np.median(data.ts))
    whole, later = evaluate.evaluate(runtime, data), evaluate.evaluate(runtime, data, since=since)
    following = np.array([(data.user[row + 1 :] == data.user[row]).any() for row in range(len(data))])
    assert later["next_event"]["cases"] == int((following & (data.ts >= since)).sum())
    assert later["next_event"]["cases"] < whole["next_event"]["cases"]


def test_an_item_that_training_never_saw_is_a_miss(runtime: Runtime) -> None:
    """Unknown next items lower the main figures, and are counted and left out in `known`."""
    data = tiny_interactions(7, users=20)
    renamed = data.items[:20] + [f"new-{number}" for number in range(20)]
    from dataclasses import replace

    report = evaluate.evaluate(runtime, replace(data, items=renamed), exact=False)["next_item"]
    unseen, cases = report["unseen"], report["cases"]
    assert isinstance(unseen, int) and isinstance(cases, int) and isinstance(report["known"], dict)
    assert 0 < unseen < cases
    wanted = report["known"]["recall@20"] * (cases - unseen) / cases
    assert report["recall@20"] == pytest.approx(wanted)
