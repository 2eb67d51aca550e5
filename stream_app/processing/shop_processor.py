"""The processor of the shop's events: records in, predictions, flags and changelog records out.

Worker, `foreclick run`, training and tests all drive this one class. Only the worker's survives model trouble.
"""

import time
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from model.serving.api import WINDOW_FEATURES, Runtime, StepResult
from stream_app.contract.event_columns import Events
from stream_app.contract.outputs import NO_HEADERS, Flag, Prediction, encoder
from stream_app.decoding.decoder import Decoder
from stream_app.decoding.name_table import Names, stable_hash
from stream_app.processing import rules
from stream_app.processing.hidden_rebuild import rebuild_hidden
from stream_app.processing.last_predictions import LastPredictions
from stream_app.processing.micro_batch import Applied, Checkpoint, StepOutput
from stream_app.processing.model_breaker import Guard
from stream_app.processing.model_host import Answers, names_of
from stream_app.processing.prediction_encoder import PredictionEncoder
from stream_app.processing.processor import NO_MODEL, EventDecoder, Processor
from stream_app.settings import Settings
from stream_app.state import apply_events as kernel
from stream_app.state import view
from stream_app.state.row_layout import SEEDS
from stream_app.state.users import ItemIndex, Users

#: Events of a partition between two looks at its number of users. Part of the definition of the answers: with
#: more users than may stay, who is forgotten depends on the stream alone and not on micro-batches.
EVICT_EVERY = 4096


