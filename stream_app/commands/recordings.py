"""`foreclick import`, `generate`, `record`, `replay`: recordings from data sets, a seed, Kafka."""

import asyncio
import errno
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from stream_app.contract import times
from stream_app.contract.records import INPUT_TOPICS
from stream_app.errors import ForeclickError
from stream_app.kafka.security import security_options
from stream_app.lab.generator import GeneratorSettings, write
from stream_app.lab.generator.settings import GeneratorError
from stream_app.lab.generator.stream import labels_beside
from stream_app.recordings.capture import CaptureStats
from stream_app.recordings.capture import record as record_topics
from stream_app.recordings.errors import RecordingError
from stream_app.recordings.importers import import_files
from stream_app.recordings.importers.lines import Source
from stream_app.recordings.output_paths import check_inputs, check_recording
from stream_app.recordings.publish import ReplayStats
from stream_app.recordings.publish import replay as replay_recording
from stream_app.recordings.recording import RecordingReader
from stream_app.settings import Settings
from stream_app.settings.command_options import with_settings

_DEFAULTS = GeneratorSettings()
Json = Annotated[bool, typer.Option("--json", help="The summary as one JSON object.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The recording to write, S.stream.", dir_okay=False)]

Force = Annotated[bool, typer.Option("--force", help="Replace whatever file stands at the path.")]


def _share(what: str) -> Any:
    return typer.Option(min=0.0, max=1.0, help=what, rich_help_panel="Trouble")


