"""`foreclick record` and `replay`: recordings from Kafka and back."""

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from stream_app.commands.output import Force, Json, progress_bar, show
from stream_app.contract import times
from stream_app.contract.records import INPUT_TOPICS
from stream_app.errors import ForeclickError
from stream_app.kafka.security import security_options
from stream_app.recordings.capture import CaptureStats
from stream_app.recordings.capture import record as record_topics
from stream_app.recordings.output_paths import check_recording
from stream_app.recordings.publish import ReplayStats
from stream_app.recordings.publish import replay as replay_recording
from stream_app.recordings.recording import RecordingReader
from stream_app.settings import Settings
from stream_app.settings.command_options import with_settings


@with_settings("brokers", "topic_prefix")
def record(
    recording: Annotated[Path, typer.Argument(metavar="S.stream", help="The file to write.", dir_okay=False)],
    *,
    settings: Settings,
    topic: Annotated[
        list[str] | None,
        typer.Option(help="A topic, without its prefix; can be repeated.", show_default="inputs"),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only records stored since this time: Unix ms, an ISO time, or an age such as 7d or 12h.",
        ),
    ] = None,
    from_end: Annotated[
        bool, typer.Option("--from-end", help="Only new records; use it with --follow.")
    ] = False,
    offset: Annotated[
        list[str] | None,
        typer.Option(metavar="TOPIC:PARTITION=N", help="Offset to start from; can be repeated."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Continue until Ctrl-C.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many records.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write the records of topics to a recording, in the order of time. Replaces a file only with --force."""
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

    with progress_bar("recording", limit, as_json) as progress:
        stats = _run(work, progress)
    show(stats, as_json, f"{stats.records:,} records in {stats.seconds:.1f} s")
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
            help="A topic of the recording to send, without its prefix; can be repeated.",
            show_default="inputs",
        ),
    ] = None,
    repartition: Annotated[
        bool,
        typer.Option(
            "--repartition",
            help="Choose partitions by key, for topics with another number of partitions.",
        ),
    ] = False,
    speed: Annotated[
        float | None, typer.Option(help="Multiple of the recorded speed.", show_default="as fast as possible")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Constant number of records per second.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many records.")] = None,
    now: Annotated[bool, typer.Option("--now", help="Give records the time at which they are sent.")] = False,
    as_json: Json = False,
) -> None:
    """Send a recording to Kafka, to the same partitions that it was recorded from."""
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

    with progress_bar("replaying", min(count, limit or count), as_json) as progress:
        stats = _run(work, progress)
    per_second = stats.records / stats.seconds if stats.seconds else 0.0
    show(stats, as_json, f"{stats.records:,} records in {stats.seconds:.1f} s, {per_second:,.0f} per second")
    if stats.stopped:
        raise typer.Exit(130)


def _run(work: Callable[[asyncio.Event, Callable[[int], None]], Any], progress: Callable[[int], None]) -> Any:
    """Run `work` with an event that Ctrl-C and SIGTERM set, so that it can finish what it is doing."""

    async def main() -> Any:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        return await work(stop, progress)

    return asyncio.run(main())


def _offset(text: str) -> tuple[tuple[str, int], int]:
    place, _, number = text.partition("=")
    topic, _, partition = place.rpartition(":")
    if not (topic and partition.isdecimal() and number.isdecimal()):
        raise ForeclickError(f"an offset looks like clicks:0=1234, not {text!r}")
    return (topic, int(partition)), int(number)
