"""A recording through the engine without a broker: `foreclick run`, training and evaluation."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from model.data.interactions import Interactions
from model.serving.runtime import Runtime
from stream_app.contract.events import MIN_TS_MS, Event, encode_json, encode_msgpack
from stream_app.contract.outputs import REASON_HEADER
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.decoding.name_table import Names
from stream_app.errors import ForeclickError
from stream_app.kafka.record_batches.builder import build
from stream_app.processing.micro_batch import Outputs, StepOutput
from stream_app.processing.shop_processor import Engine
from stream_app.recordings.recording import RecordingReader
from stream_app.settings import Settings
from stream_app.state.apply_events import LATE

#: Records read at a time.
CHUNK = 8192

Progress = Callable[[int, int], None]  # records done, records in all


class ReplayError(ForeclickError):
    """A recording that the processor cannot be fed from."""


def warm_up(settings: Settings, runtime: Runtime | None) -> None:
    """Compiles, or loads from its cache, all that is compiled, so that no live event waits for it."""
    if runtime is not None:
        runtime.warm_up()
    small = msgspec.structs.replace(settings, resident_users=16, max_batch=16, topic_prefix="")
    engine = Engine(small, runtime, partitions=1)
    engine.assign(0, [0] * len(INPUT_TOPICS))
    engine.restored(0)
    for kind, topic in enumerate(INPUT_TOPICS):
        events = [Event(user_id="warm", ts=MIN_TS_MS + i, item_id="up", price=1.0) for i in (1, 2)]
        values = [*map(encode_json, events), encode_msgpack(events[0])]  # both ways through the decoder
        records = [Record(topic, 0, i, MIN_TS_MS + 2, b"warm", value) for i, value in enumerate(values)]
        engine.ingest(0, kind, RecordColumns.of(records), len(records))
    output, checkpoint = engine.step(0.0, ended=True), engine.checkpoint(0, 0)
    if output is None or checkpoint is None:
        raise AssertionError("the events of the warm-up were not processed")
    for messages in (*(columns for *_, columns in output.columns), checkpoint.records):
        for batch in build(*messages.arrays(), timestamp=0, limit=1024, compression=0, transactional=False):
            batch._build()  # its checksum, as the producer does
    engine.look_up("warm")
    log = [Record("", 0, i, 0, key, value) for i, (key, value) in enumerate(checkpoint.records.each())]
    engine.restore(0, RecordColumns.of(log))


def partitions_of(reader: RecordingReader) -> int:
    """How many partitions the recorded input topics have. Raises ReplayError where they differ or are absent."""
    counts = {topic: n for topic, n in reader.topics.items() if topic in INPUT_TOPICS}
    if not counts:
        raise ReplayError(f"{reader.path} holds none of the topics {', '.join(INPUT_TOPICS)}")
    if len(set(counts.values())) > 1:
        raise ReplayError(f"{reader.path}: the input topics have different numbers of partitions: {counts}")
    return next(iter(counts.values()))


def drive(
    engine: Engine, reader: RecordingReader, progress: Progress | None = None
) -> Iterator[StepOutput | None]:
    """Feeds a whole recording to an engine; yields each micro-batch's output, None where there was none.

    Events are merged as a worker merges them that never has to stop waiting for a topic, since the end of each
    topic is known here.
    """
    ahead = Counter((r.topic, r.partition) for r in reader)
    total = sum(ahead.values())
    for partition in range(partitions_of(reader)):
        engine.assign(partition, [0] * len(INPUT_TOPICS))
        engine.restored(partition)
        for kind, topic in enumerate(INPUT_TOPICS):
            if not ahead[topic, partition]:
                engine.merge(partition).finish(kind)
    done = 0
    for chunk in reader.batches(CHUNK):
        by_partition: dict[tuple[str, int], list[Record]] = {}
        for record in chunk:
            by_partition.setdefault((record.topic, record.partition), []).append(record)
        for (topic, partition), records in by_partition.items():
            if topic not in INPUT_TOPICS:
                continue
            kind = INPUT_TOPICS.index(topic)
            engine.ingest(partition, kind, RecordColumns.of(records), records[-1].offset + 1)
            ahead[topic, partition] -= len(records)
            if not ahead[topic, partition]:
                engine.merge(partition).finish(kind)
        yield engine.step(0.0)
        yield from _rest(engine)
        done += len(chunk)
        if progress:
            progress(done, total)
    yield from _rest(engine)
    yield None  # all is passed now


def _rest(engine: Engine) -> Iterator[StepOutput]:
    while (output := engine.step(0.0)) is not None:
        yield output


class _Growing(dict[str, int]):
    """Numbers names in the order in which they come."""

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self)
        return number


class Recorded(msgspec.Struct, frozen=True):
    """The training table of a recording, and what of the recording is not in it."""

    events: Interactions
    skipped: dict[str, int]  # records that are not in the table, by reason: duplicate, malformed ...
    late: npt.NDArray[np.bool_]  # (events,) that came too late to count in their windows

    def until(self, ts: int) -> "Recorded":
        """The same without the events of time `ts` (ms) or later, which are skipped as `after_until`."""
        kept = self.events.ts < ts
        left_out = int((~kept).sum())
        return Recorded(self.events.take(kept), self.skipped | {"after_until": left_out}, self.late[kept])


def interactions(path: Path, settings: Settings, progress: Progress | None = None) -> Interactions:
    """The training table of a recording alone, as of `tabulate`."""
    return tabulate(path, settings, progress).events


def tabulate(path: Path, settings: Settings, progress: Progress | None = None) -> Recorded:
    """The training table of a recording: every good event as the worker's own state sees it.

    Window features and gaps come out of the kernel that serves live traffic, so training and serving cannot
    differ. Raises ReplayError where no event is good.
    """
    reader = RecordingReader(path)
    items, categories = _Growing(), _Growing()
    names = Names(items.__getitem__, -1), Names(categories.__getitem__, -1)
    # Everyone stays, however unevenly the users lie on the partitions: who is forgotten for lack of room is
    # a matter of serving.
    partitions, records = partitions_of(reader), max(1, reader.count())
    unbounded = msgspec.structs.replace(settings, resident_users=records * partitions, model=None)
    engine = Engine(unbounded, partitions=partitions, names=names, publish=False, slots=records)
    users: dict[str, int] = {}
    parts: list[tuple[np.ndarray, ...]] = []
    skipped: Counter[str] = Counter()
    for output in drive(engine, reader, progress):
        skipped.update(_reasons(engine.dead_letters()))
        if output is not None:
            skipped.update(duplicate=output.duplicates, repeated_offset=output.replayed)
        for batch in output.batches if output else ():
            number = [users.setdefault(user, len(users)) for user in batch.events.user.tolist()]
            d = batch.events.data
            parts.append(
                (
                    np.array(number, np.int64),
                    d["ts"].copy(),
                    d["kind"].astype(np.int8),
                    d["item"].astype(np.int64),
                    d["category"].astype(np.int64),
                    d["price"].copy(),
                    d["quantity"].copy(),
                    batch.applied["gap_s"].copy(),
                    batch.features,
                    batch.applied["status"] == LATE,
                )
            )
    if not parts:
        raise ReplayError(f"{path} holds no good event{_listed(+skipped)}")
    columns: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    late = columns.pop()
    table = Interactions(*columns, items=list(items), categories=list(categories))  # type: ignore[misc]
    return Recorded(table, dict(sorted((+skipped).items())), late)


def _reasons(dead: Outputs) -> Iterator[str]:
    """Why each dead letter is one."""
    for messages in dead.values():
        for _, _, headers in messages:
            yield dict(headers)[REASON_HEADER].decode()  # nobody else's header has this name


def _listed(skipped: Counter[str]) -> str:
    return (
        f" ({', '.join(f'{count:,} {reason}' for reason, count in skipped.most_common())})" if skipped else ""
    )
