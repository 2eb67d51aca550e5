"""The comparison from start to end: install, one broker, one input, every system in turn, the report."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from rich.console import Console

from bench.peers import environments, machine, report
from bench.peers.generate import produce, recent_start, traffic, truth
from bench.peers.runner import Bed, Result, run
from bench.peers.systems import System
from bench.peers.topics import Topics
from stream_app.lab.broker import EmbeddedKafka
from stream_app.lab.commands.bench import BenchError

MODEL_ITEMS = 40_000
PLOT_LIMIT_S = 120
_ERRORS = (BenchError, KafkaException, OSError, subprocess.SubprocessError)


def compare(
    systems: Sequence[System],
    out: Path,
    *,
    events: int = 1_000_000,
    slow_events: int = 200_000,
    runs: int = 1,
    crash: bool = False,
    limit_s: float = 900.0,
    console: Console | None = None,
) -> list[Result]:
    """Run every system `runs` times, one at a time, and leave results.json, table.md and a picture in `out`.

    The rounds are interleaved, so that all systems are affected if the machine is slow for some minutes. Slow
    systems get at most `slow_events`. The report gives the reason for each system that could not be installed, failed
    or was wrong.
    """
    console = console or Console()
    sizes = {system.name: min(events, slow_events) if system.slow else events for system in systems}
    failures = _install(systems, console)
    with_java = any(system.java and system.name not in failures for system in systems)
    about: dict[str, Any] = {
        "job": systems[0].job,
        "machine": machine.description(),
        "versions": machine.versions(with_java),
    }
    results: list[Result] = []
    with _bed(out, systems, sorted(set(sizes.values())), limit_s, console) as bed:
        for number in range(1, runs + 1):
            for system in systems:
                size = sizes[system.name]
                if system.name in failures:
                    result = _failed(system, size, number, failures[system.name])
                else:
                    result = _run(system, bed, size, number, crash, console)
                results.append(result)
                console.print(_line(result, runs), highlight=False, markup=False)
                report.write(out, results, crash, about)
    console.print(report.terminal_table(results, crash))
    if not crash:
        _plot(out, console)
    console.print(f"written to {out}", highlight=False)
    return results


def _install(systems: Sequence[System], console: Console) -> dict[str, str]:
    """Install the requirements of the systems; return the reason of each failure, by the name of the system."""
    failures: dict[str, str] = {}
    for system in systems:
        with console.status(f"installing what {system.label} needs"):
            try:
                system.install()
            except _ERRORS as error:
                failures[system.name] = f"cannot be installed: {error}"
                console.print(f"{system.label} {failures[system.name]}", highlight=False, markup=False)
    return failures


@contextmanager
def _bed(
    out: Path, systems: Sequence[System], sizes: list[int], limit_s: float, console: Console
) -> Iterator[Bed]:
    """Provide broker, input and expected results, and remove them afterwards; the logs of the runs stay in `out`."""
    runs = out / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="kafka-", dir=out) as name:
        scratch = Path(name)
        env = {}
        if systems[0].job == "j2":
            from bench.model_step import write_model

            with console.status(f"writing a model of {MODEL_ITEMS:,} items"):
                env["MODEL"] = str(write_model(MODEL_ITEMS, scratch / "model"))
        with EmbeddedKafka(scratch / "broker") as broker:
            topics = Topics(broker.bootstrap)
            everything = traffic(sizes[-1], recent_start(sizes[-1]))
            inputs, truths = {}, {}
            for size in sizes:
                with console.status(f"writing {size:,} events to Kafka"):
                    part = everything.take(size)
                    inputs[size], truths[size] = f"events-{size}", truth(part)
                    topics.create(inputs[size])
                    produce(broker.bootstrap, inputs[size], part)
            yield Bed(topics, broker.pid, runs.resolve(), inputs, truths, limit_s, env)


def _run(system: System, bed: Bed, events: int, number: int, crash: bool, console: Console) -> Result:
    with console.status(f"{system.label}: starting") as status:

        def tell(outputs: int) -> None:
            status.update(f"{system.label}: {outputs:,} outputs for {events:,} events")

        try:
            return run(system, bed, events, number, crash=crash, tell=tell)
        except _ERRORS as error:
            return _failed(system, events, number, f"{type(error).__name__}: {error}")


def _failed(system: System, events: int, number: int, why: str) -> Result:
    return Result(
        system=system.name,
        label=system.label,
        role=system.role,
        answers=system.answers,
        remark=system.remark,
        round=number,
        events=events,
        calibration_ms=machine.calibration_ms(),
        failure=why,
    )


def _line(result: Result, runs: int) -> str:
    """Return a line that describes one run."""
    head = f"round {result.round} of {runs}, {result.label}, {result.seconds:.0f} s: "
    if result.failure or result.verdict is None:
        return f"{head}failed: {result.failure}"
    faults = result.verdict.faults()
    verdict = f"WRONG: {faults}" if faults and not result.crash else faults or "right"
    if result.crash:
        after = result.crash.restart_s
        return f"{head}{verdict}; first new output {'never' if after is None else f'after {after:.1f} s'}"
    if result.figures is None:
        return head + verdict
    return (
        f"{head}{result.figures.events_s:,.0f} events/s, {result.figures.cpu_us:.1f} us per event, {verdict}"
    )


def _plot(out: Path, console: Console) -> None:
    """Draw the picture in an environment that has matplotlib; without it, print that there is no picture."""
    script = Path(__file__).with_name("plot.py")
    try:
        command = [str(environments.python_of("plot")), str(script), "results.json", "peers.png"]
        done = subprocess.run(
            command, cwd=out, capture_output=True, text=True, timeout=PLOT_LIMIT_S, check=False
        )
        trouble = done.stderr.strip()[-500:] if done.returncode else ""
    except _ERRORS as error:
        trouble = str(error)
    if trouble:
        console.print(f"no picture: {trouble}", highlight=False, markup=False)
