"""The processor itself: records in, encoded outputs and changelog records out. No Kafka, no clock of its own.

Worker, `foreclick run`, training and tests all drive this one class. It is not thread-safe: whoever owns it calls
it from one thread at a time.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, repeat

import numpy as np
import numpy.typing as npt

from model.interactions import WINDOW_FEATURES
from model.runtime import Runtime, StepBatch, StepResult
from stream_app.agents import rules
from stream_app.agents.batches import Applied, Checkpoint, Outputs, StepOutput
from stream_app.agents.encode import PredictionEncoder
from stream_app.agents.last import LastPredictions
from stream_app.events import BadRecord, Decoder, Events
from stream_app.names import Names, stable_hash
from stream_app.outputs import NO_HEADERS, Flag, Prediction, dead_letter, encoder
from stream_app.records import Record
from stream_app.settings import Settings
from stream_app.state import kernel
from stream_app.state.merge import Merge
from stream_app.state.rebuild import rebuild_hidden
from stream_app.state.rows import FORMAT, ROW, SEEDS
from stream_app.state.users import META_KEY, ItemIndex, PartitionMeta, Users, decode_meta, encode_meta

#: Events of a partition between two looks at its number of users. Part of the definition of the answers: with
#: more users than may stay, who is forgotten depends on the stream alone and not on micro-batches.
EVICT_EVERY = 4096


@dataclass(slots=True)
class _Partition:
    merge: Merge
    evicted: dict[str, None] = field(default_factory=dict)  # users to tombstone at the next checkpoint
    checkpointed: list[int] | None = None  # positions of the last checkpoint
    meta: PartitionMeta | None = None
    restored: bool = False


class Engine:
    """State, model and outputs of the partitions that were assigned."""

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime | None = None,
        *,
        partitions: int = 4,
        names: tuple[Names, Names] | None = None,
        publish: bool = True,
        slots: int | None = None,
    ) -> None:
        """`partitions`: how many the input topics have.

        For training: `names` numbers items and categories in another way, without `publish` no output is
        made, and `slots` bounds the users instead of the settings.
        """
        self.settings = settings
        self.runtime = runtime
        self.label = runtime.label if runtime else "none"
        self.items, self.categories = names or _names(runtime)
        self.users_per_partition = max(1, settings.resident_users // partitions)
        limit = (
            slots
            or self.users_per_partition * partitions + (partitions + 1) * EVICT_EVERY + settings.max_batch
        )
        known = [stable_hash(name) for name in runtime.item_ids] if runtime else []
        none_item = runtime.none_item if runtime else 0
        self.slab = runtime.slab(1024) if runtime else None
        width = self.slab.states.shape[1] if self.slab else 0
        self.users = Users(limit, ItemIndex.build(known, none_item), self.slab, width)
        self.decoder = Decoder(
            self.items,
            self.categories,
            max_future_ms=settings.max_future_ms,
            correct_clock=settings.correct_clock,
        )
        self.watermark = np.full(partitions, -1, np.int64)
        self.sequence = np.zeros(partitions, np.int64)
        self._partitions: dict[int, _Partition] = {}
        self._batch = 0
        self._publishes = publish
        self._encode = encoder(settings.output_format)
        self._encoder = PredictionEncoder(runtime, settings.output_format, settings.topic_prefix)
        self._predictions, self._flags, self._dead_letters = settings.outputs
        self._last = LastPredictions(limit, settings.k) if runtime else None

    # --- partitions come and go

    def assign(self, partition: int, positions: Sequence[int]) -> None:
        """Takes a partition on, empty: its next source offsets are `positions` until a restore says more."""
        self.watermark[partition] = -1
        self.sequence[partition] = 0
        self.users.slots[partition] = {}
        self._partitions[partition] = _Partition(Merge(list(positions)))

    def restore(self, partition: int, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        """Applies changelog records in the order of the log."""
        for key, value in zip(keys, values, strict=True):
            if key == META_KEY and value is not None:
                self._partitions[partition].meta = decode_meta(value)
        self.users.restore(partition, keys, values)

    def restored(self, partition: int) -> None:
        """Ends the restore: processing goes on behind the last checkpoint."""
        p = self._partitions[partition]
        p.restored = True
        meta = p.meta
        if meta is None:
            return
        self.watermark[partition] = meta.watermark
        self.sequence[partition] = meta.sequence
        p.merge.skip(meta.positions)  # what came in while the state was being read stays
        p.checkpointed = p.merge.positions
        if self.runtime is not None and meta.model != self.label:
            self._rebuild_hidden(partition)

    def drop(self, partition: int) -> None:
        """Forgets a partition."""
        self._partitions.pop(partition, None)
        self.users.drop(partition)

    def rewind(self) -> None:
        """Forgets what is buffered: the source will be read again from `positions`."""
        for p in self._partitions.values():
            p.merge.clear()

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

    # --- records in

    def ingest(
        self, partition: int, kind: int, records: Sequence[Record], next_offset: int
    ) -> list[BadRecord]:
        """Decodes and buffers records of one topic partition; those seen before are passed over.

        `next_offset`: nothing below it is still to come. Returns the records that are no events.
        """
        merge = self._partitions[partition].merge
        expected = merge.read(kind)
        if records and records[0].offset < expected:
            records = [r for r in records if r.offset >= expected]
        if not records:
            merge.add(kind, Events.concat([]), next_offset)
            return []
        events, bad = self.decoder.decode(kind, records)
        merge.add(kind, events, next_offset)
        return bad

    def dead_letters(self, bad: Sequence[BadRecord]) -> Outputs:
        """Dead letters by topic and partition."""
        out: Outputs = {}
        for b in bad:
            out.setdefault((self._dead_letters, b.record.partition), []).append(dead_letter(b))
        return out

    # --- events out

    def step(self, now: float, *, ended: bool = False) -> StepOutput | None:
        """Processes one micro-batch of what may go; None where nothing may. `now`: seconds, steady."""
        t0 = time.perf_counter()
        ready = [n for n, p in self._partitions.items() if p.restored and any(p.merge.buffered)]
        share = max(1, self.settings.max_batch // len(ready)) if ready else 0
        taken: list[tuple[int, Events]] = []
        for number in ready:
            events = self._partitions[number].merge.take(
                self._until_eviction(number, share), now, self.settings.max_idle_ms / 1000, ended=ended
            )
            if events is not None:
                taken.append((number, events))
        if not taken:
            return None
        out = StepOutput(seconds={"merge": time.perf_counter() - t0})
        for number, _ in taken:
            out.out_of_order += self._partitions[number].merge.take_out_of_order()
        events = Events.concat([e for _, e in taken])
        slots = np.concatenate([self.users.resolve(number, e.user.tolist()) for number, e in taken])
        out.events = len(events)
        start = 0
        while start < len(events):
            start += self._process(events.take(slice(start, None)), slots[start:], out)
        for number, _ in taken:
            self._evict(number, out)
        return out

    def _until_eviction(self, partition: int, limit: int) -> int:
        """A micro-batch ends where the number of users is looked at, if there may be too many."""
        if len(self.users.slots[partition]) + limit <= self.users_per_partition:
            return limit
        return min(limit, EVICT_EVERY - int(self.sequence[partition]) % EVICT_EVERY)

    def _evict(self, number: int, out: StepOutput) -> None:
        room = self.users_per_partition
        if int(self.sequence[number]) % EVICT_EVERY or len(self.users.slots[number]) <= room:
            return
        # Those who expired go first, so that it makes no difference how many `expire` had removed by now.
        out.evicted += self.expire(number, changed_too=True)
        out.evicted += self._forget(number, self.users.oldest(number, room))

    def _process(self, events: Events, slots: npt.NDArray[np.int64], out: StepOutput) -> int:
        """State, model, flags and encoding of the events up to where the kernel stops; returns how many."""
        t0 = time.perf_counter()
        n = len(events)
        applied = np.empty(n, kernel.APPLIED_EVENT)
        features = np.empty((n, len(WINDOW_FEATURES)), np.float32)
        seeds = np.empty((n, SEEDS), np.int32)
        self._batch += 1
        users = self.users
        n = kernel.apply(
            users.rows,
            users.recent_item,
            users.dirty,
            users.touched,
            slots,
            events.data,
            self.watermark,
            self.sequence,
            self.settings.lateness_ms,
            self.settings.user_ttl_ms,
            users.items.none,
            users.items.known,
            self._batch,
            applied,
            features,
            seeds,
        )
        status = applied["status"][:n]
        good = np.flatnonzero(status <= kernel.LATE)
        out.late += int(np.count_nonzero(status == kernel.LATE))
        out.duplicates += int(np.count_nonzero(status == kernel.DUPLICATE))
        out.replayed += int(np.count_nonzero(status == kernel.REPLAYED))
        fresh = slots[:n][applied["fresh"][:n] == 1]
        if users.hidden is not None and len(fresh):
            users.hidden.reset(np.unique(fresh))
        if not len(good):
            _spend(out, "state", t0)
            return n
        batch = Applied(events.take(good), slots[good], applied[good], features[good], seeds[good])
        out.batches.append(batch)
        t1 = _spend(out, "state", t0)
        result = self._predict(batch)
        t2 = _spend(out, "model", t1)
        if self._publishes:
            self._publish(batch, result, out)
        _spend(out, "encode", t2)
        return n

    def _predict(self, batch: Applied) -> StepResult | None:
        if self.runtime is None or self.slab is None:
            return None
        d = batch.events.data
        step = StepBatch(
            slots=batch.slots,
            kind=d["kind"].astype(np.int8),
            item=np.ascontiguousarray(d["item"]),
            category=np.ascontiguousarray(d["category"]),
            gap_s=np.ascontiguousarray(batch.applied["gap_s"]),
            ts=np.ascontiguousarray(d["ts"]),
            price=np.ascontiguousarray(d["price"]),
            quantity=np.ascontiguousarray(d["quantity"]),
            windows=batch.features,
            recent=batch.seeds,
            first=batch.applied["first"] == 1,
        )
        result = self.runtime.step(self.slab, step, self.settings.k)
        if self._last is not None:
            self._last.keep(batch.slots, self.users.names, result)
        return result

    def _publish(self, batch: Applied, result: StepResult | None, out: StepOutput) -> None:
        events = batch.events
        keys = [user.encode() for user in events.user.tolist()]
        messages = list(zip(keys, self._encoder.encode(events, result), repeat(NO_HEADERS), strict=False))
        chosen = None if self.settings.emit == "all" else _latest(batch.slots)
        # The events of one partition stand together.
        partitions = events.data["partition"]
        border = [0, *(np.flatnonzero(np.diff(partitions)) + 1).tolist(), len(partitions)]
        for start, end in pairwise(border):
            wanted = (
                messages[start:end] if chosen is None else [messages[i] for i in chosen if start <= i < end]
            )
            place = (self._predictions, int(partitions[start]))
            out.outputs.setdefault(place, []).extend(wanted)
        found = rules.find(
            self.settings.rules,
            self.users.rows,
            batch.slots,
            events.data["ts"],
            batch.features,
            batch.applied,
            result.p_value if result else None,
            self.runtime.tail if self.runtime else None,
        )
        flagged = events.take([i for i, *_ in found])
        for j, (id_, (i, kind, score, reasons)) in enumerate(
            zip(self._encoder.ids(flagged), found, strict=True)
        ):
            ts = int(flagged.data["ts"][j])
            user, event_id = flagged.user[j], flagged.event_id[j]
            flag = Flag(id_, user, ts, event_id, self.label, kind, score, reasons)
            place = (self._flags, int(partitions[i]))
            out.outputs.setdefault(place, []).append((keys[i], self._encode(flag), NO_HEADERS))

    def _rebuild_hidden(self, partition: int) -> None:
        """Hidden states of another model mean nothing to this one: replay each user's last events."""
        assert self.runtime is not None
        assert self.slab is not None
        ids = self.runtime.content.vocabulary.categories.ids
        categories = ItemIndex.build([stable_hash(c) for c in ids], self.runtime.none_category)
        rebuild_hidden(self.users, self.slab, self.runtime, partition, categories)
        # The next checkpoint names this model, so it must hold the states of all users as this model has them.
        self.users.dirty[list(self.users.slots[partition].values())] = True

    # --- checkpoints

    def checkpoint(self, number: int, generation: int) -> Checkpoint | None:
        """State records of a partition since the last call, its own record last; None if nothing happened."""
        p = self._partitions[number]
        positions = p.merge.positions
        if not p.restored or positions == p.checkpointed:
            return None
        p.checkpointed = positions
        keys, values = self.users.take_dirty(number)
        present = self.users.slots[number]
        gone = [user.encode() for user in p.evicted if user not in present]
        p.evicted.clear()
        meta = PartitionMeta(
            FORMAT,
            ROW.itemsize,
            self.users.width,
            self.label,
            int(self.watermark[number]),
            int(self.sequence[number]),
            positions,
            generation,
        )
        # Tombstones first: at no point of the log are there more users than there were in memory.
        return Checkpoint(
            number, [*gone, *keys, META_KEY], [*([None] * len(gone)), *values, encode_meta(meta)], positions
        )

    def expire(self, number: int, *, changed_too: bool = False) -> int:
        """Forgets users whose time to live is over; their tombstones go with the next checkpoint.

        Only memory is at stake: an event of such a user would find an empty row in any case.
        """
        watermark, ttl_ms = int(self.watermark[number]), self.settings.user_ttl_ms
        return self._forget(number, self.users.expired(number, watermark, ttl_ms, changed_too=changed_too))

    def _forget(self, number: int, gone: list[str]) -> int:
        self.users.remove(number, gone)
        self._partitions[number].evicted.update(dict.fromkeys(gone))
        return len(gone)

    def last_prediction(self, slot: int) -> Prediction | None:
        """The last prediction for the user in a slot since this process holds them."""
        if self._last is None or self.runtime is None or self._last.owner[slot] is not self.users.names[slot]:
            return None
        row = self.users.rows[slot]
        return Prediction(
            "",
            self.users.names[slot],
            int(row["clock"]),
            None,
            self.label,
            *self._last.show(slot, self.runtime),
        )


def _latest(slots: npt.NDArray[np.int64]) -> list[int]:
    """Position of the last event of each slot, in order."""
    _, back = np.unique(slots[::-1], return_index=True)
    return sorted((len(slots) - 1 - back).tolist())


def _spend(out: StepOutput, stage: str, since: float) -> float:
    now = time.perf_counter()
    out.seconds[stage] = out.seconds.get(stage, 0.0) + now - since
    return now


def _names(runtime: Runtime | None) -> tuple[Names, Names]:
    """Items and categories as the model numbers them."""
    if runtime is None:
        return Names(lambda _: 0, 0), Names(lambda _: 0, 0)
    vocabulary = runtime.content.vocabulary
    return (
        Names(
            runtime.item_index,
            runtime.none_item,
            vocabulary={stable_hash(n): n for n in vocabulary.items.ids},
        ),
        Names(
            runtime.category_index,
            runtime.none_category,
            vocabulary={stable_hash(n): n for n in vocabulary.categories.ids},
        ),
    )
