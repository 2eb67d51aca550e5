"""Workers forked from a process in which everything is loaded and compiled: one starts in a tenth of a second.

Each runs the command `foreclick worker` with its settings from the environment; only the start of Python and the
import of the libraries are left out.
"""

import importlib
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.integration.warm"])


def _work(words: list[str], env: dict[str, str], log: str, constants: dict[str, Any]) -> None:
    """Run the command in the new process, with its output in the log."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(env)
    importlib.import_module("tests.integration.warm")  # the forking process has normally done this already
    for place, value in constants.items():
        module, _, name = place.rpartition(".")
        known = importlib.import_module(module)
        assert hasattr(known, name), f"there is no {place}"
        setattr(known, name, value)
    from stream_app.cli import main

    main(words)


class ForkedProcess:
    """A command of `foreclick` in a forked process, with the part of `subprocess.Popen` that tests use."""

    def __init__(
        self, words: list[str], env: Mapping[str, str], log: Path, constants: Mapping[str, Any] | None = None
    ) -> None:
        """`constants`: other values of constants, by module and name, such as a shorter waiting time."""
        given = (words, dict(env), str(log), dict(constants or {}))
        self._process = _CONTEXT.Process(target=_work, args=given, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Return the exit code, -N after signal N; None while the process runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code; None while the process runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code. Raises TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("foreclick", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal if the process still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)
