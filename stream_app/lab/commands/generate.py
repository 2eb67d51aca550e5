"""`foreclick generate`: a recording of synthetic traffic, from a seed."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from stream_app.commands.output import Force, Json, Out, progress_bar, show, whole_or_nothing
from stream_app.lab.generator import GeneratorSettings, write
from stream_app.lab.generator.settings import GeneratorError
from stream_app.lab.generator.stream import labels_beside
from stream_app.recordings.errors import RecordingError
from stream_app.recordings.output_paths import check_inputs, check_recording

_DEFAULTS = GeneratorSettings()


def _share(what: str) -> Any:
    return typer.Option(min=0.0, max=1.0, help=what, rich_help_panel="Trouble")


def generate(
    *,
    out: Out,
    events: Annotated[int, typer.Option(min=1, help="Total number of records.")] = _DEFAULTS.events,
    users: Annotated[int, typer.Option(min=1)] = _DEFAULTS.users,
    items: Annotated[int, typer.Option(min=1)] = _DEFAULTS.items,
    categories: Annotated[
        int | None, typer.Option(min=1, show_default=f"{_DEFAULTS.categories}, or as many as there are items")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = _DEFAULTS.seed,
    partitions: Annotated[
        int, typer.Option(min=1, help="Number of partitions per topic.")
    ] = _DEFAULTS.partitions,
    start: Annotated[str, typer.Option(help='First visit: an ISO time, or "now".')] = "2026-01-01T00:00:00Z",
    span_s: Annotated[
        float | None,
        typer.Option(
            "--span", help="Seconds of shop time that the events cover.", show_default="by the users"
        ),
    ] = None,
    time_compression: Annotated[
        float, typer.Option(help="Seconds of shop time per second of event time.")
    ] = _DEFAULTS.time_compression,
    msgpack_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the values in msgpack.")
    ] = _DEFAULTS.msgpack_share,
    bot_share: Annotated[float, _share("Events by bots.")] = _DEFAULTS.bot_share,
    fraud_share: Annotated[float, _share("Purchases with stolen accounts.")] = _DEFAULTS.fraud_share,
    late_share: Annotated[float, _share("Events older than their place.")] = _DEFAULTS.late_share,
    duplicate_share: Annotated[float, _share("Records sent twice.")] = _DEFAULTS.duplicate_share,
    malformed_share: Annotated[float, _share("Records against the contract.")] = _DEFAULTS.malformed_share,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Generate a recording of synthetic shop traffic, and a file with its labels (S.labels.jsonl).

    An earlier recording at the path is replaced, any other file only with --force.
    """
    settings = GeneratorSettings(
        events=events,
        users=users,
        items=items,
        categories=min(_DEFAULTS.categories, items) if categories is None else categories,
        seed=seed,
        partitions=partitions,
        start_ms=_start_ms(start),
        span_s=span_s,
        time_compression=time_compression,
        msgpack_share=msgpack_share,
        bot_share=bot_share,
        fraud_share=fraud_share,
        late_share=late_share,
        duplicate_share=duplicate_share,
        malformed_share=malformed_share,
    )
    check_recording(out, force=force, made_by="generate")
    check_inputs(labels_beside(out), ())
    if not out.exists() and labels_beside(out).exists() and not force:
        raise RecordingError(f"{labels_beside(out)} exists: choose another path, or replace it with --force")
    with whole_or_nothing(out) as part, progress_bar("generating", events, as_json) as progress:
        summary = write(settings, part, progress)
    labels = out.with_name(Path(summary.labels).name)
    summary = msgspec.structs.replace(summary, recording=str(out), labels=str(labels))
    show(summary, as_json, f"{summary.records:,} records")


def _start_ms(text: str) -> int:
    if text == "now":
        return int(time.time() * 1000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise GeneratorError(
            f'the start must be "now" or look like 2026-01-01T00:00:00Z, not {text!r}'
        ) from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