def generate(
    *,
    out: Out,
    events: Annotated[int, typer.Option(min=1, help="Records in all.")] = _DEFAULTS.events,
    users: Annotated[int, typer.Option(min=1)] = _DEFAULTS.users,
    items: Annotated[int, typer.Option(min=1)] = _DEFAULTS.items,
    categories: Annotated[
        int | None, typer.Option(min=1, show_default=f"{_DEFAULTS.categories}, or as many as there are items")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = _DEFAULTS.seed,
    partitions: Annotated[int, typer.Option(min=1, help="Of each topic.")] = _DEFAULTS.partitions,
    start: Annotated[str, typer.Option(help='First visit: an ISO time, or "now".')] = "2026-01-01T00:00:00Z",
    span_s: Annotated[
        float | None,
        typer.Option(
            "--span", help="Seconds of shop time that the events fill.", show_default="by the users"
        ),
    ] = None,
    time_compression: Annotated[
        float, typer.Option(help="Seconds of shop time that pass in a second of event time.")
    ] = _DEFAULTS.time_compression,
    msgpack_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Values in msgpack.")
    ] = _DEFAULTS.msgpack_share,
    bot_share: Annotated[float, _share("Events by bots.")] = _DEFAULTS.bot_share,
    fraud_share: Annotated[float, _share("Purchases with stolen accounts.")] = _DEFAULTS.fraud_share,
    late_share: Annotated[float, _share("Events older than their place.")] = _DEFAULTS.late_share,
    duplicate_share: Annotated[float, _share("Records sent twice.")] = _DEFAULTS.duplicate_share,
    malformed_share: Annotated[float, _share("Records against the contract.")] = _DEFAULTS.malformed_share,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a recording of synthetic shop traffic, and its labels beside it (S.labels.jsonl).

    An earlier one at the path is replaced, another file only with --force.
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
    with _whole_or_nothing(out) as part, _progress("generating", events, as_json) as progress:
        summary = write(settings, part, progress)
    labels = out.with_name(Path(summary.labels).name)
    summary = msgspec.structs.replace(summary, recording=str(out), labels=str(labels))
    _show(summary, as_json, f"{summary.records:,} records")


def import_(
    format_name: Annotated[str, typer.Argument(metavar="FORMAT", help="taobao or yoochoose.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="The files of the data set.")],
    out: Out,
    partitions: Annotated[int, typer.Option(min=1, help="Of each topic.")] = _DEFAULTS.partitions,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Turn a public data set into a recording, sorted by time.

    An earlier one at the path is replaced, another file only with --force.
    """
    size = Source(files).size
    check_recording(out, files, force=force, made_by="import")
    with _whole_or_nothing(out) as part, _progress("reading", size, as_json) as progress:
        stats = import_files(format_name, files, part, partitions=partitions, on_progress=progress)
    for example in stats.examples:
        typer.echo(f"skipped {example}", err=True)
    for warning in stats.warnings:
        typer.echo(f"warning: {warning}", err=True)
    _show(
        msgspec.structs.replace(stats, recording=str(out)),
        as_json,
        f"{stats.records:,} records, {times.span(stats.first_ms, stats.last_ms)}; "
        f"{stats.bad_lines:,} bad lines skipped",
    )


@with_settings("brokers", "topic_prefix")
def record(
    recording: Annotated[Path, typer.Argument(metavar="S.stream", help="The file to write.", dir_okay=False)],
    *,
    settings: Settings,
    topic: Annotated[
        list[str] | None,
        typer.Option(help="A topic without its prefix; may be given again.", show_default="inputs"),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only records stored from then on: Unix ms, an ISO time, or how long ago, like 7d or 12h.",
        ),
    ] = None,
    from_end: Annotated[
        bool, typer.Option("--from-end", help="Only what comes from now on; with --follow.")
    ] = False,
    offset: Annotated[
        list[str] | None,
        typer.Option(metavar="TOPIC:PARTITION=N", help="Where to start; may be given again."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until Ctrl-C.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many records.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write what the topics hold to a recording, in the order of time. Replaces no file without --force."""
    offsets = dict(_offset(each) for each in offset or ())
    since_ms = None if since is None else times.moment(since, int(time.time() * 1000), "--since")
    check_recording(recording, force=force)

    async def work(stop: asyncio.Event, progress: Callable[[int], None]) -> CaptureStats:
        return await record_topics(
            settings.brokers,
            recording,
            topics=topic or INPUT_TOPICS,
            prefix=settings.topic_prefix,
            offsets=offsets,
            since_ms=since_ms,
            from_end=from_end,
            follow=follow,
            limit=limit,
            stop=stop,
            on_progress=progress,
            security=security_options(settings.kafka),
        )

    with _progress("recording", limit, as_json) as progress:
        stats = _run(work, progress)
    _show(stats, as_json, f"{stats.records:,} records in {stats.seconds:.1f} s")
    if stats.stopped and not follow:
        raise typer.Exit(130)


@with_settings("brokers", "topic_prefix")
def replay(
    recording: Annotated[Path, typer.Argument(metavar="S.stream", help="The file to send.", dir_okay=False)],
    *,
    settings: Settings,
    topic: Annotated[
        list[str] | None,
        typer.Option(
            help="A topic of the recording to send, without prefix; may be given again.",
            show_default="inputs",
        ),
    ] = None,
    repartition: Annotated[
        bool,
        typer.Option("--repartition", help="Place records by their keys, among any number of partitions."),
    ] = False,
    speed: Annotated[
        float | None, typer.Option(help="Factor of the recorded pace.", show_default="as fast as possible")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Records a second, evenly.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many records.")] = None,
    now: Annotated[bool, typer.Option("--now", help="Stamp records with the time of sending.")] = False,
    as_json: Json = False,
) -> None:
    """Send a recording to the partitions that it was recorded from."""
    count = RecordingReader(recording).count()

    async def work(stop: asyncio.Event, progress: Callable[[int], None]) -> ReplayStats:
        return await replay_recording(
            recording,
            settings.brokers,
            prefix=settings.topic_prefix,
            topics=topic or None,
            repartition=repartition,
            speed=speed,
            rate=rate,
            limit=limit,
            timestamps="now" if now else "recorded",
            stop=stop,
            on_progress=progress,
            security=security_options(settings.kafka),
        )

    with _progress("replaying", min(count, limit or count), as_json) as progress:
        stats = _run(work, progress)
    per_second = stats.records / stats.seconds if stats.seconds else 0.0
    _show(stats, as_json, f"{stats.records:,} records in {stats.seconds:.1f} s, {per_second:,.0f} a second")
    if stats.stopped:
        raise typer.Exit(130)


def _run(work: Callable[[asyncio.Event, Callable[[int], None]], Any], progress: Callable[[int], None]) -> Any:
    """Run `work` with an event that Ctrl-C and SIGTERM set: what is under way is finished, then it ends."""

    async def main() -> Any:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        return await work(stop, progress)

    return asyncio.run(main())


@contextmanager
def _whole_or_nothing(out: Path) -> Iterator[Path]:
    """A path to write to; what stands there and beside it moves to `out` when all went well."""
    if not out.parent.is_dir():
        raise RecordingError(f"there is no folder {out.parent}: make it first")
    try:
        with tempfile.TemporaryDirectory(prefix=".part-", dir=out.parent) as folder:
            yield Path(folder, out.name)
            for made in Path(folder).iterdir():
                made.replace(out.with_name(made.name))
    except (OSError, RecordingError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        full = ": free some space" if cause.errno == errno.ENOSPC else ""
        raise RecordingError(f"cannot write {out}, nothing is left of it: {cause.strerror}{full}") from error


@contextmanager
def _progress(what: str, total: int | None, as_json: bool) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal for the person who waits; none where nobody looks."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}"))
    bar = Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=as_json or not console.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _show(summary: msgspec.Struct, as_json: bool, headline: str) -> None:
    fields = msgspec.to_builtins(summary)
    if as_json:
        typer.echo(msgspec.json.encode(fields).decode())
        return
    out = Console(soft_wrap=True, highlight=False)
    out.print(f"[green]{escape(headline)}[/]")
    for name in ("recording", "labels", "span", "topics", "planted"):
        value = fields.get(name)
        if value:
            shown = ", ".join(f"{k} {v:,}" for k, v in value.items()) if isinstance(value, dict) else value
            out.print(f"  {name:10}{escape(str(shown))}")


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


def _offset(text: str) -> tuple[tuple[str, int], int]:
    place, _, number = text.partition("=")
    topic, _, partition = place.rpartition(":")
    if not (topic and partition.isdecimal() and number.isdecimal()):
        raise ForeclickError(f"an offset looks like clicks:0=1234, not {text!r}")
    return (topic, int(partition)), int(number)
