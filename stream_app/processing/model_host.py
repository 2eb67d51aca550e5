"""The model's part of a micro-batch: hidden states, one step, and what is left of them where the step fails."""

import dataclasses
import time

import numpy as np
import numpy.typing as npt

from model.serving.api import NOT_FINITE, HiddenStates, ModelError, Runtime, StepBatch, StepResult, finite
from stream_app.contract.event_columns import Events
from stream_app.decoding.name_table import Names, stable_hash
from stream_app.processing.hidden_rebuild import last_events
from stream_app.processing.micro_batch import Applied, Replay, StepOutput, taken
from stream_app.processing.model_breaker import Guard
from stream_app.state.users import ItemIndex, Users


class Answers:
    """A model and the hidden states of the users, advanced by one thread."""

    def __init__(self, runtime: Runtime, slab: HiddenStates, users: Users, guard: Guard, k: int) -> None:
        self.runtime, self.slab = runtime, slab
        self._users, self._guard, self._k = users, guard, k
        ids = runtime.content.vocabulary.categories.ids
        self.categories = ItemIndex.build([stable_hash(c) for c in ids], runtime.none_category)

    def replay_for(self, slots: npt.NDArray[np.int64]) -> Replay | None:
        """The last events of those users whose hidden state is stale; once they are replayed it is no longer.

        To be called before events of these users are applied to the rows.
        """
        stale = np.unique(slots[self._users.stale[slots]])
        if not len(stale):
            return None
        self._users.stale[stale] = False
        return Replay(stale, last_events(self._users, self.runtime, stale, self.categories))

    def renumber(self, events: Events) -> None:
        """Gives the items and categories of events this model's numbers, found by their hashes."""
        vocabulary = self.runtime.content.vocabulary
        for name, index, known in (
            ("item", vocabulary.items, self._users.items),
            ("category", vocabulary.categories, self.categories),
        ):
            hashes = events.data[f"{name}_hash"]
            numbers = known.of(hashes)
            unknown = (numbers == index.none) & (hashes != 0)
            numbers[unknown] = index.known + hashes[unknown] % np.uint64(index.buckets)
            events.data[name] = numbers

    def mark_stale(self, batch: Applied) -> None:
        """The hidden states of a micro-batch's users are unknown, since its step was left out or failed."""
        self._users.stale[batch.slots] = True
        self._users.stale[batch.reset] = True
        if batch.replay is not None:
            self._users.stale[batch.replay.slots] = True

    def __call__(self, batch: Applied, out: StepOutput) -> StepResult | None:
        """The answers; None where the model is in trouble. Raises what the model raises where nobody guards it."""
        guard = self._guard
        if guard.reason is not None:
            return None
        start = time.perf_counter()
        try:
            result = self._step(batch, out)
        except Exception as error:
            if not guard.on:
                raise
            self.runtime.give_memory_back()
            out.model_failures += 1
            said = str(error).strip().splitlines()
            guard.failed(f"{type(error).__name__}: {said[0] if said else 'no message'}", error)
            return None
        took = time.perf_counter() - start
        if guard.on and not guard.hold and took > guard.slow_s:
            out.model_failures += 1
            guard.failed(f"a step took {took:.1f} s, limit {guard.slow_s:g} s")
        else:
            guard.answered()
        return result

    def _step(self, batch: Applied, out: StepOutput) -> StepResult:
        users, slab = self._users, self.slab
        users.make_room(int(batch.slots.max()) + 1)
        if self._guard.on and self._guard.hold:  # a step may fail half-way, and is to be done again
            if batch.before is None:
                slots = np.unique(batch.slots)
                batch.before = slots, slab.read(slots)
            else:
                slab.write(*batch.before)
        if batch.replay is not None:
            users.make_room(int(batch.replay.slots.max(initial=0)) + 1)
            slab.reset(batch.replay.slots)
            self.runtime.rebuild(slab, batch.replay.events)
        users.empty_hidden(batch.reset)
        step = step_batch(batch)
        result = self.runtime.step(slab, step, self._k)
        broken = ~finite(result)
        if broken.any():
            out.hidden_resets += self._begin_anew(step, result, broken)
        return result

    def _begin_anew(self, step: StepBatch, result: StepResult, broken: npt.NDArray[np.bool_]) -> int:
        """Gives users whose hidden state is no number an empty one, and their events new answers.

        Returns how many users these are. Raises ModelError where that does not help.
        """
        slots = np.unique(step.slots[broken])
        theirs = np.isin(step.slots, slots)
        self.slab.reset(slots)
        again = self.runtime.step(self.slab, taken(step, theirs), self._k)
        if not finite(again).all():
            raise ModelError(NOT_FINITE)
        for field in dataclasses.fields(result):
            getattr(result, field.name)[theirs] = getattr(again, field.name)
        return len(slots)


def step_batch(batch: Applied) -> StepBatch:
    """What the model wants to know of the events of a micro-batch."""
    d = batch.events.data
    return StepBatch(
        slots=batch.slots,
        event_type=d["kind"].astype(np.int8),
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


def names_of(runtime: Runtime | None) -> tuple[Names, Names]:
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
