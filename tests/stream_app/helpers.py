"""A processor that tests drive: records arrive in any order and any chunks, micro-batches run, the worker crashes."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from model.serving.runtime import Runtime
from stream_app.contract.outputs import Flag, Prediction
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.processing.micro_batch import Checkpoint, StepOutput
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.settings import Settings
from stream_app.settings.flag_limits import Rules
from stream_app.state.row_layout import ROW
from stream_app.state.users import META_KEY
from tests.stream_app.strategies import T0

#: Low limits, so that short streams reach them; no topic ever counts as idle.
SETTINGS = Settings(
    max_idle_ms=60_000,
    max_batch=7,
    resident_users=100,
    rules=Rules(clicks_1m=2, distinct_items=3, purchases_1h=2, amount_jump=2.0, flag_cooldown_ms=5000),
)

Log = list[tuple[bytes | None, bytes | None]]


def changelog(log: Log, partition: int = 0) -> RecordColumns:
    """Return keys and values, at least one, as records of a changelog."""
    return RecordColumns.of(
        [Record("users", partition, i, 0, key, value) for i, (key, value) in enumerate(log)]
    )


class Worker:
    """One partition, processed by one processor after the other, with all their outputs."""

    def __init__(
        self,
        topics: Sequence[Sequence[Record]],
        settings: Settings = SETTINGS,
        runtime: Runtime | None = None,
    ) -> None:
        self.topics = topics
        self.settings = settings
        self.runtime = runtime
        self.log: Log = []  # the changelog
        self.committed = [[0, 0, 0]]  # source offsets of all commits
        self.outputs: dict[tuple[str, str], bytes] = {}  # value of each output by topic and id
        self.order: list[str] = []  # ids of the predictions in the order of sending
        self.totals = np.zeros(4, np.int64)  # late, duplicate, replayed and evicted in all micro-batches
        self.start([0, 0, 0])

    def start(self, positions: Sequence[int], log: Log | None = None, at_once: int = 1000) -> None:
        """Start a new processor, which reads the changelog, then the topics from `positions`."""
        self.processor = ShopProcessor(self.settings, self.runtime, partitions=1)
        self.processor.assign(0, positions)
        self.next = list(positions)
        log = self.log if log is None else log
        for start in range(0, len(log), at_once):
            self.processor.restore(0, changelog(log[start : start + at_once]))
        self.processor.restored(0)

    def feed(self, topic_index: int, n: int) -> None:
        """Let the next n records of a topic arrive."""
        records = self.topics[topic_index][self.next[topic_index] : self.next[topic_index] + n]
        self.next[topic_index] += len(records)
        if records:
            self.processor.ingest(0, topic_index, RecordColumns.of(records), self.next[topic_index])
        self.keep_dead_letters()

    def keep_dead_letters(self) -> None:
        """Send the dead letters that are due."""
        for (topic, _), messages in self.processor.dead_letters().items():
            for _, value, headers in messages:
                source = dict(headers)
                place = (source[f"__streams.errors.{name}"].decode() for name in ("topic", "offset"))
                self.keep(topic, "-".join(place), value or b"")

    def step(self) -> StepOutput | None:
        """Process one micro-batch."""
        output = self.processor.step(0.0)
        self.keep_dead_letters()
        if output is not None:
            self.totals += [output.late, output.duplicates, output.already_applied, output.evicted]
            for (topic, _), messages in output.outputs.items():
                message_type = Prediction if topic == "predictions" else Flag
                for key, body, _ in messages:
                    said: Any = msgspec.json.decode(body or b"", type=message_type)
                    assert key == said.user_id.encode()
                    self.keep(topic, said.id, body or b"")
                    if message_type is Prediction:
                        self.order.append(said.id)
        return output

    def keep(self, topic: str, id_: str, body: bytes) -> None:
        """Send an output; a repeat must have the same content."""
        known = self.outputs.setdefault((topic, id_), body)
        if self.runtime is None:
            assert known == body

    def checkpoint(self) -> Checkpoint | None:
        """Write the state records to the changelog, then commit the offsets."""
        made = self.processor.checkpoint(0, 1)
        if made is not None:
            self.log += made.records.each()
            self.committed.append(made.positions)
        return made

    def crash_during_checkpoint(self, share: float) -> None:
        """Crash after a part of the state records is written."""
        made = self.processor.checkpoint(0, 1)
        if made is not None:
            self.log += made.records.each()[: int(share * len(made.records))]
        self.start(self.committed[-1])

    def finish(self) -> "Worker":
        """Let all remaining records arrive and process them."""
        for topic_index in range(len(INPUT_TOPICS)):
            self.feed(topic_index, len(self.topics[topic_index]))
            self.processor.merge(0).finish(topic_index)
        while self.step() is not None:
            pass
        return self

    def rows(self) -> dict[str, bytes]:
        """Return the row of each user, byte for byte."""
        users = self.processor.users
        users.rows["flagged"] = users.flagged  # like a checkpoint
        return {user: users.rows[slot].tobytes() for user, slot in users.mapping(0).items()}

    def hidden(self) -> dict[str, bytes]:
        """Return the hidden state of each user, byte for byte."""
        users = self.processor.users
        assert users.hidden is not None
        return {
            user: users.hidden.read(np.array([slot])).tobytes() for user, slot in users.mapping(0).items()
        }

    def ends(self) -> tuple[int, int, list[int]]:
        """Return the state of the partition itself."""
        processor = self.processor
        return int(processor.watermark[0]), int(processor.sequence[0]), processor.merge(0).positions


def state_keys(made: Checkpoint) -> set[bytes]:
    """Return the users in a checkpoint, including tombstones."""
    return {key for key, _ in made.records.each() if key is not None} - {META_KEY}


def move(worker: Worker, what: str, a: int, b: int) -> None:
    """Do one thing that can happen to a worker."""
    if what == "feed":
        worker.feed(a, b)
    elif what == "step":
        worker.step()
    elif what == "checkpoint":
        worker.checkpoint()
    elif what == "expire":
        worker.processor.expire(0)
    elif what == "rewind":
        worker.processor.rewind()
        worker.next = worker.processor.merge(0).positions
    else:
        worker.start(worker.committed[-1 - a % len(worker.committed)], at_once=b)


def with_trouble(topics: list[list[Record]], where: list[tuple[int, int]]) -> list[list[Record]]:
    """Return the topics with invalid records in between."""
    for topic_index, at in where:
        log = topics[topic_index]
        log.insert(min(at, len(log)), Record(INPUT_TOPICS[topic_index], 0, 0, T0, b"u0", b"{broken"))
    return [[r._replace(offset=i) for i, r in enumerate(log)] for log in topics]


def same(one: Worker, other: Worker, *, ignore: tuple[str, ...] = ()) -> None:
    """Check that both have the same outputs and the same state."""
    assert one.outputs == other.outputs
    rows = [{u: np.frombuffer(row, ROW).copy() for u, row in w.rows().items()} for w in (one, other)]
    for each in rows:
        for row in each.values():
            for name in ignore:
                row[name] = 0
    assert {u: r.tobytes() for u, r in rows[0].items()} == {u: r.tobytes() for u, r in rows[1].items()}
    assert one.ends() == other.ends()
