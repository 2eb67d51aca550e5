"""Metric functions for lists of items, and the standard ones from scikit-learn.

Ties always count against the model: an item with the same score as others is placed after all of them. GRU4Rec
calls this mode "conservative": it never gives a better figure than any other way to break ties.
"""

import numpy as np
import numpy.typing as npt

MISS = 1 << 31  #: the rank of an item that was not offered at all

Scores = npt.NDArray[np.floating]
Numbers = npt.NDArray[np.integer]


def ranks(scores: Scores, target: Numbers) -> npt.NDArray[np.int64]:
    """Return the conservative rank (1 = best) of each row's target among all items; scores (n, items), target (n,).

    The second row has a tie of two, and the target is the last of them:

    >>> ranks(np.array([[0.1, 0.7, 0.2], [0.4, 0.4, 0.2]]), np.array([1, 0])).tolist()
    [1, 2]
    """
    own = scores[np.arange(len(scores)), target]
    return (scores >= own[:, None]).sum(axis=1, dtype=np.int64)


def list_ranks(items: Numbers, scores: Scores, target: Numbers) -> npt.NDArray[np.int64]:
    """Return the conservative rank of each row's target in its list (n, k), MISS where the list does not have it.

    >>> items, scores = np.array([[5, 3, 8], [5, 3, 8]]), np.array([[0.9, 0.5, 0.5], [0.9, 0.5, 0.5]])
    >>> list_ranks(items, scores, np.array([3, 4])).tolist() == [3, MISS]
    True
    """
    hit = items == target[:, None]
    own = np.where(hit, scores, -np.inf).max(axis=1, initial=-np.inf)
    worst = (scores >= own[:, None]).sum(axis=1, dtype=np.int64)
    return np.where(hit.any(axis=1), worst, MISS)


def recall_at(found: Numbers, k: int) -> float:
    """Return the share of ranks that are at most k; NaN without any.

    >>> recall_at(np.array([1, 3, 21, MISS]), 20)
    0.5
    """
    return float((found <= k).mean()) if len(found) else float("nan")


def mrr_at(found: Numbers, k: int) -> float:
    """Return the mean of 1 / rank, 0 beyond k (Voorhees 1999); NaN without any.

    >>> mrr_at(np.array([1, 2, 21, MISS]), 20)
    0.375
    """
    return float(np.where(found <= k, 1.0 / found, 0.0).mean()) if len(found) else float("nan")


def classification(truth: Numbers, predicted: Numbers) -> dict[str, float]:
    """Return accuracy and macro precision, recall and F1 over the classes that occur in truth or prediction.

    A class that is never predicted has precision 0; a class that never occurs has recall 0.
    """
    if not len(truth):
        return dict.fromkeys(("accuracy", "precision", "recall", "f1"), float("nan"))
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, predicted, average="macro", zero_division=0
    )
    accuracy = float((truth == predicted).mean())
    return {"accuracy": accuracy, "precision": float(precision), "recall": float(recall), "f1": float(f1)}


def roc_auc(truth: Numbers, score: Scores) -> float:
    """Return the area under the ROC curve, where ties count half; NaN unless both classes occur."""
    positive = truth.astype(bool)
    if positive.all() or not positive.any():
        return float("nan")
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, score))


def pr_auc(truth: Numbers, score: Scores) -> float:
    """Return the average precision (area under the precision-recall steps); NaN without a positive."""
    positive = truth.astype(bool)
    if not positive.any():
        return float("nan")
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(positive, score))


def calibration_error(truth: Numbers, probability: Scores, bins: int = 10) -> float:
    """Return the expected calibration error over bins of equal count (Naeini et al. 2015); NaN if empty."""
    if not len(truth):
        return float("nan")
    parts = np.array_split(np.argsort(probability, kind="stable"), bins)
    gaps = [
        abs(float(truth[rows].mean() - probability[rows].mean())) * len(rows) for rows in parts if len(rows)
    ]
    return sum(gaps) / len(truth)
