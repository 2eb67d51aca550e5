"""The network between a worker and the broker: requests are answered, late or lost, or their answers are lost."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiokafka.errors import KafkaConnectionError, NodeNotReadyError

from tests.simulation.loop import SimLoop
from tests.simulation.schedule import Fate, Schedule

_PLAIN_S = (0.001, 0.001, 0.004, 0.03, 0.001, 0.1)

#: Gives an answer, immediately or later.
Reply = Callable[[Any], None]
#: Executes a request.
Serve = Callable[[Reply], None]


class Link:
    """The connections of one worker. Requests sent while it is cut arrive after the cut, or never."""

    def __init__(self, loop: SimLoop, schedule: Schedule) -> None:
        self._loop, self._schedule = loop, schedule
        self.cut = False
        self._late: list[Callable[[], None]] = []

    def mend(self) -> None:
        """Connect again: some requests that were sent meanwhile arrive now."""
        self.cut = False
        late, self._late = self._late, []
        for deliver in late:
            if self._schedule.draw() % 3 != 1:
                self._loop.outside(self._schedule.late_s() - 0.049, deliver)

    async def ask(
        self,
        serve: Serve,
        put_off: Callable[[bool], Any] | None = None,
        *,
        kind: str = "",
        plain: bool = False,
    ) -> Any:
        """Return the answer. Raises NodeNotReadyError for a request not sent, KafkaConnectionError without answer.

        `put_off(half)` returns the answer "not now"; `kind` is that of the request. `plain`: the request changes
        nothing, so only its connection can fail.
        """
        schedule, loop = self._schedule, self._loop
        if loop.closing:
            raise asyncio.CancelledError
        schedule.counts["requests"] += 1
        answer: asyncio.Future[Any] = loop.create_future()

        def settle(call: Callable[..., Any], what: Any) -> None:
            if not answer.done():
                call(what)

        def reply(what: Any) -> None:
            if not self.cut:
                loop.outside(latency_s(), settle, answer.set_result, what)

        def latency_s() -> float:
            # Most requests only read; decisions are kept for the others.
            return _PLAIN_S[schedule.counts["requests"] % len(_PLAIN_S)] if plain else schedule.latency_s()

        def ignore(_: Any) -> None: ...

        def no_answer(after: float) -> None:
            error = KafkaConnectionError("no answer")
            loop.outside(after, settle, answer.set_exception, error)

        if self.cut:
            schedule.counts["cut off"] += 1
            if schedule.draw() % 2:
                self._late.append(lambda: serve(ignore))
            no_answer(1.0)
            return await answer
        fate = Fate.ANSWERED if plain else schedule.fate(kind)
        schedule.counts[fate.value] += 1
        if fate is Fate.NOT_SENT:
            await asyncio.sleep(0.001)
            raise NodeNotReadyError("not connected")
        if fate in (Fate.NOT_NOW, Fate.HALF) and put_off is not None:
            half = fate is Fate.HALF
            if half:
                loop.outside(schedule.latency_s(), serve, ignore)
            loop.outside(0.3, reply, put_off(half))
            no_answer(20.0)
        elif fate in (Fate.LATE, Fate.LOST, Fate.MUTE):
            wait = schedule.wait_s()
            if fate is Fate.LATE:
                loop.outside(wait + schedule.late_s(), serve, ignore)
            elif fate is Fate.MUTE:
                loop.outside(min(schedule.latency_s(), wait), serve, ignore)
            no_answer(wait)
        else:
            loop.outside(latency_s(), self._arrive, serve, reply)
            no_answer(20.0)  # if the link was cut meanwhile
        return await answer

    def _arrive(self, serve: Serve, reply: Reply) -> None:
        if self.cut and self._schedule.draw() % 2:
            self._late.append(lambda: serve(reply))
        else:
            serve(reply)
