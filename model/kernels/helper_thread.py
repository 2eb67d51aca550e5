"""A second thread that shares the work on one micro-batch if a core is free."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

#: A piece of work. Its argument says which thread runs it, 0 or 1, so that each thread has its own working memory.
Task = Callable[[int], None]

#: Threads that may run tasks at the same time.
THREADS = 2
#: With fewer events, one thread does all the work: in a worker at half load the other core serves Kafka and the event
#: loops, and sharing with them costs more than it gains (measured with micro-batches of 800).
WORTH_IT = 2048


class HelperThread:
    """Runs tasks for one caller at a time; the heavy part of each releases the GIL."""

    def __init__(self) -> None:
        self._helper = (
            ThreadPoolExecutor(1, "share", torch.set_num_threads, (1,)) if _cores() >= THREADS else None
        )

    def run(self, tasks: Sequence[Task], events: int) -> None:
        """Run all tasks, in any order, and return when all have ended. Raises what one of them raised.

        The caller never waits for a helper that gets no core: the caller runs every task that the helper has not
        started.
        """
        left = iter(tasks)  # each `next` is one step for the interpreter, so no task is taken twice

        def work(thread: int) -> None:
            for task in left:
                task(thread)

        if self._helper is None or events < WORTH_IT:
            work(0)
            return
        helping = self._helper.submit(work, 1)
        try:
            work(0)
        finally:
            if not helping.cancel():
                helping.result()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
