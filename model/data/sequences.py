"""Training examples: what each event should predict, and users' events cut into padded batches."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from model.data.interactions import Interactions

PURCHASE = 2


class Targets(NamedTuple):
    """The training targets of n events; -1 if there is no target."""

    event_type: npt.NDArray[np.int64]  # (n,) type of the user's next event
    item: npt.NDArray[np.int64]  # (n,) known item of the user's next event
    bought: npt.NDArray[np.int64]  # (n,) 1 if the user buys in (ts, ts + horizon], 0 if not
    at: npt.NDArray[np.int64]  # (n,) time of the next event, -1 if there is none


def targets(data: Interactions, item: npt.NDArray[np.int32], known: int, horizon_ms: int) -> Targets:
    """Return the targets of every event of a table; `item` is its item column in vocabulary numbers.

    Events so near the end of the table that their horizon is not over yet have no purchase label. The targets
    depend on nothing after the table's last event, so a table that is cut at a time leaks nothing from after it.
    """
    n = len(data)
    order = np.argsort(data.user, kind="stable")
    follows = np.zeros(n, np.bool_)  # in user order: the next row is the same user's next event
    follows[:-1] = data.user[order][1:] == data.user[order][:-1]
    here, there = order[:-1][follows[:-1]], order[1:][follows[:-1]]
    event_type, target, at = (np.full(n, -1, np.int64) for _ in range(3))
    event_type[here] = data.event_type[there]
    target[here] = np.where(item[there] < known, item[there], -1)
    at[here] = data.ts[there]
    bought = np.where(data.ts <= data.ts.max(initial=0) - horizon_ms, 0, -1).astype(np.int64)
    bought[_buys_soon(data, horizon_ms) & (bought == 0)] = 1
    return Targets(event_type, target, bought, at)


def _buys_soon(data: Interactions, horizon_ms: int) -> npt.NDArray[np.bool_]:
    """Return whether the user of each event buys in (ts, ts + horizon]."""
    if not len(data):
        return np.zeros(0, np.bool_)
    base = int(data.ts.min())
    width = int(data.ts.max()) - base + horizon_ms + 2  # so the keys of two users cannot overlap
    key = data.user * width + (data.ts - base)
    buys = np.sort(key[data.event_type == PURCHASE])
    after, until = (
        np.searchsorted(buys, key, side="right"),
        np.searchsorted(buys, key + horizon_ms, side="right"),
    )
    return until > after


class Chunk(NamedTuple):
    """A stretch of one user's events; the first `context` rows only build up the hidden state."""

    rows: npt.NDArray[np.int64]
    context: int


def chunks(user: npt.NDArray[np.int64], length: int, context: int) -> list[Chunk]:
    """Return every user's events in stretches of `length`, each with up to `context` earlier events."""
    order = np.argsort(user, kind="stable")
    bounds = np.flatnonzero(np.diff(user[order])) + 1
    found = []
    for rows in np.split(order, bounds):
        for start in range(0, len(rows), length):
            lead = min(start, context)
            found.append(Chunk(rows[start - lead : start + length], lead))
    return found


def learnable(parts: list[Chunk], teaches: npt.NDArray[np.bool_]) -> list[Chunk]:
    """Return the chunks that have an event with a target: a batch without any would have no gradient."""
    return [part for part in parts if teaches[part.rows[part.context :]].any()]


class Batch(NamedTuple):
    """Padded sequences: row numbers (B, T), 0 if `real` is False; `learn` excludes padding and context."""

    rows: torch.Tensor
    learn: torch.Tensor


def batches(parts: list[Chunk], events: int, random: np.random.Generator) -> Iterator[Batch]:
    """Yield all chunks once in random order, about `events` events per batch, similar lengths together."""
    lengths = np.array([len(part.rows) for part in parts])
    order = random.permutation(len(parts))
    # Chunks are shuffled among those less than a factor of two longer or shorter: mixed batches, little padding.
    order = order[np.argsort(np.ceil(np.log2(lengths[order])), kind="stable")]
    ends = np.cumsum(lengths[order])
    cuts = np.searchsorted(ends, np.arange(events, int(ends[-1]), events))
    groups = [group for group in np.split(order, np.unique(cuts)) if len(group)]
    for number in random.permutation(len(groups)):
        yield pad([parts[index] for index in groups[number]])


def pad(parts: list[Chunk]) -> Batch:
    """Return chunks as one padded batch."""
    width = max(len(part.rows) for part in parts)
    rows = np.zeros((len(parts), width), np.int64)
    learn = np.zeros((len(parts), width), np.bool_)
    for number, part in enumerate(parts):
        rows[number, : len(part.rows)] = part.rows
        learn[number, part.context : len(part.rows)] = True
    return Batch(torch.from_numpy(rows), torch.from_numpy(learn))


def in_order(
    user: npt.NDArray[np.int64], wanted: npt.NDArray[np.bool_], length: int, context: int, size: int
) -> Iterator[Batch]:
    """Yield the chunks that hold a wanted event, `size` chunks per batch, similar lengths together."""
    parts = [part for part in chunks(user, length, context) if wanted[part.rows[part.context :]].any()]
    parts.sort(key=lambda part: len(part.rows))
    for start in range(0, len(parts), size):
        yield pad(parts[start : start + size])
