"""Pure metric functions. Ties count against us everywhere: an item that shares its score with others is
placed behind them all."""

import numpy as np
import numpy.typing as npt

MISS = 1 << 31  #: the rank of an item that was not offered at all

Scores = npt.NDArray[np.floating]
Numbers = npt.NDArray[np.integer]


def ranks(scores: Scores, target: Numbers) -> npt.NDArray[np.int64]:
    """Return the rank (1 = best) of each row's target among all items; scores (n, items), target (n,)."""
    own = scores[np.arange(len(scores)), target]
    return (scores >= own[:, None]).sum(axis=1, dtype=np.int64)


def list_ranks(items: Numbers, scores: Scores, target: Numbers) -> npt.NDArray[np.int64]:
    """Return the rank of each row's target in its list (n, k), MISS where the list lacks it."""
    hit = items == target[:, None]
    own = np.where(hit, scores, -np.inf).max(axis=1, initial=-np.inf)
    worst = (scores >= own[:, None]).sum(axis=1, dtype=np.int64)
    return np.where(hit.any(axis=1), worst, MISS)


def recall_at(found: Numbers, k: int) -> float:
    """Return the share of ranks that are at most k; NaN without any."""
    return float((found <= k).mean()) if len(found) else float("nan")


def mrr_at(found: Numbers, k: int) -> float:
    """Return the mean of 1 / rank, 0 beyond k (Voorhees 1999); NaN without any."""
    return float(np.where(found <= k, 1.0 / found, 0.0).mean()) if len(found) else float("nan")


def classification(truth: Numbers, predicted: Numbers, classes: int) -> dict[str, float]:
    """Return accuracy and macro precision, recall and F1 over the classes that occur in truth or prediction.

    A class never predicted has precision 0, one never true recall 0.
    """
    if not len(truth):
        return dict.fromkeys(("accuracy", "precision", "recall", "f1"), float("nan"))
    table = np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    right, true, said = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    present = (true + said) > 0
    precision, recall = right / np.maximum(said, 1), right / np.maximum(true, 1)
    f1 = 2 * right / np.maximum(true + said, 1)
    return {
        "accuracy": float(right.sum() / len(truth)),
        "precision": float(precision[present].mean()),
        "recall": float(recall[present].mean()),
        "f1": float(f1[present].mean()),
    }


def roc_auc(truth: Numbers, score: Scores) -> float:
    """Return the area under the ROC curve, ties counted half; NaN unless both classes occur.

    The Mann-Whitney statistic (Hanley and McNeil 1982).
    """
    positive = truth.astype(bool)
    p, n = int(positive.sum()), int((~positive).sum())
    if not p or not n:
        return float("nan")
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2.0
    return float((middle[place][positive].sum() - p * (p + 1) / 2.0) / (p * n))


def pr_auc(truth: Numbers, score: Scores) -> float:
    """Return the average precision (area under the precision-recall steps); NaN without a positive."""
    positive = truth.astype(bool)
    if not positive.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(positive[order])
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # equal scores fall together
    precision, gained = hits[ends] / (ends + 1.0), np.diff(hits[ends], prepend=0)
    return float((precision * gained).sum() / hits[-1])


def calibration_error(truth: Numbers, probability: Scores, bins: int = 10) -> float:
    """Return the expected calibration error over bins of equal count (Naeini et al. 2015); NaN if empty."""
    if not len(truth):
        return float("nan")
    parts = np.array_split(np.argsort(probability, kind="stable"), bins)
    gaps = [
        abs(float(truth[rows].mean() - probability[rows].mean())) * len(rows) for rows in parts if len(rows)
    ]
    return sum(gaps) / len(truth)
