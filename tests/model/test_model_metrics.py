"""Metric functions against slow, independent references."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from model.evaluation import metrics

# Few distinct values, so that ties are common.
SCORES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@given(st.lists(st.lists(SCORES, min_size=4, max_size=4), min_size=1, max_size=8), st.data())
def test_ranks_put_the_target_behind_its_ties(rows: list[list[float]], data: st.DataObject) -> None:
    """The rank is the number of items at least as good as the target, itself included."""
    target = [data.draw(st.integers(0, 3)) for _ in rows]
    found = metrics.ranks(np.array(rows), np.array(target))
    for row, wanted, rank in zip(rows, target, found, strict=True):
        others = sorted((score for place, score in enumerate(row) if place != wanted), reverse=True)
        assert rank == 1 + sum(score >= row[wanted] for score in others)


@given(st.permutations(range(6)), st.lists(SCORES, min_size=4, max_size=4), st.integers(0, 8))
def test_list_ranks_find_the_target_or_miss(order: list[int], scores: list[float], target: int) -> None:
    """In a list the rank is the last place of the target's score; outside it is a miss at any k."""
    items, falling = order[:4], sorted(scores, reverse=True)
    rank = int(metrics.list_ranks(np.array([items]), np.array([falling]), np.array([target]))[0])
    if target in items:
        own = falling[items.index(target)]
        assert rank == max(place for place, score in enumerate(falling, 1) if score == own)
    else:
        assert metrics.recall_at(np.array([rank]), 10**6) == 0.0


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 25))
def test_recall_and_mrr_equal_a_plain_loop(found: list[int], k: int) -> None:
    """recall@k and MRR@k are the means in their definitions."""
    recall = sum(rank <= k for rank in found) / len(found)
    mrr = sum(1 / rank for rank in found if rank <= k) / len(found)
    assert metrics.recall_at(np.array(found), k) == pytest.approx(recall)
    assert metrics.mrr_at(np.array(found), k) == pytest.approx(mrr)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=50))
def test_classification_equals_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    """Accuracy, macro precision, recall and F1 equal those of scikit-learn with zero_division=0."""
    truth, said = np.array(pairs).T
    found = metrics.classification(truth, said)
    options = {"average": "macro", "zero_division": 0}
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(truth, said))
    assert found["precision"] == pytest.approx(reference.precision_score(truth, said, **options))
    assert found["recall"] == pytest.approx(reference.recall_score(truth, said, **options))
    assert found["f1"] == pytest.approx(reference.f1_score(truth, said, **options))


@given(st.lists(st.tuples(st.booleans(), SCORES), min_size=2, max_size=60))
def test_areas_equal_scikit_learn(pairs: list[tuple[bool, float]]) -> None:
    """ROC AUC and PR AUC equal those of scikit-learn, ties included; NaN where they are not defined."""
    truth = np.array([each[0] for each in pairs])
    score = np.array([each[1] for each in pairs])
    if truth.all() or not truth.any():
        assert math.isnan(metrics.roc_auc(truth, score))
    else:
        assert metrics.roc_auc(truth, score) == pytest.approx(reference.roc_auc_score(truth, score))
        assert metrics.pr_auc(truth, score) == pytest.approx(reference.average_precision_score(truth, score))


def test_areas_of_a_small_case() -> None:
    """Areas computed by hand: three of four pairs in the right order, with one tie that counts half."""
    truth, score = np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8], np.float32)
    assert metrics.roc_auc(truth, score) == pytest.approx(3.5 / 4)
    assert metrics.pr_auc(truth, score) == pytest.approx(0.5 * 1.0 + 0.5 * 2 / 3)


def test_the_examples_in_the_docstrings_are_right() -> None:
    """Each metric of lists has an example, which runs here."""
    found = doctest.testmod(metrics)
    assert found.attempted >= 5 and not found.failed


def test_calibration_error_is_zero_for_true_rates_and_large_for_wrong_ones() -> None:
    """Probabilities equal to the rates have no error; the same ones in reverse have a large one."""
    truth = np.tile([0, 0, 0, 1], 100)
    assert metrics.calibration_error(truth, np.full(400, 0.25)) == pytest.approx(0.0, abs=0.05)
    assert metrics.calibration_error(truth, np.full(400, 0.75)) == pytest.approx(0.5, abs=0.05)
