"""Many joins, leaves and kills of workers during traffic: no event is lost or twice in the state."""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from stream_app.lab.broker import EmbeddedKafka
from tests.faults.checker import check, check_positions
from tests.faults.events import TOPICS, Plan, Sender
from tests.faults.topics import Seen, committed, read_topic
from tests.faults.truth import read_inputs
from tests.integration.harness import Start, Worker, make_topics, wait_for

PARTITIONS, MOST = 4, 4  # workers
#: Number of changes of the group per guarantee. TAKEOVERS_TIMES=2 doubles it.
TIMES = int(os.environ.get("TAKEOVERS_TIMES") or 1)
CHANGES = {"at_least_once": 25 * TIMES + 1, "exactly_once": 11 * TIMES}
RATE = 400.0  # events per second
FLOW = 200  # number of answers before a kill, so that work is in flight
HEAL_S = 90.0
SETTINGS = {
    "session_timeout_ms": 1500,
    "heartbeat_ms": 300,
    "commit_interval_ms": 100,
    # The merge waits so long for a silent topic that no change of the group changes the order of events.
    "max_idle_ms": 60_000,
    "resident_users": 20_000,
    "max_batch": 256,
    "web": "",  # no pages
}
pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240 * TIMES)]


def alive(worker: Worker) -> bool:
    """Whether the worker's process runs."""
    return worker.process.poll() is None


class Group:
    """The running workers, and the results of the others."""

    def __init__(
        self,
        start: Callable[[str], Worker],
        answers: Callable[[], int],
        more: Callable[[], None],
        draw: random.Random,
    ) -> None:
        """`start` starts a worker by name, `answers` counts the answers, `more` allows more events before a kill."""
        self._start, self._answers, self._more, self._draw = start, answers, more, draw
        self.members: list[Worker] = []
        self.leaving: list[Worker] = []
        self.done: Counter[str] = Counter()
        self.ended: list[str] = []  #: workers that ended by themselves

    def change(self) -> None:
        """Let a worker join, leave or be killed at work, whether or not the change before is over."""
        if len(self.members) <= 1 or (len(self.members) < MOST and self._draw.random() < 0.5):
            self.join()
        elif self.done["leave"] > self.done["kill"]:
            before = self._answers()
            self._more()
            wait_for("answers to flow", lambda: self.keep() or self._answers() > before + FLOW)
            self.members.pop(self._draw.randrange(len(self.members))).kill()
            self.done["kill"] += 1
        else:  # a worker at the beginning of its start does not handle SIGTERM yet
            ready = wait_for("a worker that can leave", lambda: self.keep() or self._at_work())
            leaver = self._draw.choice(ready)
            self.members.remove(leaver)
            self.leaving.append(leaver)
            leaver.process.terminate()
            self.done["leave"] += 1

    def join(self) -> None:
        """Start one more worker."""
        self.members.append(self._start(f"worker-{self.done['join']}"))
        self.done["join"] += 1

    def keep(self) -> None:
        """Keep at least one worker running, like a supervisor."""
        for worker in [each for each in self.members if not alive(each)]:
            self.members.remove(worker)
            said = worker.text()[-2000:]
            self.ended.append(f"{worker.log} ended with {worker.process.returncode}:\n{said}")
        assert len(self.ended) < 10, "\n".join(self.ended)
        if not self.members:
            self.join()

    def _at_work(self) -> list[Worker]:
        return [each for each in self.members if "partitions assigned" in each.text()]

    def wait_at_work(self) -> None:
        """Wait until all workers have completed a rebalance."""
        wait_for("the workers to begin", lambda: self.keep() or self._at_work() == self.members)

    def leave(self) -> list[int]:
        """Stop all workers; return the exit codes of all that ever left."""
        self.wait_at_work()
        for worker in self.members:
            worker.process.terminate()
        self.leaving += self.members
        self.members = []
        return [worker.wait_end(40)[0] for worker in self.leaving]

    def kill(self) -> None:
        """Kill the remaining workers."""
        for worker in [*self.members, *self.leaving]:
            worker.kill()


@pytest.mark.parametrize(("guarantee", "changes"), CHANGES.items())
def test_many_changes_of_the_group(
    kafka: EmbeddedKafka, prefix: str, tmp_path: Path, start: Start, guarantee: str, changes: int
) -> None:
    """During traffic, workers join, leave and are killed. The checker, which shares no code with the product,
    finds that each event is answered, state and offsets are exact, and with `exactly_once` no answer is repeated.
    """
    plan = Plan(7, 200, 4 * (changes // 2 + 1), PARTITIONS)
    name = f"{prefix}group"
    settings = {**SETTINGS, "guarantee": guarantee}
    asyncio.run(make_topics(kafka.bootstrap, prefix, PARTITIONS))
    seen = Seen(kafka.bootstrap, f"{prefix}predictions", "read_committed").start()
    group = Group(
        lambda name: start(tmp_path / name, kafka.bootstrap, prefix, **settings),
        lambda: seen.count,
        lambda: allow(sender.acknowledged + FLOW + FLOW // 2),
        random.Random(3),
    )
    sender = Sender(kafka.bootstrap, prefix, plan, RATE)
    sender.most = 0

    def due(change: int) -> int:
        return len(plan) * change // (changes + 2)

    def allow(events: int) -> None:
        """Return how many events may be sent before a change, so that they never end before the changes."""
        sender.most = min(len(plan) - 1, max(sender.most, events))

    try:
        group.join()
        group.wait_at_work()
        sender.start()
        for change in range(1, changes + 1):
            allow(due(change + 1))  # so that events are in flight at each change
            wait_for(
                f"event {due(change)}", lambda n=change: group.keep() or sender.acknowledged >= due(n) - 40
            )
            group.change()
        assert sender.running, "all events were sent before the last change, so the test covers too little"
        sender.most = len(plan)
        sender.finish(HEAL_S)
        wait_for(f"{len(plan)} answers", lambda: group.keep() or seen.count >= len(plan), HEAL_S)
        _wait_for_offsets(kafka.bootstrap, prefix, name, group)
        codes = group.leave()
    finally:
        sender.stop()
        seen.stop()
        group.kill()
    print(dict(group.done), f"{seen.repeats} predictions repeated; by themselves:", *group.ended)
    findings = check(kafka.bootstrap, prefix, name, plan, guarantee)
    assert not findings.problems, "\n".join(findings.problems)
    assert group.done.total() > changes and min(group.done["leave"], group.done["kill"]) > changes // 6, (
        group.done
    )
    assert not any(codes), f"workers that were asked to leave ended with {codes}"


def _wait_for_offsets(bootstrap: str, prefix: str, name: str, group: Group) -> None:
    topics = [prefix + topic for topic in TOPICS]
    inputs = read_inputs((m for topic in topics for m in read_topic(bootstrap, topic)), prefix)

    def behind_the_last_event() -> bool:
        group.keep()
        found = committed(bootstrap, name, topics, PARTITIONS)
        at = {(t.removeprefix(prefix), p): o for t, by in found.items() for p, o in enumerate(by)}
        return not check_positions(at, inputs, "committed offset")

    wait_for("the last offsets to be committed", behind_the_last_event, HEAL_S, 0.2)
