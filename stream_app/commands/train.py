"""`foreclick train` and `foreclick evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from model.folder import ModelError
from stream_app.commands.options import with_settings
from stream_app.settings import Settings

_FEATURES = ("lateness_ms", "max_future_ms", "user_ttl_ms")


@with_settings("horizon_ms", *_FEATURES)
def train(
    recording: Annotated[Path, typer.Argument(help="A recording (*.stream).")],
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    *,
    settings: Settings,
    name: Annotated[
        str, typer.Option(help="Name of the model; its version is made from its content.")
    ] = "gru",
    hidden: Annotated[int, typer.Option(min=8, help="Width of the hidden state.")] = 128,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs at most; validation stops earlier.")] = 12,
    seed: Annotated[int, typer.Option(help="The same data and seed give the same model.")] = 0,
    refit: Annotated[bool, typer.Option(help="After validation, train once more on all events.")] = False,
    sign_key: Annotated[
        Path | None, typer.Option(help="Sign the model with this Ed25519 private key (PEM).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    """Train a model on a recording: clean, featurise, train, calibrate, export.

    The latest part of the events is kept for early stopping and calibration.
    """
    from model.export import export
    from model.settings import TrainSettings
    from model.signing import private_key
    from model.train import Progress as Trained
    from model.train import train as fit

    if sign_key is not None:
        private_key(sign_key)  # hours before it is needed
    console = Console(stderr=True)
    with _bar(console, as_json) as bar:
        table = _table(recording, settings, bar)
        task = bar.add_task("training", total=float(epochs))
        best = ""

        def report(at: Trained) -> None:
            nonlocal best
            if at.mrr is not None:
                best = f", MRR@20 {at.mrr:.3f} on later events"
            done = at.epoch - 1 + at.share
            bar.update(task, completed=done, description=f"epoch {at.epoch}, loss {at.loss:.3f}{best}")

        chosen = TrainSettings(
            hidden=hidden, epochs=epochs, seed=seed, refit=refit, horizon_ms=settings.horizon_ms
        )
        try:
            trained = fit(table, chosen, report)
        except ValueError as error:
            raise ModelError(str(error)) from error
        label = export(trained, out, name, sign_key)
    if as_json:
        typer.echo(msgspec.json.encode({"model": label, "folder": str(out), "events": len(table)}).decode())
    else:
        Console().print(f"{label}: trained on {len(table):,} events, written to {out}")


@with_settings("device", "model_key", *_FEATURES)
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model folder.")],
    recording: Annotated[Path, typer.Argument(help="A recording that the model was not trained on.")],
    *,
    settings: Settings,
    since: Annotated[
        int | None, typer.Option(help="Judge events from this time on (Unix ms); earlier ones are history.")
    ] = None,
    exact: Annotated[bool, typer.Option(help="Rank all items as well: slow with a large catalogue.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The metrics as one JSON object.")] = False,
) -> None:
    """Measure a model on a recording, beside popularity, Markov and sequential rules."""
    from model.evaluate import evaluate as judge
    from model.runtime import Runtime

    runtime = Runtime.load(model, settings.device, model_key=settings.model_key)
    with _bar(Console(stderr=True), as_json) as bar:
        table = _table(recording, settings, bar)
        bar.add_task("evaluating", total=None)
        report = judge(runtime, table, since, exact)
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        Console().print(show(report, runtime.label))


def show(report: dict[str, dict[str, Any]], label: str) -> Table:
    """The metrics as a table: the model's next items beside the baselines', then its other answers."""
    table = Table(title=f"{label} on events it has not seen")
    table.add_column("what")
    for name in ("recall@20", "mrr@20", "recall@10", "mrr@10"):
        table.add_column(name, justify="right")
    rows = {"next item, GRU": report["next_item"]}
    if "exact" in report["next_item"]:
        rows["next item, GRU over all items"] = report["next_item"]["exact"]
    rows |= {
        f"next item, {name.replace('_', ' ')}": values
        for name, values in report["baselines"].items()
        if not name.startswith("next_event")
    }
    for name, values in rows.items():
        table.add_row(name, *(_number(values.get(m)) for m in ("recall@20", "mrr@20", "recall@10", "mrr@10")))
    table.add_section()
    event, purchase = report["next_event"], report["purchase"]
    table.add_row("next event", *_named(event, "accuracy", "precision", "recall", "f1"))
    table.add_row("purchase in time", *_named(purchase, "roc_auc", "pr_auc", "f1", "rate"))
    return table


def _named(values: dict[str, Any], *names: str) -> list[str]:
    return [f"{name} {_number(values.get(name))}" for name in names]


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"


def _bar(console: Console, quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console, disable=quiet
    )


def _table(recording: Path, settings: Settings, bar: Progress) -> Any:
    from stream_app.agents.offline import interactions

    task = bar.add_task("reading", total=None)
    return interactions(recording, settings, lambda n, of: bar.update(task, completed=n, total=of))
