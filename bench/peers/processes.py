"""The processes of a run: starts each in its own session, measures CPU and memory including children, ends them."""

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
LONGEST = 400  # characters of a line of the log
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Usage(NamedTuple):
    """The resources that processes and their descendants have used so far."""

    cpu_s: float  # user and system
    rss_bytes: int  # at this moment


def usage(roots: Sequence[int]) -> Usage:
    """Return the usage of processes and their descendants; processes that have ended count nothing."""
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
                continue  # it has just ended: its CPU time is part of its parent's now
            cpu_s += times.user + times.system + times.children_user + times.children_system
    return Usage(cpu_s, rss)


class Workers:
    """The worker processes of a system; a context manager that ends all of them."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.env = {**os.environ, **env}
        self.log = folder / "worker.log"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ended_cpu_s = 0.0

    def start(self, commands: Sequence[list[str]], states: Sequence[Path]) -> None:
        """Start one process per command, with its own STATE."""
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
        """Return the usage since the first start, including killed predecessors."""
        now = usage([process.pid for process in self._processes])
        return now._replace(cpu_s=now.cpu_s + self._ended_cpu_s)

    def ended(self) -> str | None:
        """Return why a process ended by itself, as exit code and end of the log; None if all are running."""
        for process in self._processes:
            if (code := process.poll()) is not None:
                return f"ended with {code}: {self.last_words()}"
        return None

    def last_words(self) -> str:
        """Return the most useful line of the log: the last line that names an error, or else the last line."""
        text = _ESCAPES.sub("", self.log.read_text(errors="replace")) if self.log.exists() else ""
        lines = [line.strip() for line in text.splitlines() if any(map(str.isalpha, line))]
        telling = [line for line in lines if "Error" in line or "Exception" in line]
        return (telling or lines or ["no output"])[-1][:LONGEST]

    def kill(self) -> None:
        """Send SIGKILL to all of them, so nothing is flushed."""
        self._ended_cpu_s = self.usage().cpu_s
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Send SIGTERM, then SIGKILL to those that are left."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        for process in self._processes:
            _signal(process.pid, number)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_LIMIT_S)
            _signal(process.pid, signal.SIGKILL)  # also to children that it left behind
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
