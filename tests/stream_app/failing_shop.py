"""A small shop whose events go through processors with a model that may fail, and all their outputs."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from model.serving.runtime import Runtime
from stream_app.contract.events import Event, encode_json
from stream_app.contract.outputs import Flag, Prediction
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.processing.micro_batch import StepOutput
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.settings import Settings
from stream_app.settings.flag_limits import Rules
from tests.model.tiny import ITEMS
from tests.stream_app.helpers import Log, changelog

SETTINGS = Settings(
    resident_users=1000,
    max_batch=64,
    max_idle_ms=0,
    rules=Rules(clicks_1m=3, surprise_p=0.0, flag_cooldown_ms=0),
)
T0 = 1_760_000_000_000


def click(n: int, user: int, partition: int) -> Record:
    """Return the n-th record of a partition's clicks; the model does not know a few of the items."""
    name = f"u{partition}-{user}"
    event = Event(
        user_id=name, ts=T0 + 1000 * n, item_id=f"item-{n % (ITEMS + 3)}", category_id=f"category-{n % 6}"
    )
    return Record(INPUT_TOPICS[0], partition, n, T0 + 1000 * n, name.encode(), encode_json(event))


class Shop:
    """Clicks of seven users in each of two partitions, processed by processors, with all their outputs."""

    def __init__(
        self, runtime: Runtime | None, settings: Settings = SETTINGS, missing: str | None = None
    ) -> None:
        self.settings, self.runtime, self.missing = settings, runtime, missing
        self.now = 0.0
        self.next = [0, 0]
        self.fed = 0  # number of clicks per partition that have arrived
        self.committed = [0, 0]
        self.logs: list[Log] = [[], []]
        self.predictions: dict[str, Prediction] = {}
        self.flags: dict[str, Flag] = {}
        self.seen: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()
        self.start()

    def start(self) -> None:
        """Start a new process: state from the changelog, records from the committed offsets."""
        self.processor = ShopProcessor(self.settings, self.runtime, partitions=2)
        self.processor.survive_trouble(self.missing)
        for partition, log in enumerate(self.logs):
            self.processor.assign(partition, [self.committed[partition], 0, 0])
            if log:
                self.processor.restore(partition, changelog(log, partition))
            self.processor.restored(partition)
            for topic_index in (1, 2):
                self.processor.merge(partition).finish(topic_index)
        self.next = list(self.committed)

    def feed(self, n: int) -> None:
        """Let the next n clicks of each partition arrive."""
        for partition, at in enumerate(self.next):
            records = [click(i, i % 7, partition) for i in range(at, at + n)]
            self.processor.ingest(partition, 0, RecordColumns.of(records), at + n)
            self.next[partition] += n
        self.fed = max(self.fed, *self.next)

    def step(self, after_s: float = 0.0) -> StepOutput | None:
        """Process one micro-batch, some seconds later."""
        self.now += after_s
        out = self.processor.step(self.now)
        if out is not None:
            self.keep(out)
        return out

    def keep(self, out: StepOutput) -> None:
        """Send the messages of a micro-batch."""
        for name in ("degraded", "hidden_resets", "model_failures"):
            self.totals[name] += getattr(out, name)
        for (topic, partition), messages in out.outputs.items():
            message_type: Any = Prediction if topic == "predictions" else Flag
            for key, body, _ in messages:
                said = msgspec.json.decode(body or b"", type=message_type)
                assert key == said.user_id.encode()
                assert said.id.startswith(f"clicks-{partition}-")
                if message_type is Prediction:
                    self.seen[said.id] += 1
                    self.predictions[said.id] = said
                else:
                    self.flags[said.id] = said

    def run(self, n: int) -> None:
        """Process n clicks of each partition completely."""
        self.feed(n)
        while self.step() is not None:
            pass

    def checkpoint(self) -> bool:
        """Write the state records to the changelogs, then commit the offsets; return whether there were any."""
        made = [self.processor.checkpoint(partition, 1) for partition in (0, 1)]
        for checkpoint in made:
            if checkpoint is not None:
                self.logs[checkpoint.partition] += checkpoint.records.each()
                self.committed[checkpoint.partition] = checkpoint.positions[0]
        return any(made)

    def rows(self) -> dict[str, bytes]:
        """Return the row of each user without the times of flags, byte for byte."""
        users = self.processor.users
        held = {u: users.rows[s].copy() for p in (0, 1) for u, s in users.mapping(p).items()}
        for row in held.values():
            row["flagged"] = 0
        return {user: row.tobytes() for user, row in held.items()}

    def hidden(self) -> dict[str, np.ndarray]:
        """Return the hidden state of each user."""
        users = self.processor.users
        assert users.hidden is not None
        return {u: users.hidden.read(np.array([s]))[0] for p in (0, 1) for u, s in users.mapping(p).items()}

    def degraded(self) -> set[str]:
        """Return the ids of the degraded predictions."""
        return {id_ for id_, said in self.predictions.items() if said.degraded}


def ids(start: int, end: int) -> set[str]:
    """Return the ids of the clicks of both partitions."""
    return {f"clicks-{partition}-{n}" for partition in (0, 1) for n in range(start, end)}


def break_down(runtime: Runtime, error: Exception, *, half_way: bool = False) -> Callable[[], None]:
    """Let each step of the model raise (`half_way`: after it changed the states); return a call that repairs it."""
    step, probe = runtime.step, runtime.probe

    def broken(*args: Any, **kwargs: Any) -> Any:
        if half_way:
            step(*args, **kwargs)
        raise error

    runtime.step = broken  # type: ignore[method-assign]

    def mend() -> None:
        runtime.step = step  # type: ignore[method-assign]
        assert runtime.probe == probe

    return mend


def close(one: Prediction, two: Prediction) -> bool:
    """Whether two predictions agree within 1e-4; items with equal scores may change places."""
    if one.next_event is None or two.next_event is None:
        return one == two
    numbers = [
        [*msgspec.structs.astuple(p.next_event), p.purchase_probability, *(i.score for i in p.items)]
        for p in (one, two)
    ]
    return (one.id, one.user_id, one.degraded) == (two.id, two.user_id, two.degraded) and numbers[
        0
    ] == pytest.approx(numbers[1], abs=1e-4)
