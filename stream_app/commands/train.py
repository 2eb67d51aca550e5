"""`foreclick train`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from stream_app.commands import quality
from stream_app.commands.learning import (
    Interrupted,
    Stopper,
    bar,
    begin,
    reader,
    said_when_interrupted,
    tabulated,
)
from stream_app.contract import times
from stream_app.recordings.recording import RecordingReader
from stream_app.settings import HORIZON_MS, Settings, fields
from stream_app.settings.command_options import with_settings

if TYPE_CHECKING:
    from model.training.api import Part, Provenance

#: Settings that the features depend on.
FEATURES = ("lateness_ms", "max_future_ms", "user_ttl_ms")
_TRAIN = tuple(each.name for each in fields() if each.path[0] == "train" and each.name != "train_refit")
_NOTHING = "stopped, nothing was written"


@with_settings("horizon_ms", "device", *FEATURES, *_TRAIN)
def train(
    recording: Annotated[Path, typer.Argument(help="A recording (*.stream).")],
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    *,
    settings: Settings,
    name: Annotated[
        str, typer.Option(help="Name of the model; its version is a hash of its content.")
    ] = "gru",
    until: Annotated[
        str | None,
        typer.Option(
            help="Learn only from events before this time: Unix ms, an ISO time, or 7d, 12h before the end of the "
            "recording."
        ),
    ] = None,
    refit: Annotated[
        bool | None,
        typer.Option(
            "--refit/--no-refit",
            help="After validation, train again on all events. \\[FORECLICK_TRAIN_REFIT, default: refit]",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(
            min=1, max=256, help="Number of torch threads; another number gives a slightly different model."
        ),
    ] = 1,
    sign_key: Annotated[
        Path | None, typer.Option(help="Sign the model with this Ed25519 private key (PEM).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Train a model on a recording: clean, featurise, train, calibrate, validate, export.

    The latest part of the events is held out to choose the number of epochs, to calibrate and for the table at the
    end; then the model is trained again on all events. Ctrl-C and SIGTERM keep the best model so far.
    """
    from model.serving.api import choose_device
    from model.training.api import Stopped, check_target, export_or_keep, provenance_of
    from model.training.api import threads as on_threads
    from model.training.api import train as fit

    # Checked now and not after hours of training.
    check_target(out, sign_key)
    RecordingReader(recording)
    if until is not None:
        times.check(until, "--until")
    device = choose_device(settings.device)
    chosen = msgspec.structs.replace(settings.train, horizon_ms=settings.horizon_ms or HORIZON_MS)
    if refit is not None:
        chosen = msgspec.structs.replace(chosen, refit=refit)
    stopper = Stopper()
    with said_when_interrupted(_NOTHING), on_threads(threads):
        with bar(as_json) as shown:
            table = tabulated(recording, settings, shown)
            if until is not None:
                table = table.until(times.moment(until, int(table.events.ts.max()), "--until"))
            task = begin(shown, "training", 1.0)
            report = reader(shown, task, stopper, chosen.refit)
            with stopper.listening():
                try:
                    trained = fit(
                        table.events,
                        chosen,
                        report,
                        device=device,
                        stop=stopper,
                        skipped=table.skipped,
                        late=int(table.late.sum()),
                    )
                except Stopped:
                    raise Interrupted(stopper.code) from None
        label = export_or_keep(trained, out, name, sign_key)
    made = provenance_of(trained.content.metrics)
    assert made is not None
    validation: Any = trained.content.metrics["validation"]
    warnings = [*quality.warnings(validation)]
    if (far := times.far_off(table.events.ts)) is not None:
        warnings.append(far)
    if as_json:
        result = {
            "model": label,
            "folder": str(out),
            "events": made.given.events,
            **msgspec.to_builtins(made),
            "validation": validation,
            "warnings": warnings,
        }
        typer.echo(msgspec.json.encode(result).decode())
    else:
        _print(label, out, made, validation, chosen.horizon_ms, warnings)
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    if trained.stopped:
        typer.echo(f"foreclick: stopped early, the best model so far was written to {out}", err=True)
        raise typer.Exit(stopper.code)


def _print(
    label: str, out: Path, made: "Provenance", validation: Any, horizon_ms: int, warnings: list[str]
) -> None:
    console = Console(markup=False, highlight=False)
    for line in _summary(label, made):
        console.print(line, soft_wrap=True)
    console.print(quality.table(validation, held_out_title(label, made), horizon_ms))
    console.print(quality.cases(validation), soft_wrap=True)
    console.print(f"written to {out}", soft_wrap=True)
    console.print("next, with later events:", soft_wrap=True)
    console.print("  foreclick record later.stream", soft_wrap=True)
    console.print(f"  foreclick evaluate {out} later.stream", soft_wrap=True)
    console.print(f"  foreclick worker --model {out}", soft_wrap=True)


def _summary(label: str, made: "Provenance") -> Iterator[str]:
    plural = "epoch" if made.epochs == 1 else "epochs"
    yield f"{label}: trained on {made.learned.events:,} events in {made.epochs} {plural}"
    yield f"  learned   {_part(made.learned)}"
    yield f"  held out  {_part(made.held_out)}" + (" (then learned too)" if made.refit else "")
    yield f"  names     {made.items:,} items, {made.categories:,} categories"
    yield f"  types     {', '.join(f'{name} {count:,}' for name, count in made.types.items())}"
    if made.late:
        yield f"  late      {made.late:,} events, used in training but not counted in their windows"
    if made.skipped:
        yield f"  skipped   {', '.join(f'{reason} {count:,}' for reason, count in made.skipped.items())}"


def _part(part: "Part") -> str:
    return f"{part.events:,} events of {part.users:,} users, {times.span(part.first_ms, part.last_ms)}"


def held_out_title(label: str, made: "Provenance") -> str:
    """The heading of the table that training stored."""
    before = ", before it learned them" if made.refit else ""
    return f"{label} on the held-out events{before}"
