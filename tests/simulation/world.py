"""One run: workers, records and trouble as the schedule decides, then no more trouble, then a check of the logs."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from stream_app.contract.records import INPUT_TOPICS, OUTPUT_TOPICS
from stream_app.contract.topics import SHOP
from stream_app.settings import Settings
from tests.simulation.broker import Broker
from tests.simulation.loop import SimLoop
from tests.simulation.records import Source
from tests.simulation.schedule import Schedule
from tests.simulation.verdict import judge, offsets_ahead
from tests.simulation.worker import Worker, on_the_model

PARTITIONS, USERS = 2, 5
SESSION_S = 3.0
#: Longest trouble in simulated seconds. The merge stops waiting for a topic that is silent for a minute.
TROUBLE_S = 20.0
#: Simulated seconds until recovery: an abandoned transaction ends after five, a session after three.
HEALING_S = 100.0


def settings_of(guarantee: str) -> Settings:
    """Return settings with small limits, so that little traffic reaches all of them."""
    return Settings(
        group="g",
        guarantee=guarantee,  # type: ignore[arg-type]
        web="",
        max_batch=4,
        resident_users=1000,
        commit_interval_ms=300,
        max_idle_ms=60_000,
        max_delay_ms=1,
        buffered_records=6,
        session_timeout_ms=int(SESSION_S * 1000),
        heartbeat_ms=700,
        transaction_timeout_ms=5_000,
    )


@dataclass
class Report:
    """The result of a run."""

    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


class World:
    """Everything in a run."""

    def __init__(
        self,
        schedule: Schedule,
        guarantee: str,
        *,
        implicit: bool = False,
        records: int = 36,
        tail_s: float = 8.0,
    ) -> None:
        """`implicit`: transactions have the second form. `records`: number of records sent until the end.

        `tail_s`: seconds that the run continues at the end, so that late requests still arrive.
        """
        self.schedule, self.guarantee, self.records, self._tail_s = schedule, guarantee, records, tail_s
        self.loop = SimLoop(schedule.thread_s)
        self.settings = settings_of(guarantee)
        self.changelog = SHOP.of(self.settings).changelog
        topics = [*INPUT_TOPICS, *OUTPUT_TOPICS, self.changelog]
        self.broker = Broker(
            topics, PARTITIONS, schedule, self.loop, SESSION_S, implicit, schedule.draw() % 2 == 1
        )
        self.source = Source(self.broker.logs, PARTITIONS, USERS)
        self.workers: list[Worker] = []
        self.story: list[str] = []
        self.early: list[str] = []  # problems found before the end
        if guarantee == "at_least_once":  # otherwise both are committed together
            self.broker.group.on_commit = lambda: self.early.extend(offsets_ahead(self))

    def note(self, what: str) -> None:
        """Record an event of the run, for the report."""
        self.story.append(f"{self.loop.time():8.3f}  {what}")

    def start(self) -> Worker:
        """Start one more worker."""
        worker = Worker(f"w{len(self.workers)}", self.loop, self.broker, self.schedule, self.settings)
        self.workers.append(worker)
        self.note(f"start {worker.name}")
        return worker

    @property
    def alive(self) -> list[Worker]:
        """Return the workers that have not died."""
        return [w for w in self.workers if w.process.alive]

    def run(self, scenario: Any) -> Report:
        """Run a scenario, end all trouble, and check the logs."""
        asyncio.set_event_loop(None)
        with on_the_model(self.loop, self.note):
            try:
                self.loop.run_until_complete(self._run(scenario))
                problems = judge(self)
            except Exception as error:
                problems = [f"the simulation failed: {error!r}"]
            finally:
                problems_of_workers = [
                    f"{w.name} crashed: {w.crash_reason!r}"
                    for w in self.workers
                    if w.crash_reason is not None
                ]
                self.loop.shut_down()
        counts = (
            dict(self.schedule.counts)
            | {
                "steps": sum(w.process.steps for w in self.workers),
                "deaths": sum(not w.process.alive for w in self.workers),
                "workers": len(self.workers),
                "rebalances": self.broker.group.rebalances,
                "gave up": len(problems_of_workers),
            }
            | Counter(f"gave up, {type(w.crash_reason).__name__}" for w in self.workers if w.crash_reason)
        )
        return Report(problems, counts, [*self.story, *problems_of_workers])

    async def _run(self, scenario: Any) -> None:
        await scenario(self)
        await self._heal()

    async def _heal(self) -> None:
        """End all trouble; give a healthy worker enough time."""
        self.schedule.quiet = True
        self.note("healing")
        for worker in self.alive:
            worker.process.dies_at = None
            worker.process.thaw()
            worker.link.mend()
        self.source.send(max(0, self.records - len(self.source.sent)))
        self.source.close()
        end = self.loop.time() + HEALING_S
        while self.loop.time() < end and not (self._finished() and self._settled()):
            while len(self.alive) < 1:
                self.start()
            await asyncio.sleep(0.5)
        # Late requests arrive now.
        await asyncio.sleep(self._tail_s)

    def _finished(self) -> bool:
        """Whether everything except the closing events is committed."""
        wanted: dict[tuple[str, int], int] = {}
        for sent in self.source.sent:
            if not sent.last:
                wanted[sent.topic, sent.partition] = sent.offset + 1
        offsets = self.broker.group.reached
        return all(offsets.get(where, 0) >= end for where, end in wanted.items())

    def _settled(self) -> bool:
        return not self.broker.transactions.undecided and not self.broker.group.pending


async def trouble(world: World) -> None:
    """The scenario that the schedule decides: the trouble between the records."""
    schedule, loop = world.schedule, world.loop
    for _ in range(1 + schedule.draw() % 2):
        world.start()
    world.source.send(6, schedule.draw())
    while not schedule.used_up and loop.time() < TROUBLE_S:
        await asyncio.sleep((0.2, 0.05, 0.6, 0.01, 1.5)[schedule.draw() % 5])
        act(world, schedule.draw(), schedule.draw())
    world.schedule.counts["trouble ms"] += int(loop.time() * 1000)


def act(world: World, what: int, which: int) -> None:
    """Cause one kind of trouble."""
    alive = world.alive
    worker = alive[which % len(alive)] if alive else None
    source, count = world.source, world.schedule.counts
    what %= 16
    if what <= 4:
        if len(source.sent) < world.records:
            source.send(1 + which % 5, which)
    elif what <= 6 or worker is None:
        if len(alive) < 3:
            world.start()
    elif what <= 8:
        # It dies some steps from now, at any place in the code.
        worker.process.dies_at = worker.process.steps + 1 + which * 3
        count["crashes"] += 1
        world.note(f"{worker.name} will die at step {worker.process.dies_at}")
    elif what <= 10:
        worker.link.cut = True
        count["cuts"] += 1
        world.note(f"{worker.name} is cut off")
        loop_s = (1.0, 2.5, 3.5, 5.0, 8.0)[which % 5]
        world.loop.outside(loop_s, _mend, world, worker)
    elif what == 11:
        worker.process.freeze()
        count["freezes"] += 1
        world.note(f"{worker.name} is frozen")
        world.loop.outside((0.5, 2.0, 4.0, 7.0)[which % 4], worker.process.thaw)
    elif what == 12:
        world.broker.group.rebalance()
        world.note("a rebalance")
    elif what == 13:
        # The group considers it dead although it is not.
        member = worker.app.sim_consumer._coordinator.member_id if worker.app else ""
        world.broker.group.leave(member)
        count["expelled"] += 1
        world.note(f"{worker.name} is expelled")
    elif what == 14:
        worker.stop()
        count["stops"] += 1
        world.note(f"{worker.name} is asked to stop")


def _mend(world: World, worker: Worker) -> None:
    if worker.link.cut:
        world.note(f"{worker.name} is connected again")
        worker.link.mend()
