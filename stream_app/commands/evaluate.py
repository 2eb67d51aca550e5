"""`foreclick evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from stream_app.commands import quality
from stream_app.commands.learning import bar, begin, said_when_interrupted, tabulated
from stream_app.commands.train import FEATURES, held_out_title
from stream_app.contract import times
from stream_app.errors import ForeclickError
from stream_app.recordings.recording import RecordingReader
from stream_app.settings import Settings
from stream_app.settings.command_options import with_settings

if TYPE_CHECKING:
    from model.serving.api import Runtime
    from model.training.api import Interactions, Provenance


class EvaluateError(ForeclickError):
    """The recording has no events to evaluate a model on."""


@with_settings("device", "model_key", *FEATURES)
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model folder.")],
    recording: Annotated[
        Path, typer.Argument(help="A recording with events that the model did not learn from.")
    ],
    *,
    settings: Settings,
    since: Annotated[
        str | None,
        typer.Option(
            help="Judge only events from this time on; earlier events are history. Unix ms, an ISO time, or 7d or "
            "12h before the end of the recording. Default: events after those that the model was trained on."
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option(help="Also rank all items, which is slow with a large catalogue.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Number of torch threads.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as one JSON object.")] = False,
) -> None:
    """Measure a model on a recording, beside popularity, Markov and sequential rules.

    Judged are the events after the time that the model learned from. Where the recording has none, the table that
    training stored is shown, of the events that were held out then.
    """
    from model.serving.api import Runtime
    from model.training.api import evaluate as judge
    from model.training.api import provenance_of
    from model.training.api import threads as on_threads

    if since is not None:
        times.check(since, "--since")
    RecordingReader(recording)  # reports a bad file before the progress bar appears
    runtime = Runtime.load(model, settings.device, model_key=settings.model_key)
    made = provenance_of(runtime.content.metrics)
    with said_when_interrupted("stopped"), on_threads(threads), bar(as_json) as shown:
        events = tabulated(recording, settings, shown).events
        start = _start(since, events, made)
        count = int((events.ts >= start).sum())
        if since is not None and not count:
            raise EvaluateError(
                f"{recording} has no event from {times.shown(start)} on: it ends at "
                f"{times.shown(int(events.ts.max()))}, give an earlier --since"
            )
        report: dict[str, dict[str, Any]] | None = None
        if count:
            begin(shown, "evaluating")
            report = judge(runtime, events, start, exact)
            if not report["next_event"]["cases"]:
                report = None
    if report is None and (since is not None or made is None):
        raise EvaluateError(
            f"none of the {count:,} events of {recording} from {times.shown(start)} on is followed by another "
            "event of its user, so there is nothing to evaluate: give an earlier --since, or a longer recording"
        )
    if report is not None:
        _show(runtime, report, _seen(events, start, made), since is None, as_json)
    elif made is not None:
        _show_stored(runtime, made, recording, as_json)


def _start(since: str | None, events: "Interactions", made: "Provenance | None") -> int:
    """Return the time from which events are evaluated."""
    if since is not None:
        return times.moment(since, int(events.ts.max()), "--since")
    return made.learned_until_ms if made is not None else int(events.ts.min())


def _seen(events: "Interactions", start: int, made: "Provenance | None") -> dict[str, Any] | None:
    """How many of the judged events are of the time that the model learned from, or chose its epoch on."""
    if made is None:
        return None
    ts = events.ts[events.ts >= start]
    first = made.given.first_ms or 0
    learned = int(((ts >= first) & (ts < made.learned_until_ms)).sum())
    held_out = int(((ts >= made.learned_until_ms) & (ts < made.made_until_ms)).sum())
    return {"events": learned, "share": learned / len(ts), "held_out": held_out}


def _warnings(report: quality.MetricsReport, seen: dict[str, Any] | None) -> list[str]:
    events = report["judged"]["events"]
    found = []
    if seen is None:
        found.append(
            "This model is from an earlier release and does not say what it was trained on. If these events are "
            "among its training data, the figures are too good. Set --since to the end of its training data."
        )
    elif seen["events"]:
        found.append(
            f"{_percent(seen['share'])} of these events ({seen['events']:,} of {events:,}) were training data: the "
            "figures are too good. Omit --since to evaluate on later events only."
        )
    elif seen["held_out"]:
        found.append(
            f"{seen['held_out']:,} of these {events:,} events were held out in training, where they chose the epoch "
            "and the calibration: later events are a little harder."
        )
    return [*found, *quality.warnings(report)]


def _percent(share: float) -> str:
    """Return a share as text; "0 %" and "100 %" only if they are exact."""
    return (
        "less than 1 %" if share < 0.01 else f"{min(share, 0.99) if share < 1 else 1:.0%}".replace("%", " %")
    )


def _title(label: str, seen: dict[str, Any] | None) -> str:
    if seen is None:
        return f"{label}, perhaps on events it was trained on"
    if seen["events"]:
        return f"{label}, {_percent(seen['share'])} of the events TRAINED ON"
    if seen["held_out"]:
        return f"{label} on events held out in its training"
    return f"{label} on events it has not seen"


def _show(
    runtime: "Runtime",
    report: dict[str, dict[str, Any]],
    seen: dict[str, Any] | None,
    by_default: bool,
    as_json: bool,
) -> None:
    warnings = _warnings(report, seen)
    if as_json:
        _echo(runtime, report, "recording", seen, warnings)
        return
    console = Console(markup=False, highlight=False)
    judged = report["judged"]
    after = ", after what the model learned" if by_default and seen is not None else ""
    console.print(
        f"judged: {judged['events']:,} events of {judged['users']:,} users, "
        f"{times.span(judged['first_ms'], judged['last_ms'])}{after}",
        soft_wrap=True,
    )
    console.print(quality.table(report, _title(runtime.label, seen), runtime.horizon_ms))
    console.print(quality.cases(report), soft_wrap=True)
    _warn(warnings)


def _show_stored(runtime: "Runtime", made: "Provenance", recording: Path, as_json: bool) -> None:
    """The table that training stored, and how to get later events."""
    metrics: dict[str, Any] = runtime.content.metrics
    report = metrics["validation"]
    before = ", of the model before it was trained again on all events" if made.refit else ""
    nothing = (
        f"{recording} has no event to judge after the time that the model learned from (up to "
        f"{times.shown(made.learned_until_ms - 1)}). This is the table that training stored, of the "
        f"{made.held_out.events:,} events held out then ({times.span(made.held_out.first_ms, made.held_out.last_ms)})"
        f"{before}. They chose the epoch and the calibration: later events are a little harder. For figures on "
        "those, record them (`foreclick record later.stream`) and evaluate again, or train with --until."
    )
    warnings = [*quality.warnings(report)]
    if as_json:
        _echo(runtime, report, "training", None, [nothing, *warnings])
        return
    console = Console(markup=False, highlight=False)
    console.print(nothing, soft_wrap=True)
    console.print(quality.table(report, held_out_title(runtime.label, made), runtime.horizon_ms))
    console.print(quality.cases(report), soft_wrap=True)
    _warn(warnings)


def _echo(
    runtime: "Runtime", report: Any, source: str, seen: dict[str, Any] | None, warnings: list[str]
) -> None:
    """The report as JSON: `source` is "recording", or "training" for the stored table."""
    whole = {"model": runtime.label, "source": source, "trained_on": seen, **report, "warnings": warnings}
    typer.echo(msgspec.json.encode(whole).decode())
    _warn(warnings)


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
