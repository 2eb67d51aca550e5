"""An event loop with its own clock: whole processes run in it, and can die or freeze between two steps."""

import asyncio
import contextvars
import heapq
import warnings
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

#: Unix time at which every simulation begins, in seconds.
EPOCH_S = 1_700_000_100.0
#: Largest number of steps: a simulation that needs more fails.
MOST_STEPS = 200_000

_OWNER: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("owner", default=None)
_OUTSIDE = contextvars.Context()  # context of broker and network, which belong to no process


class Process:
    """A process of the simulated world. The loop recognises what it started by the context."""

    def __init__(self, loop: "SimLoop", name: str) -> None:
        self._loop, self.name = loop, name
        loop.processes.append(self)
        self.alive = True
        self.frozen = False
        self.steps = 0
        #: The step at which it dies; a step goes from one await to the next.
        self.dies_at: int | None = None
        self.held: list[Any] = []
        self._context = contextvars.copy_context()
        self._context.run(_OWNER.set, self)
        self.on_death: Callable[[], None] = lambda: None

    def run(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Start a task of this process."""
        return self._loop.create_task(work, context=self._context)

    def die(self) -> None:
        """Kill the process: from now on none of its code runs, not even to clean up."""
        if self.alive:
            self.alive = False
            self.on_death()

    def freeze(self) -> None:
        """Stop the process; its timers continue meanwhile."""
        self.frozen = True

    def thaw(self) -> None:
        """Continue the process where it stopped."""
        self.frozen = False
        if self.alive:
            held, self.held = self.held, []
            self._loop.again(held)


class SimLoop(asyncio.BaseEventLoop):
    """Time jumps to the next timer when nothing is ready. Calls in an executor run in the loop, some steps later."""

    def __init__(self, thread_s: Callable[[], float] = lambda: 0.0) -> None:
        """`thread_s` returns how long the next call in an executor takes, in simulated seconds."""
        super().__init__()
        self.now = 0.0
        self.steps = 0
        self._thread_s = thread_s
        self.closing = False
        self.errors: list[str] = []
        self.processes: list[Process] = []
        self._busy_until: dict[Any, float] = {}
        # A task without a reference would be collected, and then its `finally` blocks would run, which never
        # happens in a process that died.
        self._tasks: list[asyncio.Task[Any]] = []
        self.set_task_factory(self._make_task)
        self.set_exception_handler(lambda _, context: self.errors.append(str(context)))
        self._clock_resolution = 1e-9

    def _make_task(self, loop: Any, work: Any, **options: Any) -> "asyncio.Task[Any]":
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        self._tasks.append(task)
        return task

    def time(self) -> float:
        """Simulated seconds since the beginning."""
        return self.now

    @property
    def clock(self) -> SimpleNamespace:
        """A replacement for the module `time`."""
        return SimpleNamespace(
            monotonic=lambda: self.now,
            perf_counter=lambda: self.now,
            time=lambda: EPOCH_S + self.now,
        )

    def outside(self, delay: float, call: Callable[..., Any], *args: Any) -> None:
        """Make a call that belongs to no process, some simulated seconds from now."""
        if not self.closing:
            self.call_at(self.now + delay, call, *args, context=_OUTSIDE)

    def again(self, handles: list[Any]) -> None:
        """Put held handles back."""
        self._ready.extend(handles)  # type: ignore[attr-defined]

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> "asyncio.Future[Any]":
        """Run the call later, in the process that requested it."""
        done: asyncio.Future[Any] = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(result)

        # An executor has one thread, which runs one call after the other.
        self._busy_until[executor] = (
            max(self.now, self._busy_until.get(executor, 0.0)) + self._thread_s() + 1e-6
        )
        self.call_at(self._busy_until[executor], work)
        return done

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        if not ready:
            if not scheduled:
                raise RuntimeError("the simulation waits forever: no step and no timer is left")
            self.now = max(self.now, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self.now:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            if not timer._cancelled:
                ready.append(timer)
        if not ready:
            return
        handle = ready.popleft()
        if handle._cancelled:
            return
        owner = handle._context.get(_OWNER)
        if owner is not None and not self.closing:
            if not owner.alive or owner.frozen:
                owner.held.append(handle)
                return
            owner.steps += 1
            if owner.dies_at is not None and owner.steps >= owner.dies_at:
                owner.held.append(handle)
                owner.die()
                return
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise RuntimeError(f"the simulation did not end within {MOST_STEPS} steps")
        handle._run()

    def _process_events(self, event_list: Any) -> None: ...

    def _write_to_self(self) -> None: ...

    def shut_down(self) -> None:
        """End the remains of all processes, so that none of their code runs when they are collected."""
        self.closing = True
        self.steps = 0
        held = [handle for process in self.processes for handle in process.held]
        self.again(held)
        for _ in range(20):
            left = [task for task in self._tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            for _ in range(5000):
                if not self._ready:  # type: ignore[attr-defined]
                    break
                self.call_soon(self.stop)
                self.run_forever()
        for task in self._tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            if task.done() and not task.cancelled():
                task.exception()  # seen
        with warnings.catch_warnings():
            # For coroutines of tasks that had not started when their process died.
            warnings.simplefilter("ignore", RuntimeWarning)
            self._tasks.clear()
            self.processes.clear()
            held.clear()
        self.close()


def owner() -> Process:
    """Return the process whose code runs."""
    process = _OWNER.get()
    assert process is not None, "no process runs"
    return process


def name_of_owner() -> str:
    """Return its name, for messages."""
    process = _OWNER.get()
    return process.name if process is not None else "nobody"
