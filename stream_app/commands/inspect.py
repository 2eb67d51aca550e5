"""`foreclick inspect`: what is in a recording, and what is wrong with it."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from stream_app.commands.output import Force, Json, progress_bar, whole_or_nothing
from stream_app.commands.printable import printable, printable_json
from stream_app.recordings.inspection.measure import inspect as inspect_recording
from stream_app.recordings.inspection.page import BEGINNING, page
from stream_app.recordings.inspection.texts import sections
from stream_app.recordings.output_paths import check_page


def inspect(
    recording: Annotated[
        Path, typer.Argument(metavar="S.stream", help="The recording to read.", dir_okay=False)
    ],
    *,
    html: Annotated[
        Path | None, typer.Option(help="Also write the report as a page with plots.", dir_okay=False)
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Show what a recording holds and what is wrong with it, before a model learns from it."""
    if html is not None:
        check_page(html, [recording], BEGINNING, force=force)
    with progress_bar("reading", None, as_json) as progress:
        report = inspect_recording(recording, progress)
    if html is not None:
        with whole_or_nothing(html) as part:
            part.write_text(page(report), encoding="utf-8")
    if as_json:
        typer.echo(printable_json(msgspec.json.encode(report).decode()))
        return
    for heading, rows in sections(report):
        typer.echo(heading)
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            typer.echo(printable(f"  {name.ljust(width)}  {value}"))
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if html is not None:
        typer.echo(f"written to {html}")