class Engine(Processor):
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
        decoder: EventDecoder | None = None,
    ) -> None:
        """`partitions`: how many the input topics have. `decoder`: in place of the one of the input contract.

        For training: `names` numbers items and categories in another way, without `publish` no output is
        made, and `slots` bounds the users instead of the settings.
        """
        self.items, self.categories = names or names_of(None)
        self.users_per_partition = max(1, settings.resident_users // partitions)
        limit = (
            slots
            or self.users_per_partition * partitions + (partitions + 1) * EVICT_EVERY + settings.max_batch
        )
        self.users = Users(limit, ItemIndex.build([], 0))
        decoder = decoder or Decoder(
            self.items,
            self.categories,
            max_future_ms=settings.max_future_ms,
            max_past_ms=settings.max_past_ms,
            correct_clock=settings.correct_clock,
        )
        super().__init__(settings, self.users, decoder, partitions, NO_MODEL)
        self._batch = 0
        self._publishes = publish
        self._encode = encoder(settings.output_format)
        self._predictions, self._flags, _ = settings.outputs
        self.guard = Guard(hold=settings.model_trouble == "hold", slow_s=settings.model_slow_ms / 1000)
        self._held: list[Applied] = []  # applied to the rows, and waiting for the model
        self._offered: Runtime | None = None
        self._own_names = names is not None
        self._use(runtime)

    def _use(self, runtime: Runtime | None) -> None:
        """Takes a model, or none, for all that comes from now on."""
        limit = self.users.limit
        self.runtime = runtime
        self.label, self.created_ms = (runtime.label, runtime.created_ms) if runtime else (NO_MODEL, 0)
        self.slab = self.users.hidden = (
            runtime.hidden_states(limit if runtime.device.type == "cpu" else 1024) if runtime else None
        )
        self.width = self.users.width = self.slab.states.shape[1] if self.slab else 0
        self.users.items = ItemIndex.build(
            [stable_hash(name) for name in runtime.item_ids] if runtime else [],
            runtime.none_item if runtime else 0,
        )
        if not self._own_names:
            self.items, self.categories = names_of(runtime)
            if isinstance(self.decoder, Decoder):
                self.decoder.items, self.decoder.categories = self.items, self.categories
        self._encoder = PredictionEncoder(runtime, self.settings.output_format, self.settings.topic_prefix)
        self._last = LastPredictions(limit, self.settings.k) if runtime else None
        self._answers = (
            Answers(runtime, self.slab, self.users, self.guard, self.settings.k)
            if runtime and self.slab
            else None
        )

    # --- model trouble

    def survive_trouble(self, missing: str | None = None) -> None:
        """From now on the model's trouble is no error. `missing`: why there is no model yet, though one is wanted."""
        self.guard.on = True
        if missing is not None:
            self.guard.failed(missing)

    @property
    def trouble(self) -> str | None:
        """Why the model gives no answers; None while it does, and where none is wanted."""
        return self.guard.reason

    def offer(self, runtime: Runtime) -> None:
        """Another model, to be taken as soon as no micro-batch is half done; only while there is trouble."""
        self._offered = runtime

    def _adopt(self, runtime: Runtime) -> None:
        """Goes on with another model: items get its numbers, hidden states are made anew when they are needed."""
        before = self.created_ms
        self._use(runtime)
        for number, p in self._partitions.items():
            p.model_created = before or p.model_created
            if self._answers is not None:
                p.merge.renumber(self._answers.renumber)
            slots = self.users.slots_of(number)
            self.users.number_recent(slots)
            self.users.stale[slots] = True
            # The next checkpoint names this model, so no state of another may stay on the changelog.
            self.users.dirty[slots] = True
        self.guard.over()

    def _trial(self) -> StepOutput | None:
        """A micro-batch without events where the model is to be tried again, or may be changed after it."""
        guard = self.guard
        if guard.quiet and self._offered is not None:
            self._adopt(self._offered)
            self._offered = None
        elif self._offered is None and (self.runtime is None or not guard.due):
            return None
        if guard.reason is None and not self._held:
            return None
        guard.send_trial()
        return StepOutput(trial=True)

    def _try_again(self, out: StepOutput) -> None:
        """What the trial does: nothing else is half done."""
        guard = self.guard
        if guard.reason is not None and self.runtime is not None and self._offered is None:
            try:
                self.runtime.probe()
            except Exception as error:
                out.model_failures += 1
                guard.failed(str(error) or type(error).__name__, error)
            else:
                guard.over()
        guard.trial_came_back()

    # --- events out

    def advance(self, now: float, *, ended: bool = False) -> StepOutput | None:
        """Applies one micro-batch to the rows, evicts; what the model and the rules need is in `batches`."""
        guard = self.guard
        guard.now = now
        if guard.waiting:
            return None
        if guard.reason is not None or self._held:
            trial = self._trial()
            if trial is not None or (guard.hold and guard.reason is not None) or self._held:
                return trial
        guard.quiet = False
        t0 = time.perf_counter()
        taken = self.take(now, ended)
        if not taken:
            return None
        out = StepOutput(seconds={"merge": time.perf_counter() - t0})
        for number, _ in taken:
            out.out_of_order += self._partitions[number].merge.take_out_of_order()
        events = Events.concat([e for _, e in taken])
        slots = self.slots(taken)
        out.events = len(events)
        start = 0
        while start < len(events):
            start += self._apply(events.take(slice(start, None)), slots[start:], out)
        for number, _ in taken:
            self._evict(number, out)
        return out

    def most(self, partition: int, share: int) -> int:
        """A micro-batch ends where the number of users is looked at, if there may be too many."""
        if self.users.count[partition] + share <= self.users_per_partition:
            return share
        return min(share, EVICT_EVERY - int(self.sequence[partition]) % EVICT_EVERY)

    def _evict(self, number: int, out: StepOutput) -> None:
        room = self.users_per_partition
        if int(self.sequence[number]) % EVICT_EVERY or self.users.count[number] <= room:
            return
        # Those who expired go first, so that it makes no difference how many `expire` had removed by now.
        out.evicted += self.expire(number, changed_too=True)
        out.evicted += self.forget(number, self.users.oldest(number, room))

    def _apply(self, events: Events, slots: npt.NDArray[np.int64], out: StepOutput) -> int:
        """State of the events up to where the kernel stops; returns how many these are."""
        t0 = time.perf_counter()
        n = len(events)
        applied = np.empty(n, kernel.APPLIED_EVENT)
        features = np.empty((n, len(WINDOW_FEATURES)), np.float32)
        seeds = np.empty((n, SEEDS), np.int32)
        self._batch += 1
        users = self.users
        # While there is trouble nothing is replayed. This is asked once: the model may fail at any moment.
        asked = self._answers is not None and (self.guard.reason is None or self.guard.hold)
        replay = self._answers.replay_for(slots) if self._answers and asked else None
        n = kernel.apply(
            users.rows, users.recent_item, users.recent_check, users.dirty, users.touched, slots, events.data,
            self.watermark, self.sequence, self.settings.lateness_ms, self.settings.user_ttl_ms,
            users.items.none, users.items.known, self._batch, applied, features, seeds,
        )  # fmt: skip
        status = applied["status"][:n]
        good = np.flatnonzero(status <= kernel.LATE)
        out.late += int(np.count_nonzero(status == kernel.LATE))
        out.duplicates += int(np.count_nonzero(status == kernel.DUPLICATE))
        out.replayed += int(np.count_nonzero(status == kernel.REPLAYED))
        users.fresh.append(slots[:n][applied["fresh"][:n] == 1])
        if len(good):
            chosen = slots[good]
            out.batches.append(
                Applied(
                    events.take(good), chosen, applied[good], features[good], seeds[good],
                    users.serial[chosen], users.take_fresh(), self.runtime, replay,
                )
            )  # fmt: skip
        elif replay is not None:
            users.stale[replay.slots] = True
        _spend(out, "state", t0)
        return n

    def finish(self, out: StepOutput) -> None:
        """Model, flags and encoding of a micro-batch that was applied. The next one may be applied meanwhile.

        What the model holds up leaves `batches`, and comes back in that of a later micro-batch.
        """
        waiting, out.batches = [*self._held, *out.batches], []
        if out.trial:
            self._try_again(out)
        held: list[Applied] = []
        for batch in waiting:
            t0 = time.perf_counter()
            result = self._predict(batch, out)
            t1 = _spend(out, "model", t0)
            if result is None and self.guard.hold and self.guard.reason is not None:
                held.append(batch)
                continue
            out.batches.append(batch)
            if self._publishes:
                self._publish(batch, result, out)
            _spend(out, "encode", t1)
        self._held = held

    def _predict(self, batch: Applied, out: StepOutput) -> StepResult | None:
        """The model's answers, None where it gives none."""
        self.users.flagged[batch.reset] = 0
        answers = self._answers
        result = answers(batch, out) if answers is not None and batch.model is self.runtime else None
        if result is not None:
            if self._last is not None:
                self._last.keep(batch.slots, batch.serial, result)
        elif self.guard.reason is not None or self.runtime is not None:
            if self.guard.hold and self.guard.reason is not None:
                return None
            batch.degraded = True
            out.degraded += len(batch.events)
            if answers is not None:
                answers.mark_stale(batch)
        return result

    def _publish(self, batch: Applied, result: StepResult | None, out: StepOutput) -> None:
        events = batch.events
        everyone = np.arange(len(events))
        wanted = everyone if self.settings.emit == "all" else _latest(batch.slots)
        messages = self._encoder.encode(events, result, wanted, degraded=batch.degraded)
        # The events of one partition stand together.
        partitions = events.data["partition"][wanted]
        border = [0, *(np.flatnonzero(np.diff(partitions)) + 1).tolist(), len(partitions)]
        out.columns += [
            (self._predictions, int(partitions[start]), messages.take(slice(start, end)))
            for start, end in pairwise(border)
        ]
        found = rules.find(
            self.settings.rules,
            self.users.flagged,
            batch.slots,
            events.data["time"],
            batch.features,
            batch.applied,
            result.p_value if result else None,
            self.runtime.tail if self.runtime else None,
        )
        flagged = events.take([i for i, *_ in found]).packed()
        users, event_ids = flagged.user, flagged.event_id
        for j, (id_, (i, kind, score, reasons)) in enumerate(
            zip(self._encoder.ids(flagged), found, strict=True)
        ):
            ts = int(flagged.data["ts"][j])
            user, event_id = users[j], event_ids[j]
            flag = Flag(id_, user, ts, event_id, self.label, kind, score, reasons, batch.degraded)
            place = (self._flags, int(partitions[i]))
            out.others.setdefault(place, []).append((user.encode(), self._encode(flag), NO_HEADERS))

    def model_changed(self, partition: int) -> None:
        """Hidden states of another model mean nothing to this one: replay each user's last events."""
        if self.runtime is None or self.slab is None or self._answers is None:
            return
        slots = self.users.slots_of(partition)
        # The next checkpoint names this model, so it must hold the states of all users as this model has them.
        self.users.dirty[slots] = True
        self.users.stale[slots] = True
        if self.guard.on:  # each before the user's next event: nobody waits for all of them, or for the model
            return
        rebuild_hidden(self.users, self.slab, self.runtime, partition, self._answers.categories)
        self.users.stale[slots] = False

    def checkpoint(self, number: int, generation: int) -> Checkpoint | None:
        """As of every processor; None too while events of the rows wait for the model."""
        return None if self._held else super().checkpoint(number, generation)

    def rewind(self) -> None:
        """As of every processor; what waits for the model stays, since the rows hold it."""
        super().rewind()
        self.guard.waiting = False

    def drop(self, partition: int) -> None:
        """Forgets a partition, and what of it waits for the model."""
        super().drop(partition)
        free = self.users.partition < 0
        left = [batch.without(partition, free) for batch in self._held]
        self._held = [batch for batch in left if len(batch.events)]
        self.guard.waiting = False

    def expire(self, number: int, *, changed_too: bool = False) -> int:
        """Forgets users whose time to live is over; their tombstones go with the next checkpoint.

        Only memory is at stake: an event of such a user would find an empty row in any case.
        """
        watermark, ttl_ms = int(self.watermark[number]), self.settings.user_ttl_ms
        return self.forget(number, self.users.expired(number, watermark, ttl_ms, changed_too=changed_too))

    def look_up(self, user_id: str) -> dict[str, Any] | None:
        """All that is kept of a user, and what was predicted last; which other partitions hold the user too."""
        held = self.users.find_all(user_id, len(self.watermark))
        held = [slot for slot in held if self.is_restored(int(self.users.partition[slot]))]
        if not held:
            return None  # not here, or only as a copy of another worker's state
        slot, *others = held
        found = view.user(self.users, slot, self.items, self.categories, others)
        return {**found, "last_prediction": self.last_prediction(slot)}

    def last_prediction(self, slot: int) -> Prediction | None:
        """The last prediction for the user in a slot since this process holds them."""
        if self._last is None or self.runtime is None or self._last.owner[slot] != self.users.serial[slot]:
            return None
        row = self.users.rows[slot]
        return Prediction(
            "",
            self.users.name(slot),
            int(row["clock"]),
            None,
            self.label,
            *self._last.show(slot, self.runtime),
            horizon_ms=self.runtime.horizon_ms,
        )


def _latest(slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Position of the last event of each slot, in order."""
    _, back = np.unique(slots[::-1], return_index=True)
    return np.sort(len(slots) - 1 - back)


def _spend(out: StepOutput, stage: str, since: float) -> float:
    now = time.perf_counter()
    out.seconds[stage] = out.seconds.get(stage, 0.0) + now - since
    return now
