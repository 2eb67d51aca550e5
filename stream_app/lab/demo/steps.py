"""The steps of the demo on the terminal: a progress bar during a step, a line with its time after it.

Without a terminal, only the lines are printed.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Step:
    """The step that is running."""

    def __init__(self, console: Console, title: str, bar: Progress, task: TaskID) -> None:
        self._console = console
        self._title = title
        self._bar = bar
        self._task = task
        self._said = ""
        self.notes: list[str] = []

    def progress(self, done: float | None, total: float | None, text: str) -> None:
        """Show the progress; without numbers, only that the step is running."""
        self._bar.update(self._task, completed=done or 0, total=total, description=f"{self._title}: {text}")

    def waiting(self, text: str) -> None:
        """Show what the step waits for; without a terminal, print a line if the text is new."""
        self._bar.update(self._task, total=None, description=f"{self._title}: {escape(text)}")
        if text != self._said:
            self._said = text
            self.detail(text)

    def detail(self, text: str) -> None:
        """Print a line if there is no progress bar."""
        if not self._console.is_terminal:
            self._console.print(f"    {escape(text)}", highlight=False)

    def note(self, text: str) -> None:
        """Add a result, shown next to the name of the step when it is done."""
        self.notes.append(text)


class Steps:
    """Numbers the steps and measures their times."""

    def __init__(self, console: Console, total: int) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}  #: wall time by title
        self._total = total

    @contextmanager
    def step(self, title: str, *, bar: bool = True) -> Iterator[Step]:
        """Run the next step; a line shows its results, unless it fails.

        Without `bar`, the step draws its own output.
        """
        number = f"{len(self.seconds) + 1}/{self._total}"
        terminal = self.console.is_terminal
        if not terminal:
            self.console.print(f"{number} {title} …", highlight=False)
        progress = Progress(
            TextColumn(f"[dim]{number}[/] {{task.description}}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not (terminal and bar),
        )
        start = time.perf_counter()
        with progress:
            step = Step(self.console, title, progress, progress.add_task(title, total=None))
            yield step
        seconds = self.seconds[title] = time.perf_counter() - start
        found = escape("; ".join(step.notes))
        self.console.print(
            f"[green]✓[/] [dim]{number}[/] [bold]{title}[/] [dim]{seconds:5.1f} s[/]  {found}",
            highlight=False,
        )
