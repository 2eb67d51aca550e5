"""Measures a model on a table that it has not seen: the figures of `foreclick evaluate`."""

import math

import msgspec
import numpy as np
import numpy.typing as npt

from model.data import sequences
from model.data.interactions import Interactions
from model.data.provenance import part_of
from model.data.sequences import Targets
from model.evaluation import baselines, metrics, playback
from model.serving.runtime import Runtime

K = 20
_CUTS = (1, 5, 10, 20)
MetricsReport = dict[str, dict[str, object]]


def evaluate(
    runtime: Runtime, data: Interactions, since: int | None = None, exact: bool = True
) -> MetricsReport:
    """Return the metrics of a model on the events of a table from time `since` (ms) on; all by default.

    Earlier events only build up the users' hidden states. Each event whose user has a next event with an item is
    a case of "next_item". Items that training has never seen count as misses; "known" leaves these cases
    out. The lists are those the stream processor publishes; with `exact`, "exact" holds the same ranking
    over all items. Equal scores count against the model. NaN (nothing to measure) becomes None. "judged" says
    which events were judged: how many, of how many users, the times of the first and the last.
    """
    item, _ = runtime.content.vocabulary.columns(data)
    # Unknown items are targets too, with numbers that no list can hold.
    wanted = sequences.targets(data, item, runtime.none_item, runtime.horizon_ms)
    asked = np.ones(len(data), np.bool_) if since is None else data.ts >= since
    found = _ScoredRows(runtime, data, wanted, asked)
    cases = asked & (wanted.item >= 0)
    report: MetricsReport = {
        "judged": {"since_ms": since, **msgspec.to_builtins(part_of(data, asked))},
        "next_item": {
            **_item_metrics(found.ranks),
            "cases": len(found.ranks),
            "users": len(np.unique(data.user[cases])),
            "unseen": int((~found.seen).sum()),
            "known": _item_metrics(found.ranks[found.seen]),
        },
        "next_event": _event_type_metrics(found.event_type, wanted.event_type[asked]),
        "purchase": _purchase_metrics(found.purchase, wanted.bought[asked]),
        "baselines": _baselines(runtime, data, item, wanted, asked),
    }
    if exact:
        every = _ScoredRows(runtime.exactly(), data, wanted, asked)
        report["next_item"]["exact"] = _item_metrics(every.ranks)
        report["next_item"]["exact_known"] = _item_metrics(every.ranks[every.seen])
    return {part: _without_nan(values) for part, values in report.items()}


class _ScoredRows:
    """A model's answers on the rows asked, and the ranks of the items that came next."""

    def __init__(
        self, runtime: Runtime, data: Interactions, wanted: Targets, asked: npt.NDArray[np.bool_]
    ) -> None:
        event_type, purchase, ranks, seen = [], [], [], []
        # One item more than is counted, so that a tie with the first item outside the list is noticed too.
        for rows, result in playback.play(runtime, data, asked, K + 1):
            event_type.append(result.next_event)
            purchase.append(result.purchase)
            cases = wanted.item[rows] >= 0
            target = wanted.item[rows][cases]
            ranks.append(metrics.list_ranks(result.items[cases], result.scores[cases], target))
            seen.append(target < len(runtime.item_ids))
        self.event_type = np.concatenate(event_type) if event_type else np.zeros((0, 3), np.float32)
        self.purchase = np.concatenate(purchase) if purchase else np.zeros(0, np.float32)
        self.ranks = np.concatenate(ranks) if ranks else np.zeros(0, np.int64)
        self.seen = np.concatenate(seen) if seen else np.zeros(0, np.bool_)


def _item_metrics(ranks: npt.NDArray[np.int64]) -> dict[str, object]:
    found: dict[str, object] = {f"recall@{k}": metrics.recall_at(ranks, k) for k in _CUTS}
    return found | {f"mrr@{k}": metrics.mrr_at(ranks, k) for k in _CUTS[1:]}


def _event_type_metrics(
    probability: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]
) -> dict[str, object]:
    cases = truth >= 0
    truth, probability = truth[cases], probability[cases]
    found: dict[str, object] = {"cases": len(truth)}
    found |= metrics.classification(truth, probability.argmax(axis=1))
    own = probability[np.arange(len(truth)), truth]
    found["log_loss"] = float(-np.log(np.maximum(own, 1e-9)).mean()) if len(truth) else math.nan
    for number, name in enumerate(("click", "browse", "purchase")):
        found[f"roc_auc_{name}"] = metrics.roc_auc(truth == number, probability[:, number])
    return found


def _purchase_metrics(
    probability: npt.NDArray[np.float32], bought: npt.NDArray[np.int64]
) -> dict[str, object]:
    """Judge events whose horizon is over; precision, recall and F1 count probabilities above one half."""
    cases = bought >= 0
    truth, probability = bought[cases], probability[cases]
    said = probability > 0.5
    hits, true = int((said & (truth == 1)).sum()), int((truth == 1).sum())
    return {
        "cases": len(truth),
        "rate": float(truth.mean()) if len(truth) else math.nan,
        "roc_auc": metrics.roc_auc(truth, probability),
        "pr_auc": metrics.pr_auc(truth, probability),
        "accuracy": float((said == truth).mean()) if len(truth) else math.nan,
        "precision": hits / int(said.sum()) if said.any() else math.nan,
        "recall": hits / true if true else math.nan,
        "f1": 2 * hits / (int(said.sum()) + true) if true else math.nan,
        "calibration_error": metrics.calibration_error(truth, probability),
    }


def _baselines(
    runtime: Runtime,
    data: Interactions,
    item: npt.NDArray[np.int32],
    wanted: Targets,
    asked: npt.NDArray[np.bool_],
) -> dict[str, object]:
    known, tables = len(runtime.item_ids), runtime.content.tables
    cases = np.flatnonzero(asked & (wanted.item >= 0))
    target = wanted.item[cases]
    counted = np.where(tables.strength > 0, tables.followers, -1)  # without what the network added
    lists = {
        "popularity": baselines.popularity(len(cases), known, K),
        "markov": baselines.followers(item[cases], tables.successors, known, K),
        "sequential_rules": baselines.followers(item[cases], counted, known, K),
    }
    falling = np.broadcast_to(-np.arange(K, dtype=np.float32), (len(cases), K))
    found: dict[str, object] = {}
    for name, offered in lists.items():
        ranks = metrics.list_ranks(offered, falling, target)
        found[name] = _item_metrics(ranks) | {"known": _item_metrics(ranks[target < known])}
    judged = asked & (wanted.event_type >= 0)
    for name, guess in baselines.event_types(data, wanted).items():
        found[f"next_event_{name}"] = metrics.classification(wanted.event_type[judged], guess[judged])
    return found


def _without_nan(values: dict[str, object]) -> dict[str, object]:
    clean: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            clean[name] = _without_nan(value)
        else:
            clean[name] = None if isinstance(value, float) and math.isnan(value) else value
    return clean
