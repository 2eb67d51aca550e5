"""The processor of the shop's events: records in, predictions, flags and changelog records out.

The worker, `foreclick run`, training and the tests all use this class. It survives failures of the model only in the
worker.
"""

import time
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from model.serving.api import WINDOW_FEATURES, Runtime, StepResult
from stream_app.contract.event_columns import Events
from stream_app.contract.outputs import NO_HEADERS, Flag, Prediction, encoder
from stream_app.contract.topics import SHOP, Topics
from stream_app.decoding.decoder import Decoder
from stream_app.decoding.name_table import NameTable, stable_hash
from stream_app.processing import flag_rules, user_view
from stream_app.processing.hidden_rebuild import rebuild_hidden
from stream_app.processing.last_predictions import LastPredictions
from stream_app.processing.micro_batch import AppliedBatch, Checkpoint, StepOutput
from stream_app.processing.model_breaker import ModelBreaker, Move
from stream_app.processing.model_host import ModelHost, names_of
from stream_app.processing.prediction_encoder import PredictionEncoder
from stream_app.processing.processor import NO_MODEL, EventDecoder, Processor
from stream_app.settings import Settings
from stream_app.state import apply_events as kernel
from stream_app.state.row_layout import SEEDS
from stream_app.state.users import ItemIndex, Users

#: How many events of a partition lie between two checks of its number of users. Outputs depend on it: where there are
#: too many users, the stream alone decides which of them are evicted, and not how it is cut into micro-batches.
EVICT_EVERY = 4096


