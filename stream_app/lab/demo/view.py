"""The live view: a screen of 24 lines drawn twice per second, or a line every few seconds without a terminal."""

import time
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stream_app.commands.printable import duration
from stream_app.contract.outputs import Flag, Prediction
from stream_app.lab.demo.live import Live
from stream_app.lab.demo.verdict import milliseconds, percent, verdict

#: The latencies shown are those of the last so many seconds.
_WINDOW_MS = 10_000
_LINE_EVERY_S = 5.0


class View:
    """Draws the live part; as a context manager, it restores the terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._screen = Screen(console=console, auto_refresh=False, transient=True)
        self._next_line = 0.0

    def __enter__(self) -> "View":
        if self._console.is_terminal:
            self._screen.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._screen.stop()

    def refresh(self, live: Live) -> None:
        """Draw the current figures."""
        if self._console.is_terminal:
            self._screen.update(draw(live), refresh=True)
        elif live.seconds >= self._next_line:
            self._next_line = live.seconds + _LINE_EVERY_S
            self._console.print(line(live), highlight=False, soft_wrap=True)


def line(live: Live) -> str:
    """The figures in one line."""
    watch = live.watch
    events, predictions = watch.mark()
    latency = watch.answers.latency(_now_ms() - _WINDOW_MS)
    return (
        f"    {live.seconds:4.0f} s  {events:,.0f} events/s  {predictions:,.0f} predictions/s  "
        f"p50 {milliseconds(latency.p50)}  p99 {milliseconds(latency.p99)}  lag {watch.lag:,}  "
        f"next item {percent(watch.items.rate)} (popular {percent(watch.items.popular_rate)})  "
        f"flags {watch.flagged:,}  dead letters {sum(watch.dead.values()):,}"
    )


def draw(live: Live) -> RenderableType:
    """The whole screen."""
    plan = live.plan
    head = Table.grid(expand=True, padding=(0, 1))
    head.add_column(ratio=1)
    head.add_column(justify="right")
    head.add_row(
        ProgressBar(total=plan.live, completed=live.sent),
        f"{live.sent:,} of {plan.live:,} records  {live.seconds:3.0f} s",
    )
    boxes = Table.grid(expand=True, padding=0)
    boxes.add_column(ratio=1)
    boxes.add_column(ratio=1)
    boxes.add_row(_speed(live), _quality(live))
    boxes.add_row(_flags(live), _trouble(live))
    return Group(head, boxes, _recent(live))


def _panel(title: str, *rows: tuple[str, ...], widths: int = 2) -> Panel:
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(no_wrap=True)
    for _ in range(widths - 1):
        table.add_column(justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return Panel(table, title=title, title_align="left", border_style="blue", padding=(0, 1))


def _speed(live: Live) -> Panel:
    watch = live.watch
    events, predictions = watch.mark()
    latency = watch.answers.latency(_now_ms() - _WINDOW_MS)
    return _panel(
        "Speed",
        ("events/s", f"[bold]{events:,.0f}[/]"),
        ("predictions/s", f"[bold]{predictions:,.0f}[/]"),
        ("append to prediction, p50", f"[bold green]{milliseconds(latency.p50)}[/]"),
        ("append to prediction, p99", f"[bold green]{milliseconds(latency.p99)}[/]"),
        ("lag, records", f"{watch.lag:,}"),
    )


def _quality(live: Live) -> Panel:
    items = live.watch.items
    times = f"{items.hits / items.popular_hits:.1f} times" if items.popular_hits else "-"
    return _panel(
        "Next item among the ten predicted",
        ("this model", f"[bold green]{percent(items.rate)}[/]"),
        ("the ten most popular", percent(items.popular_rate)),
        ("better by", times),
        ("cases", f"{items.cases:,}"),
        ("users seen", f"{int(live.watch.worker.get('resident_users', 0)):,}"),
    )


def _flags(live: Live) -> Panel:
    if not live.watch.truth.labelled:
        return _panel(
            "Flags",
            ("flags in all", f"{live.watch.flagged:,}"),
            ("[dim]nothing is planted in these data,[/]", ""),
            ("[dim]so nobody knows which flags are right[/]", ""),
            ("", ""),
        )
    found = verdict(live.watch).flags
    rows: list[tuple[str, ...]] = [("[dim]users[/]", "[dim]planted[/]", "[dim]found[/]", "[dim]precision[/]")]
    for kind, each in found.items():
        rows.append((kind, f"{each.planted}", f"{each.found}", percent(each.precision)))
    rows.append(("flags in all", "", f"{live.watch.flagged:,}", ""))
    return _panel("Flags against what was planted", *rows, widths=4)


def _trouble(live: Live) -> Panel:
    judged = verdict(live.watch)
    rows: list[tuple[str, ...]] = [("[dim]records[/]", "[dim]sent[/]", "[dim]found[/]")]
    rows.append(("malformed: dead letters", *(f"{n:,}" for n in judged.malformed)))
    rows.append(("duplicates: dropped", *(f"{n:,}" for n in judged.duplicates)))
    rows.append(("late: not counted in windows", "", f"{judged.late[1]:,}"))
    return _panel("Invalid records, sent and found so far", *rows, widths=3)


def _recent(live: Live) -> Panel:
    watch = live.watch
    lines = [prediction_line(each) for each in list(watch.last_predictions)[-4:]]
    lines += [flag_line(each) for each in list(watch.last_flags)[-2:]]
    lines += [Text() for _ in range(6 - len(lines))]
    return Panel(
        Group(*lines), title="Latest answers", title_align="left", border_style="blue", padding=(0, 1)
    )


def prediction_line(each: Prediction) -> Text:
    """One prediction in one line."""
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{_clock(each.ts)} ", style="dim")
    text.append(f"{each.user_id:<6}", style="cyan")
    if each.purchase_probability is not None:
        within = f" in {duration(each.horizon_ms)}" if each.horizon_ms else ""
        text.append(f" buys{within} {each.purchase_probability:4.0%}")
    text.append("  next ", style="dim")
    text.append(", ".join(f"{i.item_id} {i.score:.2f}" for i in each.items[:5]))
    return text


def flag_line(each: Flag) -> Text:
    """One flag with its reasons, in one line."""
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{_clock(each.ts)} ", style="dim")
    text.append(f"{each.user_id:<6}", style="cyan")
    text.append(f" {each.kind}", style="bold red" if each.kind == "fraud" else "bold yellow")
    text.append(f" {each.score:.3f} ")
    text.append(
        "; ".join(f"{r.code} {r.value:.4g} (limit {r.limit or r.expected:.4g})" for r in each.reasons)
    )
    return text


def _clock(ts: int) -> str:
    return datetime.fromtimestamp(ts / 1000).strftime("%H:%M:%S")


def _now_ms() -> int:
    return int(time.time() * 1000)


__all__ = ["View", "draw", "flag_line", "line", "prediction_line"]
