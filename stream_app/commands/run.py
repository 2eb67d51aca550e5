"""`foreclick run`: the processor on a recording, without a broker."""

import base64
import errno
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress

from stream_app.contract import times
from stream_app.errors import ForeclickError
from stream_app.recordings.output_paths import check_outputs
from stream_app.recordings.recording import RecordingReader
from stream_app.settings import Settings
from stream_app.settings.command_options import with_settings


class RunError(ForeclickError):
    """The outputs of a run cannot be written."""


@with_settings(
    "model",
    "model_key",
    "device",
    "k",
    "emit",
    "lateness_ms",
    "max_future_ms",
    "resident_users",
    "user_ttl_ms",
    "max_batch",
)
def run(
    recording: Annotated[Path, typer.Argument(help="A recording (*.stream).")],
    out: Annotated[Path, typer.Option(help="Folder for predictions, flags and dead letters.")],
    *,
    settings: Settings,
    partial: Annotated[bool, typer.Option(help="Process a truncated recording up to its cut.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace any files at this path.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Process a recording through the worker's own code and write its outputs as JSON lines.

    The files of an earlier run are replaced when this one is done; others only with --force.

    The outputs equal those of a worker that reads the same records from Kafka (ids included, where the
    recording starts at offset 0).
    """
    # `predictions.jsonl` is JSON whatever a worker would send.
    settings = msgspec.structs.replace(settings, output_format="json", topic_prefix="")
    check_outputs(_paths(out).values(), [recording], force=force)
    reader = RecordingReader(
        recording, strict=not partial
    )  # reports a bad file before the progress bar appears
    with Progress(console=Console(stderr=True), disable=as_json, transient=True) as bar:
        task = bar.add_task("processing", total=None)
        summary = _run(settings, reader, out, lambda n, of: bar.update(task, completed=n, total=of))
    for warning in summary["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    if as_json:
        typer.echo(msgspec.json.encode(summary).decode())
        return
    console = Console()
    console.print(
        f"{summary['events']:,} events in {summary['seconds']:.1f} s "
        f"({summary['events'] / max(summary['seconds'], 1e-9):,.0f} events/s) by model {summary['model']}"
    )
    for name in ("predictions", "flags", "dead-letters", "duplicates", "late", "users"):
        console.print(f"  {name:<13}{summary[name]:>10,}")
    console.print(f"events from {times.span(summary['first_ms'], summary['last_ms'])}")
    console.print(f"written to {out}/")


def _run(settings: Settings, reader: RecordingReader, out: Path, progress: Any) -> dict[str, Any]:
    from stream_app.processing.shop_processor import ShopProcessor
    from stream_app.recordings.offline.drive import drive, partitions_of
    from stream_app.worker.watches.model_watch import load_model

    runtime = load_model(settings) if settings.model is not None else None
    processor = ShopProcessor(settings, runtime, partitions=partitions_of(reader))
    written: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    spread = times.Spread()
    start = time.perf_counter()
    with _written(out) as files:
        for output in drive(processor, reader, progress):
            outputs = processor.dead_letters()
            if output is not None:
                outputs.update(output.outputs)
                counts.update(events=output.events, late=output.late, duplicates=output.duplicates)
                for batch in output.batches:
                    spread.add(batch.events.data["ts"])
            for (topic, _), messages in outputs.items():
                lines = [_dead_letter(*m) if topic == "dead-letters" else m[1] for m in messages]
                files[topic].write(b"".join(line + b"\n" for line in lines if line is not None))
                written[topic] += len(messages)
    return {
        "events": counts["events"],
        "predictions": written["predictions"],
        "flags": written["flags"],
        "dead-letters": written["dead-letters"],
        "duplicates": counts["duplicates"],
        "late": counts["late"],
        "users": len(processor.users),
        "model": processor.label,
        "seconds": round(time.perf_counter() - start, 3),
        "first_ms": spread.first_ms,
        "last_ms": spread.last_ms,
        "warnings": [warning] if (warning := spread.far_off()) is not None else [],
    }


def _paths(out: Path) -> dict[str, Path]:
    return {name: out / f"{name}.jsonl" for name in ("predictions", "flags", "dead-letters")}


@contextmanager
def _written(out: Path) -> Iterator[dict[str, "_Part"]]:
    """Writes the three output files; all of them appear in the folder at the end, or none after an error."""
    parts: dict[str, _Part] = {}
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name, path in _paths(out).items():
                parts[name] = _Part(path)
        except OSError as error:
            raise RunError(f"cannot write to {out}: {error.strerror}") from error
        yield parts
        for part in parts.values():
            part.close()
        for part in parts.values():
            part.finish()
    finally:
        for part in parts.values():
            part.drop()


class _Part:
    """Writes a file under a temporary name and renames it when it is complete. Raises RunError if that fails."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._file = self._part.open("wb")

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Write the rest of the buffered data, which fails here if the disk is full."""
        try:
            self._file.close()
        except OSError as error:
            raise self._error(error) from error

    def finish(self) -> None:
        try:
            self._part.replace(self._path)
        except OSError as error:
            raise self._error(error) from error

    def drop(self) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._part.unlink()

    def _error(self, error: OSError) -> RunError:
        full = ", free some space" if error.errno == errno.ENOSPC else ""
        return RunError(f"cannot write {self._path}: {error.strerror}{full}; nothing is left of this run")


def _dead_letter(key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]) -> bytes:
    return msgspec.json.encode(
        {"key": _text(key), "value": _text(value), "headers": {name: _text(v) for name, v in headers}}
    )


def _text(data: bytes | None) -> str | dict[str, str] | None:
    """UTF-8 as it is; other bytes as {"base64": …}."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}
