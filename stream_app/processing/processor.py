"""What every processor of partitions has: buffers that merge the input topics, rows, checkpoints. No Kafka, no clock.

A processor owns some partitions. Of each it buffers decoded events, takes micro-batches of them, and at a
checkpoint hands over the state records of what changed. It is not thread-safe: whoever owns it calls it from one
thread at a time, but for `predict_batch`.
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
from stream_app.contract.records import INPUT_TOPICS
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

#: Events of one partition that a micro-batch takes where there are more: with many partitions, some of them in turn
#: cost less than a few events of each.
SHARE = 512

#: The label where there is no model.
NO_MODEL = "none"


def shares(buffered: Mapping[int, int], room: int) -> dict[int, int]:
    """How many of its buffered events each partition may put into a micro-batch that has room for `room`.

    None gets more than it has; what it leaves, the others share evenly. So a partition that is behind alone has the
    micro-batch nearly for itself. Where there are many that have much, each gets SHARE, more than there is room for.
    """
    found: dict[int, int] = {}
    for i, (partition, have) in enumerate(sorted(buffered.items(), key=lambda item: item[1])):
        found[partition] = min(have, max(SHARE, room // (len(buffered) - i)))
        room = max(0, room - found[partition])
    return found


class EventDecoder(Protocol):
    """Turns records of one topic partition into columns."""

    def decode(self, topic_index: int, records: RecordColumns) -> tuple[Events, list[BadRecord]]:
        """Events, and the records that are none; never raises on bytes. `topic_index`: the index of the topic."""


@dataclass(slots=True)
class Partition:
    """What is kept of one partition beside its rows."""

    merge: Merge
    evicted: dict[bytes, None] = field(default_factory=dict)  # users to tombstone at the next checkpoint
    checkpointed: list[int] | None = None  # positions of the last checkpoint
    fresh: bool = False  # its state was just read back, and nobody has compared it with the group's offsets
    meta: PartitionMeta | None = None
    restored: bool = False
    bad: list[tuple[int, BadRecord]] = field(default_factory=list)  # topic index, record; not passed yet
    model_created: int = 0  # Unix ms, of the last model before the present one, 0 where it is not known


class Processor(ABC):
    """State and outputs of the partitions that were assigned."""

    def __init__(
        self,
        settings: Settings,
        users: Rows,
        decoder: EventDecoder,
        partitions: int,
        label: str,
        width: int = 0,
    ) -> None:
        """`partitions`: how many the input topics have. `label` and `width`: of the model behind the rows."""
        self.settings = settings
        self.rows = users
        self.decoder = decoder
        self.label = label
        self.created_ms = 0  #: Unix ms of the export of the model behind the rows, 0 where that is not known
        self.width = width
        self.watermark = np.full(partitions, -1, np.int64)
        self.sequence = np.zeros(partitions, np.int64)
        self._partitions: dict[int, Partition] = {}
        self._next = 0  # the partition that the next micro-batch begins with
        #: Ids of the input topics, in their order; empty where they are not known.
        self.topic_ids: list[bytes] = []

    @property
    def trouble(self) -> str | None:
        """Why the model behind the answers gives none; None where all is well, and where there is no model."""
        return None

    # --- partitions come and go

    def assign(self, partition: int, positions: Sequence[int]) -> None:
        """Takes a partition on, empty: its next source offsets are `positions` until a restore says more."""
        self.watermark[partition] = -1
        self.sequence[partition] = 0
        self.rows.count[partition] = 0
        self._partitions[partition] = Partition(Merge(list(positions)))

    def restore(self, partition: int, records: RecordColumns) -> list[Damaged]:
        """Applies changelog records in the order of the log.

        Raises StateError for one that cannot be read or cannot be true; with `skip_damaged_state` such records are
        returned, and what they were about is forgotten.
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
        return meta, wrong_meta(meta.watermark, meta.sequence, meta.positions, len(self.settings.inputs))

    def beyond(self, partition: int, ends: Sequence[int]) -> list[Damaged]:
        """Users whose rows include records that their inputs do not have; with `skip_damaged_state` they go.

        `ends`: of the logs of the inputs. For a partition whose state was read and that is not processed yet.
        """
        p = self._partitions[partition]
        slots = self.rows.beyond(partition, ends, p.meta.positions if p.meta else [0] * len(ends))
        why = "it includes an offset that its input has not reached"
        damaged = [Damaged(None, self.rows.name(slot).encode(), why) for slot in slots.tolist()]
        if self.settings.skip_damaged_state:
            self.forget(partition, slots)
        return damaged

    def restored(self, partition: int) -> None:
        """Ends the restore: processing goes on behind the last checkpoint.

        Raises TopicError where the state is of other topics than those there are now.
        """
        p = self._partitions[partition]
        meta = p.meta
        if meta is not None:
            check_ids(self.settings.inputs, meta.topic_ids, self.topic_ids)
        p.restored = p.fresh = True
        if meta is None:
            return
        self.watermark[partition] = meta.watermark
        self.sequence[partition] = meta.sequence
        p.merge.skip(meta.positions)  # what came in while the state was being read stays
        p.bad = [
            (topic_index, b) for topic_index, b in p.bad if b.record.offset >= meta.positions[topic_index]
        ]
        p.checkpointed = p.merge.positions
        p.model_created = meta.model_created
        if meta.model != self.label:
            self.model_changed(partition)

    def newer_model(self, partition: int) -> int | None:
        """When the model was made that had a partition's state before this one, if that is a newer one; Unix ms."""
        then = self._partitions[partition].model_created
        return then if self.label != NO_MODEL and then > self.created_ms else None

    def is_fresh(self, partition: int) -> bool:
        """Whether the state was read back and `compared` was not called since."""
        return self._partitions[partition].fresh

    def written(self, partition: int) -> list[int] | None:
        """The positions of the state that was read back, None where there was none."""
        meta = self._partitions[partition].meta
        return None if meta is None else meta.positions

    def compared(self, partition: int, again: bool) -> None:
        """The positions of a partition that was read back are known to whoever asked; `again`: commit them again."""
        p = self._partitions[partition]
        p.fresh = False
        if again:
            p.checkpointed = None

    @abstractmethod
    def model_changed(self, partition: int) -> None:
        """Called at the end of a restore where another model, or none, wrote the state."""

    def drop(self, partition: int) -> None:
        """Forgets a partition."""
        self._partitions.pop(partition, None)
        self.rows.drop(partition)

    def rewind(self) -> None:
        """Forgets what is buffered: the source will be read again from `positions`.

        Bad records below them are kept until their dead letters are taken: they do not come again.
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
        """Decodes and buffers records of one topic partition; those seen before are passed over.

        `next_offset`: nothing below it is still to come. Returns the records that are no events.
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
        """About how much memory the bad records of each topic hold whose dead letters are still to be taken."""
        held = [0] * len(INPUT_TOPICS)
        for topic_index, bad in self._partitions[partition].bad:
            held[topic_index] += bad.held_bytes
        return held

    def dead_letters(self) -> Outputs:
        """Dead letters, by topic and partition, of the records that processing has passed since the last call.

        Not before: a checkpoint holds the offsets that were passed, and all that was made below them.
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
                out[self.settings.outputs[2], number] = [dead_letter(b) for b in passed]
        return out

    @abstractmethod
    def apply_batch(self, now: float, *, ended: bool = False) -> StepOutput | None:
        """The first half of a micro-batch of what may go: the rows. None where nothing may go.

        `now`: seconds, steady. `ended`: nothing more will come, so no topic is waited for.
        """

    @abstractmethod
    def predict_batch(self, out: StepOutput) -> None:
        """The second half: fills in the messages. May run in another thread than the next `apply_batch`.

        Micro-batches are finished in the order in which they were advanced, and all of them before anything but
        `apply_batch` is called.
        """

    def step(self, now: float, *, ended: bool = False) -> StepOutput | None:
        """Both halves of one micro-batch."""
        out = self.apply_batch(now, ended=ended)
        if out is not None:
            self.predict_batch(out)
        return out

    def take(self, now: float, ended: bool) -> list[tuple[int, Events]]:
        """The next micro-batch: of each partition that has something to go in turn, until it is full."""
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
        """How many events of a partition the next micro-batch may take, where `share` would be its fair share."""
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
        """State records of a partition since the last call, its own record last; None if nothing happened.

        None too while dead letters of records that were passed are still to be taken: `positions` would say that
        they are out.
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
        # The layout of the rows before the first of them. Tombstones before rows: at no point of the log are there
        # more users than there were in memory.
        layout = self.rows.take_description(number)
        tombstones = MessageColumns.of([(key, None) for key in gone])
        end = MessageColumns.of([(META_KEY, encode_meta(meta))])
        return Checkpoint(number, MessageColumns.concat([layout, tombstones, changed, end]), positions)

    def expire(self, number: int, *, changed_too: bool = False) -> int:
        """Forgets users whose time to live is over; their tombstones go with the next checkpoint."""
        return 0

    def forget(self, number: int, slots: npt.NDArray[np.int64]) -> int:
        """Frees slots of a partition; returns how many."""
        names = (self.rows.name(slot).encode() for slot in slots.tolist())
        self._partitions[number].evicted.update(dict.fromkeys(names))
        self.rows.remove(slots)
        return len(slots)

    @abstractmethod
    def look_up(self, user_id: str) -> dict[str, Any] | None:
        """All that is kept of a user as plain data, None where this process does not hold them."""
