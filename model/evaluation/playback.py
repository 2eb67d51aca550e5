"""Plays a training table through a runtime, in micro-batches like those of the stream processor."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from model.data.interactions import Interactions
from model.serving.runtime import Runtime, StepBatch, StepResult
from model.serving.step_types import RECENT_ITEMS


def play(
    runtime: Runtime, data: Interactions, answered: npt.NDArray[np.bool_], k: int = 10, size: int = 4096
) -> Iterator[tuple[npt.NDArray[np.int64], StepResult]]:
    """Yield (row numbers, answers) of the rows wanted in `answered` (n,), in table order.

    Rows before the first wanted one only advance the states of their users.
    """
    batch = whole_batch(runtime, data)
    hidden = runtime.hidden_states(int(data.user.max(initial=-1)) + 1)
    start = int(np.argmax(answered)) if answered.any() else len(data)
    for first in range(0, start, size):
        runtime.rebuild(hidden, part(batch, np.arange(first, min(first + size, start))))
    for first in range(start, len(data), size):
        rows = np.arange(first, min(first + size, len(data)))
        result = runtime.step(hidden, part(batch, rows), k)
        kept = answered[rows]
        yield rows[kept], pick(result, kept)


def whole_batch(runtime: Runtime, data: Interactions) -> StepBatch:
    """Return a table as one batch; slots are its user numbers."""
    item, category = runtime.content.vocabulary.columns(data)
    recent, first = recent_items(data.user, item, runtime.none_item)
    return StepBatch(
        data.user, data.event_type, item, category, data.gap_s, data.ts, data.price, data.quantity, data.windows,
        recent, first,
    )  # fmt: skip


def part(batch: StepBatch, rows: npt.NDArray[np.int64]) -> StepBatch:
    """Return some rows of a batch."""
    return StepBatch(**{name: column[rows] for name, column in vars(batch).items()})


def pick(result: StepResult, kept: npt.NDArray[np.bool_]) -> StepResult:
    """Return the answers of some events."""
    return StepResult(**{name: column[kept] for name, column in vars(result).items()})


def recent_items(
    user: npt.NDArray[np.int64], item: npt.NDArray[np.int32], none: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Return each event's last distinct items (n, RECENT_ITEMS), newest first, and whether it is a first event."""
    recent = np.full((len(user), RECENT_ITEMS), none, np.int32)
    first = np.zeros(len(user), np.bool_)
    last: dict[int, list[int]] = {}
    for row, (who, what) in enumerate(zip(user.tolist(), item.tolist(), strict=True)):
        seen = last.get(who)
        if seen is None:
            first[row] = True
            seen = last[who] = []
        if what != none:
            if what in seen:
                seen.remove(what)
            seen.insert(0, what)
            del seen[RECENT_ITEMS:]
        recent[row, : len(seen)] = seen
    return recent, first
