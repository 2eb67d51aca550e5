"""Two threads for the tasks of one micro-batch: each task runs once, in whichever thread."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from model.kernels.helper_thread import WORTH_IT, HelperThread


@pytest.fixture(params=[True, False], ids=["two threads", "one"])
def sharing(request: pytest.FixtureRequest) -> HelperThread:
    """Act like a machine with two cores, and like one with a single core, whatever this one has."""
    made = HelperThread()
    made._helper = ThreadPoolExecutor(1) if request.param else None
    return made


def test_each_task_runs_once(sharing: HelperThread) -> None:
    """All tasks have run when `run` returns, also in a second call."""
    done = np.zeros(1000, np.int64)

    def task(number: int, thread: int) -> None:
        assert thread in (0, 1)
        done[number] += 1

    for times in range(1, 20):
        sharing.run([partial(task, number) for number in range(1000)], WORTH_IT)
        assert (done == times).all()
    sharing.run([], WORTH_IT)


def test_two_threads_run_at_the_same_time_and_know_who_they_are() -> None:
    """Two tasks that wait for each other both end; with few events, one thread does all."""
    sharing = HelperThread()
    sharing._helper = ThreadPoolExecutor(1)
    both, ran = threading.Barrier(2, timeout=20), set()

    def meet(thread: int) -> None:
        both.wait()
        ran.add((thread, threading.get_ident()))

    sharing.run([meet, meet], WORTH_IT)
    assert {thread for thread, _ in ran} == {0, 1} and len({ident for _, ident in ran}) == 2
    alone: set[int] = set()
    sharing.run([lambda _: alone.add(threading.get_ident())] * 50, WORTH_IT - 1)
    assert alone == {threading.get_ident()}


def test_nobody_waits_for_a_thread_that_does_not_begin() -> None:
    """If the second thread is busy, as without a free core, the caller runs all tasks and returns."""
    sharing = HelperThread()
    sharing._helper = ThreadPoolExecutor(1)
    free = threading.Event()
    sharing._helper.submit(free.wait, 30)
    ran: list[int] = []
    sharing.run([ran.append] * 10, WORTH_IT)
    assert ran == [0] * 10
    free.set()


def test_an_error_is_raised_when_nothing_runs_any_more(sharing: HelperThread) -> None:
    """The error of any task reaches the caller, after the other thread has finished."""
    running: set[int] = set()

    def task(number: int, thread: int) -> None:
        running.add(thread)
        try:
            if number == 7:
                raise ValueError("seven")
        finally:
            running.discard(thread)

    for _ in range(20):
        with pytest.raises(ValueError, match="seven"):
            sharing.run([partial(task, number) for number in range(8)], WORTH_IT)
        assert not running
