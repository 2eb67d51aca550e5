"""The progress of training and evaluation on the terminal, and how Ctrl-C and SIGTERM stop them."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from stream_app.settings import Settings

if TYPE_CHECKING:
    from model.training.api import TrainingProgress as At
    from stream_app.recordings.offline.training_table import Recorded

#: Seconds of training before an estimate of the remaining time is shown.
_TOO_EARLY_S = 2.0


class Stopper:
    """Records Ctrl-C or SIGTERM as a request to stop; the second one ends the command at once."""

    def __init__(self) -> None:
        self.asked = False
        self.code = 130  #: the exit code of what asked last

    def __call__(self) -> bool:
        """As the training asks it."""
        return self.asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block the first Ctrl-C or SIGTERM only asks to stop."""
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self.code = 128 + number
        if self.asked:
            raise Interrupted(self.code)
        self.asked = True


class Interrupted(KeyboardInterrupt):
    """Return the exception that ends a stopped command with its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


@contextmanager
def said_when_interrupted(text: str) -> Iterator[None]:
    """Ctrl-C ends the command with a sentence and exit code 130, SIGTERM with 143."""
    try:
        yield
    except KeyboardInterrupt as error:
        typer.echo(f"foreclick: {text}", err=True)
        raise typer.Exit(error.code if isinstance(error, Interrupted) else 130) from None


class Remaining:
    """Estimates the remaining time of a training from the time of its epochs so far."""

    def __init__(self, refit: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._refit = refit
        self._clock = clock
        self._start = clock()
        self._spent = 0.0  # seconds of the first training, once the second runs
        self._per_epoch = 0.0

    def __call__(self, at: "At") -> str:
        """ "about 4 min left"; empty while it is too early to say.

        It is the most it will take: validation may stop training earlier.
        """
        done = at.epoch - 1 + at.share
        spent = self._clock() - self._start - self._spent
        if at.refit and not self._spent:
            self._spent, spent = self._clock() - self._start, 0.0
        if spent >= _TOO_EARLY_S and done > 0:
            self._per_epoch = spent / done
        if not self._per_epoch:
            return ""
        epochs = at.epochs - done + (at.epochs if self._refit and not at.refit else 0)
        return f"about {duration(self._per_epoch * epochs)} left"


def duration(seconds: float) -> str:
    """A time in the unit that suits it: "40 s", "4 min", "2.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def bar(quiet: bool) -> Progress:
    """The bar of training and evaluation, on the error stream."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        TextColumn("{task.fields[left]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=quiet,
    )


def begin(shown: Progress, description: str, total: float | None = None) -> TaskID:
    """A new line of the bar."""
    return shown.add_task(description, total=total, left="")


def reader(shown: Progress, task: TaskID, stopper: Stopper, refit: bool) -> Callable[["At"], None]:
    """Where training stands, for the bar: "epoch 3 of 12, loss 1.249, MRR@20 0.412", "about 4 min left"."""
    remaining = Remaining(refit)
    quality = ""
    told = False

    def report(at: "At") -> None:
        nonlocal quality, told
        if at.mrr is not None:
            quality = f", MRR@20 {at.mrr:.3f}"
        again = "again on all events, " if at.refit else ""
        text = f"{again}epoch {at.epoch} of {at.epochs}, loss {at.loss:.3f}{'' if at.refit else quality}"
        shown.update(
            task, completed=at.epoch - 1 + at.share, total=at.epochs, description=text, left=remaining(at)
        )
        if stopper.asked and not told:
            told = True
            shown.console.print(
                "stopping: the best model so far will be written (press Ctrl-C again to discard it)"
            )

    return report


def tabulated(recording: Path, settings: Settings, shown: Progress) -> "Recorded":
    """The training table of a recording, with a line of the bar."""
    from stream_app.recordings.offline.training_table import tabulate

    task = begin(shown, "reading")
    return tabulate(recording, settings, lambda n, of: shown.update(task, completed=n, total=of))