class ShopProcessor(Processor):
    """State, model and outputs of the partitions that were assigned."""

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime | None = None,
        *,
        partitions: int = 4,
        names: tuple[NameTable, NameTable] | None = None,
        publish: bool = True,
        slots: int | None = None,
        decoder: EventDecoder | None = None,
        topics: Topics | None = None,
    ) -> None:
        """`partitions`: how many the input topics have. `decoder` and `topics`: in place of those of the contract.

        Training passes the rest: `names` number items and categories differently, `publish=False` makes no
        outputs, and `slots` limits the number of users instead of the settings.
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
        super().__init__(settings, topics or SHOP.of(settings), self.users, decoder, partitions, NO_MODEL)
        self._batch = 0
        self._publishes = publish
        self._encode = encoder(settings.output_format)
        self._predictions, self._flags = self.topics.outputs["predictions"], self.topics.outputs["flags"]
        self.breaker = ModelBreaker(
            hold=settings.model_trouble == "hold", slow_s=settings.model_slow_ms / 1000
        )
        self._own_names = names is not None
        self._use(runtime)

    def _use(self, runtime: Runtime | None) -> None:
        """Uses a model, or none, from now on."""
        limit = self.users.limit
        self.runtime = runtime
        self.label, self.created_ms = (runtime.label, runtime.created_ms) if runtime else (NO_MODEL, 0)
        self.hidden_states = self.users.hidden = (
            runtime.hidden_states(limit if runtime.device.type == "cpu" else 1024) if runtime else None
        )
        self.width = self.users.width = self.hidden_states.states.shape[1] if self.hidden_states else 0
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
        self._model_host = (
            ModelHost(runtime, self.hidden_states, self.users, self.breaker, self.settings.k)
            if runtime and self.hidden_states
            else None
        )

    # --- failures of the model

    def survive_trouble(self, missing: str | None = None) -> None:
        """From now on a failure of the model is no error. `missing`: why there is no model, though one is wanted."""
        self.breaker.enabled = True
        if missing is not None:
            self.breaker.fail(missing)

    @property
    def trouble(self) -> str | None:
        """Why the model gives no answers; None while it does, and where none is wanted."""
        return self.breaker.reason

    def offer(self, runtime: Runtime) -> None:
        """Another model, to be used as soon as no micro-batch is half done; only while the present one fails."""
        self.breaker.offer(runtime)

    def _adopt(self, runtime: Runtime) -> None:
        """Continues with another model: items get its numbers, hidden states are rebuilt when they are needed."""
        before = self.created_ms
        self._use(runtime)
        for number, p in self._partitions.items():
            p.model_created = before or p.model_created
            if self._model_host is not None:
                p.merge.renumber(self._model_host.renumber)
            slots = self.users.slots_of(number)
            self.users.number_recent(slots)
            self.users.stale[slots] = True
            # The next checkpoint names this model, so no state of another may stay on the changelog.
            self.users.dirty[slots] = True
        self.breaker.replaced()

    def _next_move(self) -> Move:
        """What the breaker decides; if it decides to replace the model, what it decides after that."""
        move = self.breaker.next_move(has_model=self.runtime is not None)
        if move is Move.REPLACE_MODEL:
            self._adopt(self.breaker.take_offered())
            move = self.breaker.next_move(has_model=True)
        return move

    def _probe(self, out: StepOutput) -> None:
        """The predict stage of a probe: no other micro-batch is half done."""
        if self.runtime is None or not self.breaker.probe_calls_model:
            self.breaker.probe_skipped()
            return
        try:
            self.runtime.probe()
        except Exception as error:
            out.model_failures += 1
            self.breaker.probe_failed(str(error) or type(error).__name__, error)
        else:
            self.breaker.probe_succeeded()

    # --- events out

    def apply_batch(self, now: float, *, ended: bool = False) -> StepOutput | None:
        """Applies one micro-batch to the rows and evicts users. `batches` holds what model and rules need."""
        self.breaker.now = now
        move = self._next_move()
        if move is Move.PROBE:
            self.breaker.begin_probe()
            return StepOutput(probe=True)
        if move is not Move.TAKE_EVENTS:
            return None
        self.breaker.taking_events()
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
        """Ends a micro-batch where the number of users is checked, if there may be too many."""
        if self.users.count[partition] + share <= self.users_per_partition:
            return share
        return min(share, EVICT_EVERY - int(self.sequence[partition]) % EVICT_EVERY)

    def _evict(self, number: int, out: StepOutput) -> None:
        room = self.users_per_partition
        if int(self.sequence[number]) % EVICT_EVERY or self.users.count[number] <= room:
            return
        # Expired users go first, so the result does not depend on how many of them `expire` removed before.
        out.evicted += self.expire(number, changed_too=True)
        out.evicted += self.forget(number, self.users.oldest(number, room))

    def _apply(self, events: Events, slots: npt.NDArray[np.int64], out: StepOutput) -> int:
        """Applies events to the rows until the kernel stops; returns how many it applied."""
        t0 = time.perf_counter()
        n = len(events)
        applied = np.empty(n, kernel.APPLIED_EVENT)
        features = np.empty((n, len(WINDOW_FEATURES)), np.float32)
        seeds = np.empty((n, SEEDS), np.int32)
        self._batch += 1
        users = self.users
        # Nothing is rebuilt while the model is not called. Ask once, since the model may fail at any moment.
        asked = self._model_host is not None and (self.breaker.calls_model or self.breaker.hold)
        rebuild = self._model_host.take_rebuild(slots) if self._model_host and asked else None
        n = kernel.apply(
            users.rows, users.recent_item, users.recent_check, users.dirty, users.touched, slots, events.data,
            self.watermark, self.sequence, self.settings.lateness_ms, self.settings.user_ttl_ms,
            users.items.none, users.items.known, self._batch, applied, features, seeds,
        )  # fmt: skip
        status = applied["status"][:n]
        good = np.flatnonzero(status <= kernel.LATE)
        out.late += int(np.count_nonzero(status == kernel.LATE))
        out.duplicates += int(np.count_nonzero(status == kernel.DUPLICATE))
        out.already_applied += int(np.count_nonzero(status == kernel.ALREADY_APPLIED))
        users.fresh.append(slots[:n][applied["fresh"][:n] == 1])
        if len(good):
            chosen = slots[good]
            out.batches.append(
                AppliedBatch(
                    events.take(good), chosen, applied[good], features[good], seeds[good],
                    users.serial[chosen], users.take_fresh(), self.runtime, rebuild,
                )
            )  # fmt: skip
        elif rebuild is not None:
            users.stale[rebuild.slots] = True
        _spend(out, "state", t0)
        return n

    def predict_batch(self, out: StepOutput) -> None:
        """Runs model, rules and encoding for a micro-batch that was applied; the next one may be applied meanwhile.

        Batches that wait for the model leave `batches`, and return in the `batches` of a later micro-batch.
        """
        waiting, out.batches = [*self.breaker.held, *out.batches], []
        if out.probe:
            self._probe(out)
        held: list[AppliedBatch] = []
        for batch in waiting:
            t0 = time.perf_counter()
            result = self._predict(batch, out)
            t1 = _spend(out, "model", t0)
            if result is None and self.breaker.holds_back:
                held.append(batch)
                continue
            out.batches.append(batch)
            if self._publishes:
                self._publish(batch, result, out)
            _spend(out, "encode", t1)
        self.breaker.held = held

    def _predict(self, batch: AppliedBatch, out: StepOutput) -> StepResult | None:
        """The model's answers; None if it gives none."""
        self.users.flagged[batch.reset] = 0
        host = self._model_host
        result = host.predict(batch, out) if host is not None and batch.model is self.runtime else None
        if result is not None:
            if self._last is not None:
                self._last.keep(batch.slots, batch.serial, result)
        elif self.runtime is not None or not self.breaker.calls_model:
            if self.breaker.holds_back:
                return None
            batch.degraded = True
            out.degraded += len(batch.events)
            if host is not None:
                host.mark_stale(batch)
        return result

    def _publish(self, batch: AppliedBatch, result: StepResult | None, out: StepOutput) -> None:
        events = batch.events
        everyone = np.arange(len(events))
        wanted = everyone if self.settings.emit == "all" else _latest(batch.slots)
        messages = self._encoder.encode(events, result, wanted, degraded=batch.degraded)
        # Events of one partition are adjacent.
        partitions = events.data["partition"][wanted]
        border = [0, *(np.flatnonzero(np.diff(partitions)) + 1).tolist(), len(partitions)]
        out.columns += [
            (self._predictions, int(partitions[start]), messages.take(slice(start, end)))
            for start, end in pairwise(border)
        ]
        found = flag_rules.find(
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
        for j, (id_, (i, flag_type, score, reasons)) in enumerate(
            zip(self._encoder.ids(flagged), found, strict=True)
        ):
            ts = int(flagged.data["ts"][j])
            user, event_id = users[j], event_ids[j]
            flag = Flag(id_, user, ts, event_id, self.label, flag_type, score, reasons, batch.degraded)
            place = (self._flags, int(partitions[i]))
            out.others.setdefault(place, []).append((user.encode(), self._encode(flag), NO_HEADERS))

    def model_changed(self, partition: int) -> None:
        """Rebuilds hidden states from each user's last events: those of another model mean nothing to this one."""
        if self.runtime is None or self.hidden_states is None or self._model_host is None:
            return
        slots = self.users.slots_of(partition)
        # The next checkpoint names this model, so it must hold the states of all users as this model has them.
        self.users.dirty[slots] = True
        self.users.stale[slots] = True
        if (
            self.breaker.enabled
        ):  # lazily, before each user's next event: start-up does not wait for all of them
            return
        rebuild_hidden(self.users, self.hidden_states, self.runtime, partition, self._model_host.categories)
        self.users.stale[slots] = False

    def checkpoint(self, number: int, generation: int) -> Checkpoint | None:
        """As in `Processor`; also None while events in the rows wait for the model."""
        return None if self.breaker.held else super().checkpoint(number, generation)

    def rewind(self) -> None:
        """As in `Processor`; what waits for the model stays, since it is in the rows already."""
        super().rewind()
        self.breaker.abandon_probe()

    def drop(self, partition: int) -> None:
        """Forgets a partition, and its events that wait for the model."""
        super().drop(partition)
        free = self.users.partition < 0
        left = [batch.without(partition, free) for batch in self.breaker.held]
        self.breaker.held = [batch for batch in left if len(batch.events)]
        self.breaker.abandon_probe()

    def expire(self, number: int, *, changed_too: bool = False) -> int:
        """Forgets users whose time to live is over; the next checkpoint contains their tombstones.

        This only frees memory: an event of such a user would find an empty row in any case.
        """
        watermark, ttl_ms = int(self.watermark[number]), self.settings.user_ttl_ms
        return self.forget(number, self.users.expired(number, watermark, ttl_ms, changed_too=changed_too))

    def look_up(self, user_id: str) -> dict[str, Any] | None:
        """Everything stored about a user, the last prediction, and which other partitions hold the user too."""
        held = self.users.find_all(user_id, len(self.watermark))
        held = [slot for slot in held if self.is_restored(int(self.users.partition[slot]))]
        if not held:
            return None  # not here, or only in a standby of another worker's state
        slot, *others = held
        found = user_view.user(self.users, slot, self.items, self.categories, others)
        return {**found, "last_prediction": self.last_prediction(slot)}

    def last_prediction(self, slot: int) -> Prediction | None:
        """The last prediction for the user in a slot since this process holds them."""
        if self._last is None or self.runtime is None:
            return None
        found = self._last.find(slot, int(self.users.serial[slot]), self.runtime)
        if found is None:
            return None
        clock = int(self.users.rows[slot]["clock"])
        name, horizon_ms = self.users.name(slot), self.runtime.horizon_ms
        return Prediction("", name, clock, None, self.label, *found, horizon_ms=horizon_ms)


def _latest(slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Position of the last event of each slot, in order."""
    _, back = np.unique(slots[::-1], return_index=True)
    return np.sort(len(slots) - 1 - back)


def _spend(out: StepOutput, stage: str, since: float) -> float:
    now = time.perf_counter()
    out.seconds[stage] = out.seconds.get(stage, 0.0) + now - since
    return now
