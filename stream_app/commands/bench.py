"""`foreclick bench`: runs the benchmarks of the source tree."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from stream_app.errors import ForeclickError

#: What each name stands for, in the order in which `all` runs them.
BENCHMARKS = {
    "backlog": ("worker.py", "backlog"),
    "backlog-model": ("worker.py", "backlog", "--model"),
    "latency": ("worker.py", "latency", "--model"),
    "memory": ("worker.py", "memory", "--model", "--users", "100000"),
    "step": ("model_step.py",),
    "generator": ("generator.py",),
    "quality": ("quality_yoochoose.py",),
}


class BenchError(ForeclickError):
    """A benchmark cannot be run or has failed."""


def bench(
    name: Annotated[
        str, typer.Argument(help=f"One of {', '.join(BENCHMARKS)}; or all of them.", show_default=True)
    ] = "all",
) -> None:
    """Run the benchmarks behind the README's figures; each prints one JSON line.

    They start a broker of their own and share the machine with it. `bench/README.md` has the last figures.
    """
    folder = Path(__file__).parents[2] / "bench"
    if not folder.is_dir():
        raise BenchError("the benchmarks are part of the source tree, not of the installed package")
    if name != "all" and name not in BENCHMARKS:
        raise BenchError(f"there is no benchmark {name!r}: choose one of {', '.join(BENCHMARKS)}, or all")
    for chosen in BENCHMARKS if name == "all" else [name]:
        script, *arguments = BENCHMARKS[chosen]
        typer.echo(f"{chosen}: bench/{script} {' '.join(arguments)}", err=True)
        if subprocess.run([sys.executable, str(folder / script), *arguments], check=False).returncode:
            raise BenchError(f"the benchmark {chosen} failed")
