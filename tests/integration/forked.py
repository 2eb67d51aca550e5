"""Workers that are forked from a process in which all is loaded and compiled: one starts in a tenth of a second.

Importing this module loads and compiles; the process that forks does so once (`nursery`).
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from stream_app.agents.offline import warm_up
from stream_app.app import create_app
from stream_app.commands.worker import serve
from stream_app.ops.logging import setup_logging
from stream_app.settings import load_settings

warm_up(load_settings(env={}, options={}), None)

Start = Callable[..., "Forked"]


def _work(log: str, partitions: int, options: dict[str, Any]) -> None:
    """What a worker does, in its process: all of `foreclick worker` but for the look at the topics."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    settings = load_settings(env={}, options=options)
    setup_logging("info", "console")

    async def run() -> None:  # the Kafka clients want a loop when they are made
        await serve(settings, create_app(settings, None, partitions=partitions))

    asyncio.run(run())


class Forked:
    """A worker without pages."""

    def __init__(self, name: str, folder: Path, partitions: int, **settings: Any) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        options = {"web": "", "data_dir": str(folder / "data"), **settings}
        self.process: BaseProcess = multiprocessing.get_context("forkserver").Process(
            target=_work, args=(str(self.log), partitions, options), daemon=True
        )
        self.process.start()

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process.is_alive()

    def text(self) -> str:
        """The log so far."""
        return self.log.read_text() if self.log.exists() else ""

    def assigned(self) -> bool:
        """Whether it has taken part in a rebalance to its end."""
        return "partitions assigned" in self.text()

    def kill(self) -> None:
        """SIGKILL: no last words."""
        self.process.kill()
        self.process.join(10)

    def leave(self) -> None:
        """SIGTERM: it commits, leaves the group and ends in its own time."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGTERM)

    def wait_end(self, limit_s: float) -> int:
        """The exit code, once it has ended."""
        self.process.join(limit_s)
        assert not self.alive, f"{self.name} still runs after {limit_s:.0f} s:\n{self.text()[-3000:]}"
        assert self.process.exitcode is not None
        return self.process.exitcode


@contextlib.contextmanager
def nursery() -> Iterator[Start]:
    """Starts workers; at the end none is left, nor the process that they come from."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    started: list[Forked] = []

    def start(*args: Any, **settings: Any) -> Forked:
        started.append(Forked(*args, **settings))
        return started[-1]

    try:
        yield start
    finally:
        for worker in started:
            worker.kill()
            worker.process.close()
        forkserver._forkserver._stop()  # else it ends with this process
