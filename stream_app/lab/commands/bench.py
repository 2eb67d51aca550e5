"""`foreclick bench`: runs the benchmarks of the source tree."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stream_app.errors import ForeclickError

#: The script and arguments of each name, in the order in which `all` runs them.
BENCHMARKS = {
    "backlog": ("worker.py", "backlog"),
    "backlog-model": ("worker.py", "backlog", "--model"),
    "latency": ("worker.py", "latency", "--model"),
    "memory": ("worker.py", "memory", "--model", "--users", "1000000"),
    "recovery": ("goals.py", "recovery"),
    "skew": ("goals.py", "skew"),
    "step": ("model_step.py",),
    "transport": ("transport.py",),
    "generator": ("generator.py",),
    "quality": ("quality_yoochoose.py",),
}
ROOT = Path(__file__).parents[3]


class BenchError(ForeclickError):
    """A benchmark cannot be run or has failed."""


bench = typer.Typer(
    add_completion=False,
    help="Run the benchmarks behind the figures in the README; `bench/README.md` has the latest results.",
)


@bench.callback(invoke_without_command=True)
def _all_by_default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        run_all()


@bench.command("all")
def run_all() -> None:
    """Run all benchmarks except `peers`, one after the other; each prints one JSON line."""
    for name in BENCHMARKS:
        _script(name)


@bench.command()
def peers(
    *,
    systems: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Systems by name.", show_default="all"),
    ] = None,
    job: Annotated[
        Literal["j1", "j2"], typer.Option(help="j1: counts in windows. j2: predictions of a GRU.")
    ] = "j1",
    events: Annotated[int, typer.Option(min=1_000, help="Number of events in the backlog.")] = 1_000_000,
    slow_events: Annotated[
        int, typer.Option(min=1_000, help="Largest number of events for systems below 10,000 events/s.")
    ] = 200_000,
    runs: Annotated[int, typer.Option(min=1, help="Rounds over all systems; medians are shown.")] = 1,
    crash: Annotated[
        bool, typer.Option("--crash", help="Kill each system at half of its outputs and start it again.")
    ] = False,
    cmd: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=COMMAND", help="Another system; it gets BROKER, IN, OUT, RID and STATE. Repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for results.json, table.md and peers.png.",
            show_default=".foreclick/bench/...",
        ),
    ] = None,
    limit_s: Annotated[float, typer.Option(min=10, help="Time limit of one run.")] = 900.0,
    names: Annotated[bool, typer.Option("--list", help="Only list the systems.")] = False,
) -> None:
    """Run the same job on Foreclick and on other stream engines, with one broker, one input and one checker.

    What it needs is installed at its first use, in the user's cache folder. Run it on a machine without other load.
    """
    known = _from_tree("bench.peers.systems")
    found = known.chosen(systems, job, crash, tuple(cmd or ()))
    if names:
        for system in found:
            typer.echo(f"{system.name:15} {system.label}")
        return
    if not found:
        raise BenchError("no system was named")
    data = Path(os.environ.get("FORECLICK_DATA_DIR") or ".foreclick")
    _from_tree("bench.peers.compare").compare(
        found,
        out or data / "bench" / f"peers-{job}{'-crash' if crash else ''}",
        events=events,
        slow_events=slow_events,
        runs=runs,
        crash=crash,
        limit_s=limit_s,
    )


@bench.command("job")
def run_job(
    name: Annotated[str, typer.Argument(help="A file of bench/jobs: j1 (counts) or j2 (predictions).")],
) -> None:
    """Run one job of the comparison on Foreclick; BROKER, IN, OUT, RID and STATE come from the environment."""
    jobs = _tree() / "jobs"
    script = jobs / f"{name}.py"
    if script.parent != jobs or not script.is_file():
        there = ", ".join(sorted(path.stem for path in jobs.glob("[a-z]*.py"))) or "none yet"
        raise BenchError(f"there is no job {name!r}: choose one of {there}")
    # It replaces this process, so that signals reach it, and its CPU and memory are measured alone.
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    os.execve(sys.executable, [sys.executable, str(script)], {**os.environ, "PYTHONPATH": path})  # noqa: S606


def _command(name: str) -> Callable[[], None]:
    def one() -> None:
        _script(name)

    one.__doc__ = f"Run bench/{' '.join(BENCHMARKS[name])}."
    return one


for _name in BENCHMARKS:
    bench.command(_name)(_command(_name))


def _script(name: str) -> None:
    script, *arguments = BENCHMARKS[name]
    folder = _tree()
    typer.echo(f"{name}: bench/{script} {' '.join(arguments)}", err=True)
    if subprocess.run([sys.executable, str(folder / script), *arguments], check=False).returncode:
        raise BenchError(f"the benchmark {name} failed")


def _tree() -> Path:
    """Return the folder of the benchmarks. Raises BenchError if only the package is installed."""
    folder = ROOT / "bench"
    if not folder.is_dir():
        raise BenchError("the benchmarks are part of the source tree, not of the installed package")
    return folder


def _from_tree(module: str) -> Any:
    """Import a benchmark module by name: an installed package must not depend on it. Raises BenchError."""
    _tree()
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise BenchError(f"{error.name} is missing: install foreclick with its extra [dev]") from error
