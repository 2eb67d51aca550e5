"""The summary of the demo: results next to their targets, and what to look at next."""

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stream_app.lab.demo.live import Live, check_sent
from stream_app.lab.demo.plan import Data, Plan
from stream_app.lab.demo.verdict import Verdict, milliseconds, percent

if TYPE_CHECKING:  # torch takes seconds to load
    from stream_app.lab.demo.training import Learned

#: p99 from broker append to readable prediction, at a steady rate of up to 2,000 events/s.
P99_MS = 150


def quality(learned: "Learned") -> Table:
    """Return a table of the model's quality on held-out events, next to simple baselines."""
    report = learned.report
    table = Table(title=f"{learned.label} on the latest tenth of the history, which it has not seen")
    table.add_column("")
    for name in ("recall@20", "MRR@20"):
        table.add_column(name, justify="right")
    rows = {
        "next item, this model": report["next_item"],
        "next item, Markov": report["baselines"]["markov"],
        "next item, popularity": report["baselines"]["popularity"],
    }
    for title, values in rows.items():
        style = "bold green" if values is report["next_item"] else ""
        table.add_row(title, _three(values["recall@20"]), _three(values["mrr@20"]), style=style)
    table.add_section()
    event, purchase = report["next_event"], report["purchase"]
    table.add_row("next event", f"accuracy {_three(event['accuracy'])}", f"F1 {_three(event['f1'])}")
    table.add_row(
        "purchase in time", f"ROC AUC {_three(purchase['roc_auc'])}", f"PR AUC {_three(purchase['pr_auc'])}"
    )
    return table


def result(live: Live, judged: Verdict) -> Table:
    """Return a table of the live results, with the target next to each."""
    watch, exact = live.watch, judged.exact
    stats = check_sent(live)
    latency = watch.answers.latency()
    table = Table(title="Live traffic")
    for name, side in (("", "left"), ("measured", "right"), ("wanted", "right"), ("", "center")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]

    def row(what: str, measured: str, wanted: str, good: bool | None = None) -> None:
        table.add_row(what, measured, wanted, {True: "[green]✓[/]", False: "[red]✗[/]", None: ""}[good])

    rate = stats.records / max(stats.seconds, 1e-9)
    row("records per second", f"{rate:,.0f}", f"{live.plan.rate:,}", rate > 0.95 * live.plan.rate)
    row("append to prediction, p50", milliseconds(latency.p50), "")
    row("append to prediction, p99", milliseconds(latency.p99), f"< {P99_MS} ms", latency.p99 < P99_MS)
    table.add_section()
    row(
        "good events with a prediction",
        f"{exact.answered:,}",
        f"{exact.good:,}",
        exact.answered == exact.good,
    )
    row("predictions repeated or unexpected", f"{exact.repeated + exact.unasked:,}", "0", exact.exact)
    for reason, (planted, found) in judged.dead.items():
        row(f"dead letters, {reason}", f"{found:,}", f"{planted:,}", planted == found)
    row(
        "duplicates dropped",
        f"{judged.duplicates[1]:,}",
        f"{judged.duplicates[0]:,}",
        _same(judged.duplicates),
    )
    row("late events, not counted in windows", f"{judged.late[1]:,}", f"of {judged.late[0]:,}")
    table.add_section()
    items = watch.items
    row("next item is one of the ten predicted", percent(items.rate), "", items.rate > items.popular_rate)
    row("next item is one of the ten most popular", percent(items.popular_rate), "")
    if not watch.truth.labelled:
        row("flags", f"{watch.flagged:,}", "not judged")
    for kind, users in judged.flags.items() if watch.truth.labelled else ():
        row(f"{kind} users found", f"{users.found}", f"of {users.planted}")
        row(f"of users flagged like {kind}, truly {kind}", percent(users.precision), f"of {users.flagged}")
    return table


def where_next(console: Console, plan: Plan, live: Live, bootstrap: str, *, kept: bool) -> None:
    """Print the folders of the demo and commands to continue with."""
    user = live.watch.last_predictions[-1].user_id if live.watch.last_predictions else "u1"
    lines: list[tuple[str, Any]] = [
        ("model", plan.model),
        ("recordings", f"{plan.history}, {plan.live_recording}"),
        ("worker's log", plan.worker_log),
        ("judge the model", f"foreclick evaluate {plan.model} {plan.live_recording}"),
        (
            "without Kafka",
            f"foreclick run {plan.live_recording} --model {plan.model} --out {plan.folder}/out",
        ),
    ]
    if live.watch.truth.labelled:
        lines.insert(2, ("planted", plan.live_recording.with_suffix(".labels.jsonl")))
    if kept:
        lines += [
            ("look a user up", f"curl http://{live.worker.web}/users/{user}/"),
            ("metrics", f"curl http://{live.worker.web}/metrics"),
            ("follow flags", f"foreclick tail flags --brokers {bootstrap}"),
            ("stop it all", f"foreclick demo --stop{plan.data_dir_option}"),
        ]
    else:
        data = "" if plan.data is Data.GENERATED else f" --data {plan.data}"
        lines.append(("keep it running", f"foreclick demo --keep{data}{plan.data_dir_option}"))
    console.print("\n[bold]Where to look next[/]")
    for name, what in lines:
        # Without line breaks, so that the whole command can be copied.
        console.print(f"  [dim]{name:<16}[/] {escape(str(what))}", highlight=False, soft_wrap=True)


def _same(pair: tuple[int, int]) -> bool:
    return pair[0] == pair[1]


def _three(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"
