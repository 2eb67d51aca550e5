"""The metrics of a model as a table with baselines, and warnings about them."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from stream_app.commands.learning import duration

MetricsReport = Mapping[str, Mapping[str, Any]]

#: With fewer cases, metrics are mostly chance.
FEW_CASES = 200
#: A larger share of unknown items among the next ones is the first thing to know about a model.
MANY_UNKNOWN = 0.3
_ITEMS = {"Recall@20": "recall@20", "MRR@20": "mrr@20", "Recall@10": "recall@10", "MRR@10": "mrr@10"}
_EVENT = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "F1": "f1"}
_PURCHASE = {"ROC AUC": "roc_auc", "PR AUC": "pr_auc", "F1": "f1", "rate": "rate"}
_LISTS = {"sequential_rules": "sequential rules", "markov": "Markov", "popularity": "popularity"}
_KINDS = {"next_event_majority": "always the commonest", "next_event_repeat": "the same again"}


def table(report: MetricsReport, title: str, horizon_ms: int) -> Table:
    """Return a table of the metrics and the baselines, at most 80 columns wide."""
    found = Table(title=title, title_justify="left", title_style="bold")
    baselines = report["baselines"]
    found.add_column("next item")
    for name in _ITEMS:
        found.add_column(name, justify="right", width=9)
    found.add_row("this model", *_numbers(report["next_item"], _ITEMS))
    if "exact" in report["next_item"]:
        found.add_row("this model, all items", *_numbers(report["next_item"]["exact"], _ITEMS))
    for name, shown in _LISTS.items():
        found.add_row(shown, *_numbers(baselines[name], _ITEMS))
    found.add_section()
    found.add_row("next event", *_EVENT, style="bold")
    found.add_row("this model", *_numbers(report["next_event"], _EVENT))
    for name, shown in _KINDS.items():
        found.add_row(shown, *_numbers(baselines[name], _EVENT))
    found.add_section()
    found.add_row(f"purchase in {duration(horizon_ms / 1000)}", *_PURCHASE, style="bold")
    found.add_row("this model", *_numbers(report["purchase"], _PURCHASE))
    return found


def cases(report: MetricsReport) -> str:
    """How much was judged: "3,948 next items of 2,110 users, 70 % of them items that the model does not know"."""
    items = report["next_item"]
    count, unseen = items["cases"], items["unseen"]
    if not count:
        return f"0 next items; {report['next_event']['cases']:,} next events"
    return (
        f"{count:,} next items of {items['users']:,} users; {100 * unseen / count:.0f} % of these items the model "
        "does not know (counted as misses)"
    )


def warnings(report: MetricsReport) -> Iterator[str]:
    """Yield warnings for people who are about to serve this model, one sentence each."""
    items, baselines = report["next_item"], report["baselines"]
    if items["cases"] < FEW_CASES:
        yield f"{items['cases']:,} next items are too few: these figures may be chance."
    if items["cases"] and items["unseen"] > MANY_UNKNOWN * items["cases"]:
        yield (
            f"{100 * items['unseen'] / items['cases']:.0f} % of the next items are unknown to the model: "
            "train on a longer period, or more often."
        )
    better = [shown for name, shown in _LISTS.items() if _above(baselines[name]["mrr@20"], items["mrr@20"])]
    if better:
        yield (
            f"The model's next items are worse than {' and '.join(better)} (MRR@20): do not serve it; record more "
            "traffic, or look at the share of unknown items."
        )
    event = report["next_event"]
    worse = [
        shown
        for name, shown in _KINDS.items()
        if _above(baselines[name]["accuracy"], event["accuracy"])
        and _above(baselines[name]["f1"], event["f1"])
    ]
    if worse:
        yield f'The model\'s next event is worse than "{worse[0]}".'
    if not report["purchase"]["cases"]:
        yield "The probability of a purchase could not be evaluated: these events cover less time than its horizon."
    auc = report["purchase"]["roc_auc"]
    if auc is not None and auc < 0.5:
        yield f"The probability of a purchase is worse than a random guess (ROC AUC {auc:.3f})."


def _above(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and one > other


def _numbers(values: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    return ["-" if (value := values.get(key)) is None else f"{value:.3f}" for key in names.values()]
