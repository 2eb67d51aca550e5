"""The results of a comparison, as rows of medians, a table for the terminal, Markdown and JSON.

A system whose counts are wrong is shown as wrong and without a rate, which could not be compared.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from rich.table import Table

from bench.peers.runner import Result

FLOOR = "floor"
#: In shorter runs, work done before or after the measured outputs has too much weight.
SHORT_S = 3.0
_COMPARED = ("events_s", "low_events_s", "high_events_s", "cpu_us", "cpu_us_whole", "cores", "broker_us")
_LONGEST = 120  # characters of a reason in a table; results.json has the whole text
_MISSING = "–"  # noqa: RUF001 - a dash, as tables have it


class Row(msgspec.Struct, frozen=True):
    """A system over all its runs: medians, peak memory, the worst verdict."""

    system: str
    label: str
    role: str
    runs: int
    events: int
    right: bool
    verdict: str  #: "right", or what is wrong
    remark: str
    events_s: float | None = None
    low_events_s: float | None = None
    high_events_s: float | None = None
    cpu_us: float | None = None
    cpu_us_whole: float | None = None
    cores: float | None = None
    broker_us: float | None = None
    other_cores: float | None = None
    rss_mb: float | None = None
    start_s: float | None = None
    span_s: float | None = None
    outputs: int | None = None


class CrashRow(msgspec.Struct, frozen=True):
    """One crash of a system."""

    system: str
    label: str
    events: int
    exact: bool
    counts: str  #: "exact", or what is wrong with them
    outputs_before: int | None = None
    repeated: int | None = None
    missing: int | None = None
    restart_s: float | None = None


def rows(results: Sequence[Result]) -> list[Row]:
    """Return a row per system: loops without state, then right systems, the fastest first, then wrong systems."""
    by_system: dict[str, list[Result]] = {}
    for result in results:
        by_system.setdefault(result.system, []).append(result)
    found = [_row(runs) for runs in by_system.values()]
    return sorted(found, key=lambda row: (not row.right, row.role != FLOOR, -(row.events_s or 0.0)))


def crash_rows(results: Sequence[Result]) -> list[CrashRow]:
    """Return a row per run, those with exact counts first."""
    found = [_crash_row(result) for result in results]
    return sorted(found, key=lambda row: not row.exact)


def _row(runs: list[Result]) -> Row:
    first = runs[0]
    bad = [text for text in map(_fault, runs) if text]
    verdict = (
        "right" if not bad else bad[0] if len(runs) == 1 else f"{len(bad)} of {len(runs)} runs: {bad[0]}"
    )
    row = Row(
        system=first.system,
        label=first.label,
        role=first.role,
        runs=len(runs),
        events=first.events,
        right=not bad,
        verdict=verdict,
        remark=first.remark,
    )
    measured = [result.figures for result in runs if result.figures]
    if not measured:
        return row
    rates = [figures.events_s for figures in measured]
    outputs = [result.verdict.outputs for result in runs if result.verdict]
    return msgspec.structs.replace(
        row,
        events_s=median(rates),
        low_events_s=min(rates),
        high_events_s=max(rates),
        cpu_us=median(figures.cpu_us for figures in measured),
        cpu_us_whole=median(figures.cpu_us_whole for figures in measured),
        cores=median(figures.cores for figures in measured),
        broker_us=median(figures.broker_us for figures in measured),
        other_cores=median(figures.other_cores for figures in measured),
        rss_mb=max(figures.rss_mb for figures in measured),
        start_s=median(figures.start_s for figures in measured),
        span_s=min(figures.span_s for figures in measured),
        outputs=round(median(outputs)),
    )


def _fault(result: Result) -> str:
    """Return a text that says what is wrong with a run; empty if nothing is."""
    if result.failure:
        return f"failed: {result.failure}"
    if result.verdict is None:
        return "failed: not judged"
    return "" if result.verdict.right else f"WRONG: {result.verdict.faults()}"


def _crash_row(result: Result) -> CrashRow:
    head: dict[str, Any] = {"system": result.system, "label": result.label, "events": result.events}
    verdict, crash = result.verdict, result.crash
    if result.failure or verdict is None or crash is None:
        why = result.failure or "it was never killed: fewer than half of the outputs arrived"
        return CrashRow(**head, exact=False, counts=f"failed: {why}")
    wrong = msgspec.structs.replace(verdict, missing=0, repeated=0).faults()
    return CrashRow(
        **head,
        exact=verdict.exact,
        counts=f"WRONG: {wrong}" if wrong else "exact",
        outputs_before=crash.outputs_before,
        repeated=verdict.repeated,
        missing=verdict.missing,
        restart_s=crash.restart_s,
    )


SPEED_COLUMNS = (
    "system", "events/s", "lowest to highest", "CPU us/event", "with start", "cores", "broker us", "others' cores",
    "peak MB", "first output s", "events", "runs", "result",
)  # fmt: skip
#: The columns that fit a terminal, with shorter names.
NARROW = {
    "system": "system",
    "events/s": "events/s",
    "CPU us/event": "CPU us",
    "cores": "cores",
    "peak MB": "MB",
    "first output s": "start s",
    "events": "events",
    "result": "result",
}
CRASH_COLUMNS = (
    "system", "counts after it", "outputs repeated", "unanswered", "outputs before", "restart to output s",
    "events",
)  # fmt: skip


NARROW_CRASH = {
    "system": "system",
    "counts after it": "counts",
    "outputs repeated": "repeated",
    "unanswered": "missing",
    "outputs before": "before",
    "restart to output s": "restart s",
    "events": "events",
}


def cells(row: Row) -> list[str]:
    """Return a row as text, in the order of SPEED_COLUMNS; a wrong system has no rate and no cost."""
    judged = row if row.right else msgspec.structs.replace(row, **dict.fromkeys(_COMPARED))
    result = _short(row.verdict)
    if row.right and row.outputs not in (None, row.events):
        result = f"right, {row.outputs:,} outputs"
    if row.right and row.span_s is not None and row.span_s < SHORT_S:
        result += f"; only {row.span_s:.1f} s long, give it more events"
    return [
        row.label,
        _number(judged.events_s),
        f"{_number(judged.low_events_s)} to {_number(judged.high_events_s)}" if row.right else _MISSING,
        _number(judged.cpu_us, 1),
        _number(judged.cpu_us_whole, 1),
        _number(judged.cores, 2),
        _number(judged.broker_us, 1),
        _number(row.other_cores, 2),
        _number(row.rss_mb),
        _number(row.start_s, 1),
        f"{row.events:,}",
        str(row.runs),
        result + (f"; {row.remark}" if row.remark else ""),
    ]


def crash_cells(row: CrashRow) -> list[str]:
    """Return a row as text."""
    return [
        row.label,
        _short(row.counts),
        _number(row.repeated),
        _number(row.missing),
        _number(row.outputs_before),
        _number(row.restart_s, 1),
        f"{row.events:,}",
    ]


def _number(value: float | None, digits: int = 0) -> str:
    return _MISSING if value is None else f"{value:,.{digits}f}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[:_LONGEST] + " ..."


def terminal_table(results: Sequence[Result], crash: bool) -> Table:
    """Return the table for the terminal: ours bold, loops dim, what is wrong red."""
    title = "One SIGKILL at half of the outputs" if crash else "From a backlog"
    columns, names = (CRASH_COLUMNS, NARROW_CRASH) if crash else (SPEED_COLUMNS, NARROW)
    table = Table(title=title, title_style="bold", padding=(0, 0))
    for name, short in names.items():
        words = name in ("system", "result", "counts after it")
        table.add_column(short, justify="left" if words else "right", no_wrap=not words)
    shown = [columns.index(name) for name in names]
    styled: list[tuple[list[str], str]]
    if crash:
        styled = [(crash_cells(row), "" if row.exact else "red") for row in crash_rows(results)]
    else:
        styled = [(cells(row), _style(row)) for row in rows(results)]
    for texts, style in styled:
        table.add_row(*(texts[place] for place in shown), style=style)
    return table


def _style(row: Row) -> str:
    if not row.right:
        return "red"
    return {"ours": "bold", FLOOR: "dim"}.get(row.role, "")


def markdown(results: Sequence[Result], crash: bool, about: Mapping[str, Any]) -> str:
    """Return the table and the conditions of the measurement."""
    columns = CRASH_COLUMNS if crash else SPEED_COLUMNS
    body = (
        [crash_cells(row) for row in crash_rows(results)] if crash else [cells(row) for row in rows(results)]
    )
    machine = about["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    speeds = [result.calibration_ms for result in results]
    lines = [
        f"{machine['date']}, {machine['cores']} cores of {machine['cpu']}, {machine['memory_gb']} GB; broker and "
        "worker on the same machine.",
        f"Versions: {versions}.",
        f"Calibration loop before each run: {min(speeds):.0f} to {max(speeds):.0f} ms." if speeds else "",
        "",
        _line(columns),
        _line(["---"] * len(columns)),
        *(_line(row) for row in body),
    ]
    return "\n".join(lines) + "\n"


def _line(texts: Sequence[str]) -> str:
    safe = (text.replace("|", "/").replace("\n", " ") for text in texts)
    return f"| {' | '.join(safe)} |"


def write(folder: Path, results: Sequence[Result], crash: bool, about: Mapping[str, Any]) -> None:
    """Write results.json (every run and the rows) and table.md."""
    table: list[Any] = list(crash_rows(results)) if crash else list(rows(results))
    content = {**about, "crash": crash, "rows": table, "runs": list(results)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(content)))
    (folder / "table.md").write_text(markdown(results, crash, about))
