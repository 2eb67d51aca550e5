"""The processes of a run: started in sessions of their own, their CPU and memory with all that they start, ended."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import psutil

END_LIMIT_S = 20.0
LONGEST = 400  # of a line of the log
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Usage(NamedTuple):
    """What a family of processes has used up to now."""

    cpu_s: float  # user and system
    rss_bytes: int  # at this moment


def usage(roots: Sequence[int]) -> Usage:
    """Return the usage of processes and their descendants; those that are gone count nothing."""
    cpu_s, rss = 0.0, 0
    for root in roots:
        try:
            process = psutil.Process(root)
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        for member in family:
            try:
                times = member.cpu_times()
                rss += member.memory_info().rss
            except psutil.Error:
                continue  # ended meanwhile: its parent has its time now
            cpu_s += times.user + times.system + times.children_user + times.children_system
    return Usage(cpu_s, rss)


class Workers:
    """A system's worker processes; a context manager that leaves none behind."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.env = {**os.environ, **env}
        self.log = folder / "worker.log"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ended_cpu_s = 0.0

    def start(self, commands: Sequence[list[str]], states: Sequence[Path]) -> None:
        """Start one process for each command, with the STATE that belongs to it."""
        with self.log.open("ab") as log:
            self._processes = [
                subprocess.Popen(
                    command,
                    env={**self.env, "STATE": str(state)},
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                for command, state in zip(commands, states, strict=True)
            ]

    def usage(self) -> Usage:
        """Usage since the first start, killed predecessors included."""
        now = usage([process.pid for process in self._processes])
        return now._replace(cpu_s=now.cpu_s + self._ended_cpu_s)

    def ended(self) -> str | None:
        """Why one of the processes is gone although nobody ended it: exit code and last words; None if none is."""
        for process in self._processes:
            if (code := process.poll()) is not None:
                return f"ended with {code}: {self.last_words()}"
        return None

    def last_words(self) -> str:
        """The line of the log that tells most: the last that names an error, or the last one."""
        text = _ESCAPES.sub("", self.log.read_text(errors="replace")) if self.log.exists() else ""
        lines = [line.strip() for line in text.splitlines() if any(map(str.isalpha, line))]
        telling = [line for line in lines if "Error" in line or "Exception" in line]
        return (telling or lines or ["it said nothing"])[-1][:LONGEST]

    def kill(self) -> None:
        """SIGKILL to all of them: no last words, nothing flushed."""
        self._ended_cpu_s = self.usage().cpu_s
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to what is left."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        for process in self._processes:
            _signal(process.pid, number)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_LIMIT_S)
            _signal(process.pid, signal.SIGKILL)  # also what it has started and left
            process.wait(END_LIMIT_S)
        self._processes = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(signal.SIGKILL)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
