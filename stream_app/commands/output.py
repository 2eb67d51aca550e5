"""What commands that write recordings share: options, a progress bar, a summary, and complete files or none."""

import errno
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from stream_app.recordings.errors import RecordingError

Json = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The recording to write, S.stream.", dir_okay=False)]

Force = Annotated[bool, typer.Option("--force", help="Replace any file at this path.")]


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; its files move to the folder of `out` if there was no error."""
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
        raise RecordingError(
            f"cannot write {out}, the incomplete file was removed: {cause.strerror}{full}"
        ) from error


@contextmanager
def progress_bar(what: str, total: int | None, as_json: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar, but only on a terminal."""
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


def show(summary: msgspec.Struct, as_json: bool, headline: str) -> None:
    """Print the headline and the fields of a summary, or the summary as one JSON object."""
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
