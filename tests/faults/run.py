"""One run: events flow, faults strike by a seeded schedule, all faults end, the checker compares."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.checker import Findings, check, check_positions
from tests.faults.cluster import Cluster
from tests.faults.events import TOPICS, Plan, Sender
from tests.faults.faults import DECK, Fault, Hands, MissedError, deal, name_of
from tests.faults.topics import Seen, committed, read_topic
from tests.faults.truth import read_inputs
from tests.integration.harness import make_topics, wait_for

STALL_LIMIT_S = 120.0  # without a new prediction for so long while some are due, the workers are stuck
HEAL_LIMIT_S = 180.0
LOOKED_UP = 40  # number of users
Say = Callable[[str], None]


@dataclass(frozen=True)
class Config:
    """The settings of a run; the same settings give the same events, and the same faults in the same order."""

    seed: int
    seconds: float
    guarantee: str = "at_least_once"
    rate: float = 800.0  #: events per second
    users: int = 400
    partitions: int = 4
    slots: int = 3  #: slots for workers; at least two are used
    deck: tuple[Fault, ...] = DECK
    first: tuple[Fault, ...] = ()  #: faults that come before the others
    gap_s: tuple[float, float] = (0.5, 3.0)  #: seconds between two faults

    @property
    def plan(self) -> Plan:
        """Return the events."""
        each = max(4, 4 * round(self.rate * self.seconds / self.users / 4))
        return Plan(self.seed, self.users, each, self.partitions)


@dataclass
class Result:
    """The result of a run."""

    findings: Findings = field(default_factory=Findings)
    counted: Counter[str] = field(default_factory=Counter)  #: faults that struck work in flight, by kind
    idle: Counter[str] = field(default_factory=Counter)  #: faults that did not, or had no effect
    exits: Counter[str] = field(
        default_factory=Counter
    )  #: workers that ended by themselves, by the last line of their logs
    started: int = 0  #: number of workers
    healed_s: float = 0.0  #: seconds from the last event to the last answer

    @property
    def problems(self) -> list[str]:
        """Return all problems; none if the run passed."""
        return self.findings.problems


class Run:
    """A run in progress."""

    def __init__(self, config: Config, folder: Path, prefix: str, say: Say) -> None:
        """`folder` gets the broker and the logs, `prefix` is that of the topics, `say` gets a line per fault."""
        self.config, self.say = config, say
        self.result = Result()
        self._plan = config.plan
        self._prefix = prefix
        self._rng = random.Random(config.seed + 1)
        self._cluster = Cluster(folder, prefix, config.guarantee, config.slots)
        self._progress = (0, 0.0)  # number of predictions, and the time of the last new one
        self._seen: Seen | None = None
        self._sender: Sender | None = None
        self._start = 0.0

    def run(self) -> Result:
        """Run from start to end and return the result."""
        cluster, config = self._cluster, self.config
        with cluster.running():
            bootstrap = cluster.broker.bootstrap
            asyncio.run(make_topics(bootstrap, self._prefix, config.partitions))
            isolation = "read_committed" if config.guarantee == "exactly_once" else "read_uncommitted"
            self._seen = Seen(bootstrap, f"{self._prefix}predictions", isolation).start()
            self._sender = Sender(bootstrap, self._prefix, self._plan, config.rate)
            self._keep()
            for slot in cluster.alive():
                assert slot.worker is not None
                slot.worker.wait_ready(120)
            self._start = time.monotonic()
            self._progress = (0, self._start)
            self._sender.start()
            try:
                self._cause_faults()
                self._heal()
            except AssertionError as error:
                raise AssertionError(f"{error}\nended so far: {cluster.exits}\n{cluster.logs()}") from error
            finally:
                self._sender.stop()
                self._seen.stop()
            self.result.findings.problems += self._stop_workers()
            self.say("reading all topics")
            found = check(bootstrap, self._prefix, cluster.group, self._plan, config.guarantee)
            self.result.findings.problems += found.problems
            self.result.findings.numbers = {"events": len(self._plan), **found.numbers}
            self.result.exits = cluster.exits
        return self.result

    # --- faults

    def _cause_faults(self) -> None:
        assert self._sender is not None and self._seen is not None
        hands = Hands(self._cluster, self._rng, self._keep, self._open)
        for fault in deal(self._rng, self.config.deck, self.config.first):
            self._wait(self._rng.uniform(*self.config.gap_s))
            if (
                self._rng.random() < 0.5
            ):  # otherwise the next fault strikes while the last one still has effects
                self._catch_up()
            if not self._sender.running:
                break
            name = name_of(fault)
            try:
                in_flight = fault(hands)
            except MissedError:
                in_flight = False
            if not in_flight and not self._sender.running:
                break  # no events are left to process
            (self.result.counted if in_flight else self.result.idle)[name] += 1
            self._note(f"{name}{'' if in_flight else ': nothing was in flight'}")

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        wait_for("time to pass", lambda: self._keep() or time.monotonic() >= end, seconds + 60)

    def _open(self) -> int:
        """Return the number of events sent and not answered."""
        assert self._sender is not None and self._seen is not None
        return self._sender.acknowledged - self._seen.count

    def _catch_up(self) -> None:
        assert self._sender is not None
        sender, few = self._sender, 2 * self.config.rate
        wait_for(
            "answers to catch up",
            lambda: self._keep() or not sender.running or self._open() < few,
            HEAL_LIMIT_S,
        )

    def _note(self, text: str) -> None:
        assert self._seen is not None
        now = time.monotonic() - self._start
        self.say(f"{now:7.1f} s  {self._seen.count:>9,} answered, {self._open():>7,} open  {text}")

    def _keep(self) -> None:
        """Keep at least two workers running; fail if no answers arrive."""
        assert self._seen is not None and self._sender is not None
        empty = self._cluster.empty()
        while empty and len(self._cluster.alive()) < 2:
            slot = empty.pop(self._rng.randrange(len(empty)))
            self._cluster.start(slot)
            self.result.started += 1
        count, now = self._seen.count, time.monotonic()
        if count != self._progress[0] or count == self._sender.acknowledged:
            self._progress = (count, now)
        assert not self._start or now - self._progress[1] < STALL_LIMIT_S, (
            f"no new prediction for {STALL_LIMIT_S:.0f} s while some are due: {self._sender.acknowledged - count}"
        )

    # --- the end

    def _heal(self) -> None:
        """End all faults and wait until every event has its answer and offsets reach the last event."""
        assert self._sender is not None and self._seen is not None
        cluster, seen = self._cluster, self._seen
        for slot in cluster.slots:
            slot.gate.disarm()
            slot.gate.release()
        self._sender.finish(HEAL_LIMIT_S)
        start = time.monotonic()
        due = len(self._plan)
        wait_for(f"the last of {due} answers", lambda: self._keep() or seen.count >= due, HEAL_LIMIT_S)
        self.result.healed_s = time.monotonic() - start
        self._note("healed")
        bootstrap, names = cluster.broker.bootstrap, [self._prefix + topic for topic in TOPICS]
        inputs = read_inputs((m for name in names for m in read_topic(bootstrap, name)), self._prefix)

        def offsets_behind_it() -> bool:
            self._keep()
            found = committed(bootstrap, cluster.group, names, self._plan.partitions)
            at = {(t.removeprefix(self._prefix), p): o for t, by in found.items() for p, o in enumerate(by)}
            return not check_positions(at, inputs, "committed offset")

        wait_for("the last offsets to be committed", offsets_behind_it, 60.0, 0.2)
        try:
            wait_for("look-ups to show the right counts", self._looked_up, 30.0, 0.5)
        except AssertionError as error:  # the checker gives more details
            self.result.findings.problems.append(str(error))

    def _looked_up(self) -> bool:
        """Whether, for some users, the page of exactly one worker shows the right number of events."""
        self._keep()
        asked = random.Random(self.config.seed).sample(range(self._plan.users), LOOKED_UP)
        return all(self._look_up(f"u{user}") == [self._plan.each] for user in asked)

    def _look_up(self, user: str) -> list[int]:
        found = []
        for slot in self._cluster.thawed():
            assert slot.worker is not None
            try:
                status, page = slot.worker.get(f"/users/{user}/")
            except OSError:
                continue  # it is still starting, or has just ended
            if status == 200:
                found.append(page["events"])
        return found

    def _stop_workers(self) -> list[str]:
        problems = []
        for slot in self._cluster.alive():
            assert slot.worker is not None
            slot.worker.wait_ready(HEAL_LIMIT_S)  # a worker that is still starting cannot stop cleanly
            code = slot.worker.stop()
            if code:
                problems.append(f"{slot} ended with {code} at the end:\n{slot.worker.text()[-2000:]}")
        return problems


def tell(result: Result) -> str:
    """Return the result as text."""
    numbers = ", ".join(f"{n:,} {name}" for name, n in result.findings.numbers.items())
    lines = [
        f"{result.counted.total()} faults with work in flight, {result.idle.total()} that do not count",
        *(f"  {n:4} {name}" for name, n in sorted(result.counted.items())),
        f"{result.started} workers started; ended by themselves:",
        *(f"  {n:4} {why}" for why, n in result.exits.most_common()),
        numbers,
        f"the last answer came {result.healed_s:.1f} s after the last event",
    ]
    if result.problems:
        lines += [f"{len(result.problems)} problems:", *result.problems]
    else:
        lines.append("state, outputs and offsets are correct")
    return "\n".join(lines)
