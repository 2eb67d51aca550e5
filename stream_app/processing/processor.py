"""What every stateful processor has: buffers that merge the input topics, rows, checkpoints. No Kafka, no clock.

A processor owns some partitions. For each it buffers decoded events, takes micro-batches of them, and returns the
state records of changed users at a checkpoint. It is not thread-safe: its owner calls it from one thread at a time,
except for `predict_batch`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stream_app.contract.event_columns import Events
from stream_app.contract.events import BadRecord
from stream_app.contract.message_columns import MessageColumns
from stream_app.contract.outputs import dead_letter
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.topics import Topics
from stream_app.processing.micro_batch import Checkpoint, Outputs, StepOutput
from stream_app.settings import Settings
from stream_app.state.errors import StateError
from stream_app.state.merge import Merge
from stream_app.state.plausibility import Damaged, refusal, wrong_meta
from stream_app.state.row_layout import FORMAT
from stream_app.state.topic_identity import check_ids
from stream_app.state.users import (
    META_KEY,
    PartitionMeta,
    Rows,
    UnreadableMetaError,
    decode_meta,
    encode_meta,
)

#: The least number of events that a micro-batch takes of a partition that has them: with many partitions, it costs
#: less to take some partitions in turn than a few events of each.
SHARE = 512

#: The label if there is no model.
NO_MODEL = "none"


def shares(buffered: Mapping[int, int], room: int) -> dict[int, int]:
    """How many of its buffered events each partition may put into a micro-batch that has room for `room`.

    No partition gets more than it has, and the others share evenly what it leaves. So a partition that is the only
    one behind gets nearly the whole micro-batch. With many full partitions each gets SHARE: more than there is room.
    """
    found: dict[int, int] = {}
    for i, (partition, have) in enumerate(sorted(buffered.items(), key=lambda item: item[1])):
        found[partition] = min(have, max(SHARE, room // (len(buffered) - i)))
        room = max(0, room - found[partition])
    return found


class EventDecoder(Protocol):
    """Turns records of one topic partition into columns."""

    def decode(self, topic_index: int, records: RecordColumns) -> tuple[Events, list[BadRecord]]:
        """Events, and the records that are not events; never raises on bytes. `topic_index`: among the inputs."""


@dataclass(slots=True)
class Partition:
    """What is stored about one partition in addition to its rows."""

    merge: Merge
    evicted: dict[bytes, None] = field(default_factory=dict)  # users to tombstone at the next checkpoint
    checkpointed: list[int] | None = None  # positions of the last checkpoint
    fresh: bool = False  # its state was just read back and not yet compared with the group's offsets
    meta: PartitionMeta | None = None
    restored: bool = False
    bad: list[tuple[int, BadRecord]] = field(
        default_factory=list
    )  # topic index, record; processing has not passed it yet
    model_created: int = 0  # Unix ms, of the last model before this one, 0 if unknown


class Processor(ABC):
    """State and outputs of the partitions that were assigned."""

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        users: Rows,
        decoder: EventDecoder,
        partitions: int,
        label: str,
        width: int = 0,
    ) -> None:
        """`partitions`: how many the input topics have. `label` and `width`: of the model behind the rows."""
        self.settings = settings
        self.topics = topics
        self.rows = users
        self.decoder = decoder
        self.label = label
        self.created_ms = 0  #: Unix ms at which the model behind the rows was exported, 0 if unknown
        self.width = width
        self.watermark = np.full(partitions, -1, np.int64)
        self.sequence = np.zeros(partitions, np.int64)
        self._partitions: dict[int, Partition] = {}
        self._next = 0  # the partition with which the next micro-batch begins
        #: Ids of the input topics, in their order; empty if unknown.
        self.topic_ids: list[bytes] = []

    @property
    def trouble(self) -> str | None:
        """Why the model gives no answers; None if it gives them or if there is no model."""
        return None

    # --- partitions come and go

    def assign(self, partition: int, positions: Sequence[int]) -> None:
        """Takes over a partition, empty: its next source offsets are `positions` until a restore changes them."""
        self.watermark[partition] = -1
        self.sequence[partition] = 0
        self.rows.count[partition] = 0
        self._partitions[partition] = Partition(Merge(list(positions)))

    def restore(self, partition: int, records: RecordColumns) -> list[Damaged]:
        """Applies changelog records in the order of the log.

        Raises StateError for a record that cannot be read or cannot be true. With `skip_damaged_state` such records
        are returned instead, and their users are forgotten.
        """
        p, skip = self._partitions[partition], self.settings.skip_damaged_state
        damaged = []
        for i in np.flatnonzero(records.spans["key_bytes"] == len(META_KEY)).tolist():
            record = records[i]
            if record.value is None:
                continue
            meta, why = self._meta(record.value)
            if why is None:
                p.meta = meta
            else:
                damaged.append(Damaged(record.offset, META_KEY, why))
        if damaged and not skip:
            raise StateError(refusal(damaged[0], records.topic, partition))
        damaged += self.rows.restore(partition, records, skip=skip)
        p.evicted.update(dict.fromkeys(d.key for d in damaged if d.key))
        return damaged

    def _meta(self, value: bytes) -> tuple[PartitionMeta | None, str | None]:
        try:
            meta = decode_meta(value)
        except UnreadableMetaError as error:
            return None, str(error)
        return meta, wrong_meta(meta.watermark, meta.sequence, meta.positions, len(self.topics.inputs))

    def beyond(self, partition: int, ends: Sequence[int]) -> list[Damaged]:
        """Users whose rows include records that the inputs do not have; `skip_damaged_state` forgets them.

        `ends`: of the logs of the inputs. For a partition whose state was read and which is not processed yet.
        """
        p = self._partitions[partition]
        slots = self.rows.beyond(partition, ends, p.meta.positions if p.meta else [0] * len(ends))
        why = "it includes an offset that its input has not reached"
        damaged = [Damaged(None, self.rows.name(slot).encode(), why) for slot in slots.tolist()]
        if self.settings.skip_damaged_state:
            self.forget(partition, slots)
        return damaged

    def restored(self, partition: int) -> None:
        """Ends the restore: processing continues after the last checkpoint.

        Raises TopicError if the state belongs to other topics than those that exist now.
        """
        p = self._partitions[partition]
        meta = p.meta
        if meta is not None:
            check_ids(self.topics.inputs, meta.topic_ids, self.topic_ids)
        p.restored = p.fresh = True
        if meta is None:
            return
        self.watermark[partition] = meta.watermark
        self.sequence[partition] = meta.sequence
        p.merge.skip(meta.positions)  # records that arrived while the state was being read stay
        p.bad = [
            (topic_index, b) for topic_index, b in p.bad if b.record.offset >= meta.positions[topic_index]
        ]
        p.checkpointed = p.merge.positions
        p.model_created = meta.model_created
        if meta.model != self.label:
            self.model_changed(partition)

    def newer_model(self, partition: int) -> int | None:
        """Unix ms at which the previous model of a partition's state was made, if it is newer than this one."""
        then = self._partitions[partition].model_created
        return then if self.label != NO_MODEL and then > self.created_ms else None

    def is_fresh(self, partition: int) -> bool:
        """Whether the state was read back and `compared` has not been called since."""
        return self._partitions[partition].fresh

    def written(self, partition: int) -> list[int] | None:
        """The positions of the state that was read back; None if there was no state."""
        meta = self._partitions[partition].meta
        return None if meta is None else meta.positions

    def compared(self, partition: int, again: bool) -> None:
        """Reports that the caller has compared the positions of a restored partition; `again`: commit them again."""
        p = self._partitions[partition]
        p.fresh = False
        if again:
            p.checkpointed = None

    @abstractmethod
    def model_changed(self, partition: int) -> None:
        """Called at the end of a restore if another model, or none, wrote the state."""

    def drop(self, partition: int) -> None:
        """Forgets a partition."""
        self._partitions.pop(partition, None)
        self.rows.drop(partition)

    def rewind(self) -> None:
        """Drops what is buffered: the source will be read again from `positions`.

        Bad records below the positions are kept until their dead letters are taken, since they are not read again.
        """
        for p in self._partitions.values():
            p.merge.clear()
            positions = p.merge.positions
            p.bad = [(topic_index, b) for topic_index, b in p.bad if b.record.offset < positions[topic_index]]

    @property
    def partitions(self) -> list[int]:
        """Partitions assigned."""
        return sorted(self._partitions)

    def merge(self, partition: int) -> Merge:
        """The merge buffers of a partition."""
        return self._partitions[partition].merge

    def is_restored(self, partition: int) -> bool:
        """Whether a partition is ready to process."""
        p = self._partitions.get(partition)
        return p is not None and p.restored

    # --- records in, events out

    def ingest(
        self, partition: int, topic_index: int, records: RecordColumns, next_offset: int
    ) -> list[BadRecord]:
        """Decodes and buffers records of one topic partition, and ignores those seen before.

        `next_offset`: all records below it have arrived. Returns the records that are not events.
        """
        p = self._partitions[partition]
        records = records.since(p.merge.read(topic_index))
        events, bad = self.decoder.decode(topic_index, records)
        if records.aside:
            bad = sorted([*bad, *records.aside], key=lambda b: b.record.offset)
        p.merge.add(topic_index, events, next_offset)
        p.bad += [(topic_index, b) for b in bad]
        return bad

    def bad_bytes(self, partition: int) -> list[int]:
        """Approximate memory, for each topic, of bad records whose dead letters were not taken yet."""
        held = [0] * len(self.topics.inputs)
        for topic_index, bad in self._partitions[partition].bad:
            held[topic_index] += bad.held_bytes
        return held

    def dead_letters(self) -> Outputs:
        """Dead letters, by topic and partition, of the bad records that processing passed since the last call.

        They are not sent earlier, since a checkpoint contains the passed offsets and every output below them.
        """
        out: Outputs = {}
        for number, p in self._partitions.items():
            if not p.bad or not p.restored:
                continue
            positions = p.merge.positions
            passed = [b for topic_index, b in p.bad if b.record.offset < positions[topic_index]]
            p.bad = [
                (topic_index, b) for topic_index, b in p.bad if b.record.offset >= positions[topic_index]
            ]
            if passed:
                out[self.topics.outputs["dead-letters"], number] = [dead_letter(b) for b in passed]
        return out

    @abstractmethod
    def apply_batch(self, now: float, *, ended: bool = False) -> StepOutput | None:
        """Stage 1: applies the events that are ready to the state rows. Returns None if none is ready.

        `now`: steady clock in seconds. `ended`: no more records will come, so no topic is waited for.
        """

    @abstractmethod
    def predict_batch(self, out: StepOutput) -> None:
        """Stage 2: fills in the messages. May run in another thread than the next `apply_batch`.

        Micro-batches pass this stage in the order in which they were applied, and all of them pass it before any
        other method than `apply_batch` is called.
        """

    def step(self, now: float, *, ended: bool = False) -> StepOutput | None:
        """Both stages of one micro-batch."""
        out = self.apply_batch(now, ended=ended)
        if out is not None:
            self.predict_batch(out)
        return out

    def take(self, now: float, ended: bool) -> list[tuple[int, Events]]:
        """The next micro-batch: events that are ready, partition by partition in turn, until it is full."""
        ready = [n for n, p in self._partitions.items() if p.restored and any(p.merge.buffered)]
        ready.sort(key=lambda n: (n < self._next, n))
        left = self.settings.max_batch
        share = shares({n: sum(self._partitions[n].merge.buffered) for n in ready}, left)
        taken: list[tuple[int, Events]] = []
        for n in ready:
            most = self.most(n, min(share[n], left))
            events = self._partitions[n].merge.take(most, now, self.settings.max_idle_ms / 1000, ended=ended)
            if events is None:
                continue
            taken.append((n, events))
            left -= len(events)
            if left == 0:
                self._next = n + 1
                break
        return taken

    def most(self, partition: int, share: int) -> int:
        """How many events of a partition the next micro-batch may take; `share` is its fair share."""
        return share

    def slots(self, taken: Sequence[tuple[int, Events]]) -> npt.NDArray[np.int64]:
        """The slot of each event's user, a new one for a user never seen."""
        return np.concatenate(
            [
                self.rows.resolve_users(number, e.text, e.data["text_at"], e.data["user_bytes"])
                for number, e in taken
            ]
        )

    # --- checkpoints

    def checkpoint(self, number: int, generation: int) -> Checkpoint | None:
        """State records of a partition since the last call, with its own record last; None if nothing happened.

        Also None while dead letters of passed records were not taken yet, since `positions` would claim that they
        were sent.
        """
        p = self._partitions[number]
        positions = p.merge.positions
        if not p.restored or positions == p.checkpointed:
            return None
        if any(b.record.offset < positions[topic_index] for topic_index, b in p.bad):
            return None
        p.checkpointed = positions
        changed = self.rows.take_dirty(number)
        gone = [key for key in p.evicted if self.rows.find(number, key) is None]
        p.evicted.clear()
        meta = PartitionMeta(
            FORMAT,
            self.rows.rows.itemsize,
            self.width,
            self.label,
            int(self.watermark[number]),
            int(self.sequence[number]),
            positions,
            generation,
            self.topic_ids,
            self.created_ms or p.model_created,
        )
        # The description of the layout comes before the first row. Tombstones come before rows, so that no prefix of
        # the log holds more users than there were in memory.
        layout = self.rows.take_description(number)
        tombstones = MessageColumns.of([(key, None) for key in gone])
        end = MessageColumns.of([(META_KEY, encode_meta(meta))])
        return Checkpoint(number, MessageColumns.concat([layout, tombstones, changed, end]), positions)

    def expire(self, number: int, *, changed_too: bool = False) -> int:
        """Forgets users whose time to live is over; the next checkpoint contains their tombstones."""
        return 0

    def forget(self, number: int, slots: npt.NDArray[np.int64]) -> int:
        """Frees slots of a partition; returns how many."""
        names = (self.rows.name(slot).encode() for slot in slots.tolist())
        self._partitions[number].evicted.update(dict.fromkeys(names))
        self.rows.remove(slots)
        return len(slots)

    @abstractmethod
    def look_up(self, user_id: str) -> dict[str, Any] | None:
        """Everything stored about a user as plain data; None if this process does not hold the user."""
