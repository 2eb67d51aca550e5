"""The model's part of a micro-batch: hidden states, one step, and what happens to the states if the step fails."""

import dataclasses
import time

import numpy as np
import numpy.typing as npt

from model.serving.api import NOT_FINITE, HiddenStates, ModelError, Runtime, StepBatch, StepResult, finite
from stream_app.contract.event_columns import Events
from stream_app.decoding.name_table import NameTable, stable_hash
from stream_app.processing.hidden_rebuild import last_events
from stream_app.processing.micro_batch import AppliedBatch, HiddenRebuild, StepOutput, taken
from stream_app.processing.model_breaker import ModelBreaker
from stream_app.state.users import ItemIndex, Users


class ModelHost:
    """A model and the hidden states of the users, advanced by one thread."""

    def __init__(
        self, runtime: Runtime, hidden_states: HiddenStates, users: Users, breaker: ModelBreaker, k: int
    ) -> None:
        self.runtime, self.hidden_states = runtime, hidden_states
        self._users, self._breaker, self._k = users, breaker, k
        ids = runtime.content.vocabulary.categories.ids
        self.categories = ItemIndex.build([stable_hash(c) for c in ids], runtime.none_category)

    def take_rebuild(self, slots: npt.NDArray[np.int64]) -> HiddenRebuild | None:
        """The last events of those users whose hidden state is stale. From now on it counts as rebuilt.

        Call it before events of these users are applied to the rows.
        """
        stale = np.unique(slots[self._users.stale[slots]])
        if not len(stale):
            return None
        self._users.stale[stale] = False
        return HiddenRebuild(stale, last_events(self._users, self.runtime, stale, self.categories))

    def renumber(self, events: Events) -> None:
        """Replaces the numbers of items and categories in events by this model's, found by their hashes."""
        vocabulary = self.runtime.content.vocabulary
        for name, index, known in (
            ("item", vocabulary.items, self._users.items),
            ("category", vocabulary.categories, self.categories),
        ):
            hashes = events.data[f"{name}_hash"]
            numbers = known.of(hashes)
            unknown = (numbers == index.none) & (hashes != 0)
            numbers[unknown] = index.bucket_of(hashes[unknown])
            events.data[name] = numbers

    def mark_stale(self, batch: AppliedBatch) -> None:
        """Marks the hidden states of a micro-batch's users as stale, since its step was skipped or failed."""
        self._users.stale[batch.slots] = True
        self._users.stale[batch.reset] = True
        if batch.rebuild is not None:
            self._users.stale[batch.rebuild.slots] = True

    def predict(self, batch: AppliedBatch, out: StepOutput) -> StepResult | None:
        """The answers; None where the model fails or is not called. Raises its errors if the breaker is disabled."""
        breaker = self._breaker
        if not breaker.calls_model:
            return None
        start = time.perf_counter()
        try:
            result = self._step(batch, out)
        except Exception as error:
            if not breaker.enabled:
                raise
            self.runtime.give_memory_back()
            out.model_failures += 1
            said = str(error).strip().splitlines()
            breaker.fail(f"{type(error).__name__}: {said[0] if said else 'no message'}", error)
            return None
        if not breaker.answered(time.perf_counter() - start):
            out.model_failures += 1
        return result

    def _step(self, batch: AppliedBatch, out: StepOutput) -> StepResult:
        users, hidden_states = self._users, self.hidden_states
        users.make_room(int(batch.slots.max()) + 1)
        if self._breaker.enabled and self._breaker.hold:  # a step may fail half-way and is then repeated
            if batch.before is None:
                slots = np.unique(batch.slots)
                batch.before = slots, hidden_states.read(slots)
            else:
                hidden_states.write(*batch.before)
        if batch.rebuild is not None:
            users.make_room(int(batch.rebuild.slots.max(initial=0)) + 1)
            hidden_states.reset(batch.rebuild.slots)
            self.runtime.rebuild(hidden_states, batch.rebuild.events)
        users.empty_hidden(batch.reset)
        step = step_batch(batch)
        result = self.runtime.step(hidden_states, step, self._k)
        broken = ~finite(result)
        if broken.any():
            out.hidden_resets += self._reset_broken(step, result, broken)
        return result

    def _reset_broken(self, step: StepBatch, result: StepResult, broken: npt.NDArray[np.bool_]) -> int:
        """Empties hidden states that contain NaN or infinity, and computes the answers of these users again.

        Returns how many users these are. Raises ModelError if the answers are still not finite.
        """
        slots = np.unique(step.slots[broken])
        theirs = np.isin(step.slots, slots)
        self.hidden_states.reset(slots)
        again = self.runtime.step(self.hidden_states, taken(step, theirs), self._k)
        if not finite(again).all():
            raise ModelError(NOT_FINITE)
        for field in dataclasses.fields(result):
            getattr(result, field.name)[theirs] = getattr(again, field.name)
        return len(slots)


def step_batch(batch: AppliedBatch) -> StepBatch:
    """The model's inputs for the events of a micro-batch."""
    d = batch.events.data
    return StepBatch(
        slots=batch.slots,
        event_type=d["event_type"].astype(np.int8),
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


def names_of(runtime: Runtime | None) -> tuple[NameTable, NameTable]:
    """Tables that give items and categories the model's numbers."""
    if runtime is None:
        return NameTable(lambda _: 0, 0), NameTable(lambda _: 0, 0)
    vocabulary = runtime.content.vocabulary
    return (
        NameTable(
            runtime.item_index,
            runtime.none_item,
            vocabulary={stable_hash(n): n for n in vocabulary.items.ids},
        ),
        NameTable(
            runtime.category_index,
            runtime.none_category,
            vocabulary={stable_hash(n): n for n in vocabulary.categories.ids},
        ),
    )
