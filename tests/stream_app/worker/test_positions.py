"""The state and the group's offsets are compared as they were when the state was read back."""

from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from stream_app.contract.topics import SHOP
from stream_app.ops.health import Health
from stream_app.ops.metrics import Metrics
from stream_app.settings import load_settings
from stream_app.worker.context import WorkerContext
from stream_app.worker.transport import BatchConsumer
from stream_app.worker.watches import positions
from stream_app.worker.watches.positions import Positions

SETTINGS = load_settings(env={})
CLICKS, *OTHERS = (TP(topic, 0) for topic in SHOP.of(SETTINGS).inputs)


class Worker:
    """A worker's consumer without Kafka, and its processor, after the state of one partition was read back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, state: int, committed: int) -> None:
        self.state, self.committed, self.fresh = state, committed, True
        self.consumer = object.__new__(BatchConsumer)
        vars(self.consumer).update(seeks=0, found={}, _expected={}, done={}, _thread=self)
        app: Any = SimpleNamespace(consumer=self.consumer)
        processor: Any = SimpleNamespace(
            partitions=[0],
            topics=SHOP.of(SETTINGS),
            is_restored=lambda _: True,
            is_fresh=lambda _: self.fresh,
            written=lambda _: [self.state, 0, 0],
            merge=lambda _: SimpleNamespace(positions=[self.committed, 0, 0]),
            compared=self.compared,
        )
        self.positions = Positions(WorkerContext(app, processor, Metrics(), Health(1000)))
        self.said: list[str] = []
        monkeypatch.setattr(positions, "log", SimpleNamespace(warning=self.said.append))

    async def seek_back(self) -> tuple[dict[TP, int | None], dict[TP, int]]:
        """Act like the thread of the consumer."""
        return {CLICKS: self.committed, **dict.fromkeys(OTHERS)}, {CLICKS: self.committed}

    def log_end(self, _: TP) -> None:
        """The log end is unknown."""

    def compared(self, *_: Any) -> None:
        self.fresh = False


async def test_own_commits_are_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a dropped batch the worker goes back to its own commit since it read the state."""
    worker = Worker(monkeypatch, state=10, committed=10)
    await worker.consumer.seek_to_committed()
    worker.committed = 15
    await worker.consumer.seek_to_committed()
    worker.positions.look()
    assert not worker.said
    assert not worker.fresh


async def test_offsets_that_lie_behind_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets moved by somebody else are still reported, once, with the offsets of that time."""
    worker = Worker(monkeypatch, state=10, committed=12)
    await worker.consumer.seek_to_committed()
    worker.committed = 15
    await worker.consumer.seek_to_committed()
    worker.positions.look()
    worker.positions.look()
    (sentence,) = worker.said
    assert sentence.startswith("offsets 10 to 11 of clicks-0 are not in the state")


async def test_offsets_of_an_earlier_assignment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer to a request from before an assignment does not count for the new assignment."""
    worker = Worker(monkeypatch, state=10, committed=10)
    seek_back = worker.seek_back

    async def late() -> Any:
        answer = await seek_back()
        worker.consumer.found = {}  # like `on_partitions_assigned`
        return answer

    monkeypatch.setattr(worker, "seek_back", late)
    await worker.consumer.seek_to_committed()
    assert not worker.consumer.found
