"""Finds the best items after an event: gather candidates, score them with the user's state, keep the best k.

Score of item i = state . item[i] + bias[i] + boost x strength of i as a follower of the last items (halved
with every item further back), so that rare transitions, which the embedding blurs, are not lost. `boost` is
chosen on validation data. Equal scores: the lower item number (the more popular item) first.

Candidates' rows are far apart in memory, so reading their bytes is the main cost. A first pass scores all of them
on item vectors in 8 bits (`quantised_items`), with a bound on the error of each score. Only candidates that may
belong to the top k, about 1.5 k of them, are scored in 16 bits, and in float32 if two scores are too close to
decide their order. So the k items and their order are those of float32. Shares differ from those of float32 by about
a thousandth of themselves, because their denominator contains the 8-bit scores of the other candidates.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model.kernels.helper_thread import THREADS, Task
from model.kernels.jit import jit
from model.kernels.simd_math import exp, prefetch
from model.ranking.candidates import MOST, QUOTAS, Tables
from model.ranking.quantised_items import BIAS, FINE_LOST, FINE_STEPS, LOST, SCALE, quantised

_QUOTAS = np.array(QUOTAS, np.int64)
_PIECE = 256  # events per task
_CUTS = 12  # bisection steps for the k-th best score: 1/4000 of the range of the scores is close enough


class Ranked(NamedTuple):
    """The best items of m events, best first; rows with fewer than k candidates end in -1 with score 0."""

    items: npt.NDArray[np.int32]  # (m, k)
    scores: npt.NDArray[np.float32]  # (m, k) softmax over the event's candidates


class _Marks:
    """Marks the candidates of the current event; for one thread."""

    def __init__(self, items: int) -> None:
        # mark[i] = base + place of item i among the candidates of the current event. Marks of older events are
        # below the current base, so nothing needs to be cleared between events, nor between calls.
        self.mark = np.full(items, -1, np.int64)
        self.base = 0


class Ranker:
    """Ranks the candidates of one model; for one caller at a time."""

    def __init__(
        self,
        table: npt.NDArray[np.float32],  # (at least known items, hidden)
        bias: npt.NDArray[np.float32],  # (known items,)
        tables: Tables,
    ) -> None:
        self.quantised = quantised(table, bias)
        self._table = table
        self._tables = Tables._make(np.ascontiguousarray(each) for each in tables)
        self._marks = [_Marks(len(bias)) for _ in range(THREADS)]

    def rank(
        self,
        states: npt.NDArray[np.float32],  # (rows, hidden)
        rows: npt.NDArray[np.int64],  # (m,) the row of `states` for each event
        recent: npt.NDArray[np.int32],  # (m, R) last distinct items, newest first
        category: npt.NDArray[np.int32],  # (m,)
        boost: float,
        k: int,
    ) -> tuple[Ranked, list[Task]]:
        """Return arrays for the k best candidates of every event, and the tasks that fill them."""
        m = len(rows)
        ranked = Ranked(np.full((m, k), -1, np.int32), np.zeros((m, k), np.float32))
        tables = self._tables

        def task(start: int, thread: int) -> None:
            part, marks = slice(start, start + _PIECE), self._marks[thread]
            _rank(
                states, rows[part], recent[part], category[part], *self.quantised, self._table,
                tables.followers, tables.strength, tables.category_best, tables.popular, np.float32(boost),
                marks.mark, marks.base, ranked.items[part], ranked.scores[part],
            )  # fmt: skip
            marks.base += _PIECE * MOST

        return ranked, [partial(task, start) for start in range(0, m, _PIECE)]


@jit
def _rank(  # type: ignore[no-untyped-def]
    states, rows, recent, category, small, fine, facts, table, followers, strength, category_best, popular,
    boost, mark, base, items, scores,
):  # fmt: skip
    k = items.shape[1]
    chosen = np.empty(MOST, np.int32)
    bonuses = np.empty(MOST, np.float32)
    raw = np.empty(MOST, np.float32)
    lowest = np.empty(MOST, np.float32)
    near = np.empty(MOST + 1, np.int64)  # places of the candidates that may belong to the top k
    item_of = np.empty(MOST, np.int32)
    score_of = np.empty(MOST, np.float32)
    for event in range(rows.shape[0]):
        state = states[rows[event]]
        count = _gather(
            recent[event], category[event], followers, strength, category_best, popular, boost,
            mark, base, small, chosen, bonuses,
        )  # fmt: skip
        base += MOST
        length = _length(state)
        _score_roughly(state, length, chosen, count, small, facts, bonuses, raw, lowest)
        found = _nearest(chosen, count, facts, length, lowest, _kth(lowest, count, k), near)
        unsure = _score_finely(state, length, near, found, chosen, fine, facts, raw, item_of, score_of)
        if not _place(item_of, score_of, found, unsure, items[event], scores[event]):
            _score_exactly(state, near, found, chosen, table, facts, bonuses, raw, score_of)
            _place(item_of, score_of, found, np.float32(-1.0), items[event], scores[event])
        top = scores[event, 0]
        total = np.float32(0.0)
        for place in range(count):
            total += exp(raw[place] - top)
        for place in range(min(found, k)):
            scores[event, place] = exp(scores[event, place] - top) / total


@jit
def _gather(  # type: ignore[no-untyped-def]
    recent, category, followers, strength, category_best, popular, boost, mark, base, small, chosen, bonuses
):
    """Write the event's candidates, each once, and their bonuses; return how many there are.

    Their rows of `small` are prefetched as soon as they are known: they are far apart in memory, and together larger
    than a core's cache.
    """
    known = mark.shape[0]
    count = 0
    share = np.float32(2.0) * boost
    for place in range(min(recent.shape[0], _QUOTAS.shape[0])):
        item = recent[place]
        share *= np.float32(0.5)
        if item < 0 or item >= known:
            continue
        count = _add(item, np.float32(0.0), base, mark, small, chosen, bonuses, count)
        for column in range(_QUOTAS[place]):
            follower = followers[item, column]
            if follower < 0:
                break
            count = _add(follower, share * strength[item, column], base, mark, small, chosen, bonuses, count)
    for column in range(category_best.shape[1]):
        item = category_best[category, column]
        if item < 0:
            break
        count = _add(item, np.float32(0.0), base, mark, small, chosen, bonuses, count)
    for column in range(popular.shape[0]):
        item = popular[column]
        if item < 0:
            break
        count = _add(item, np.float32(0.0), base, mark, small, chosen, bonuses, count)
    return count


@jit(inline="always")
def _add(item, bonus, base, mark, small, chosen, bonuses, count):  # type: ignore[no-untyped-def]
    """Add a candidate, or only its bonus if the event already has it; return the number of candidates."""
    place = mark[item] - base
    if place >= 0:
        bonuses[place] += bonus
        return count
    row = small.ctypes.data + item * small.shape[1]
    for line in range(0, small.shape[1], 64):
        prefetch(row + line)
    mark[item] = base + count
    chosen[count] = item
    bonuses[count] = bonus
    return count + 1


@jit
def _length(state):  # type: ignore[no-untyped-def]
    total = np.float32(0.0)
    for column in range(state.shape[0]):
        total += state[column] * state[column]
    return np.float32(math.sqrt(total)) * np.float32(1.00001)


@jit
def _score_roughly(state, length, chosen, count, small, facts, bonuses, raw, lowest):  # type: ignore[no-untyped-def]
    """Write the 8-bit scores of all candidates, and a lower bound of each true score."""
    for place in range(count):
        item = chosen[place]
        row = small[item]
        score = np.float32(0.0)
        for column in range(row.shape[0]):
            score += state[column] * np.float32(row[column])
        raw[place] = score * facts[item, SCALE] + facts[item, BIAS] + bonuses[place]
        lowest[place] = raw[place] - length * facts[item, LOST]


@jit
def _kth(lowest, count, k):  # type: ignore[no-untyped-def]
    """Return a score that at least k candidates certainly reach, and few others; all reach it if there are fewer."""
    if count == 0:
        return np.float32(0.0)
    low = high = lowest[0]
    for place in range(count):
        low = min(low, lowest[place])
        high = max(high, lowest[place])
    if count <= k:
        return low
    for _ in range(_CUTS):  # a branch per candidate would be mispredicted too often
        middle = np.float32(0.5) * (low + high)
        reached = np.int32(0)
        for place in range(count):
            reached += np.int32(lowest[place] >= middle)
        if reached >= k:
            low = middle
            if reached == k:
                break
        else:
            high = middle
    return low


@jit
def _nearest(chosen, count, facts, length, lowest, bound, near):  # type: ignore[no-untyped-def]
    """Write the places of the candidates whose true score may be `bound` or more; return how many."""
    found = np.int64(0)
    for place in range(count):
        near[found] = place
        highest = lowest[place] + np.float32(2.0) * length * facts[chosen[place], LOST]
        found += np.int64(highest >= bound)
    return found


@jit
def _score_finely(  # type: ignore[no-untyped-def]
    state, length, near, found, chosen, fine, facts, raw, item_of, score_of
):
    """Add the second layer to the scores of those in `near`; return the distance from which two are certain."""
    unsure = np.float32(0.0)
    for number in range(found):
        place = near[number]
        item = chosen[place]
        row = fine[item]
        score = np.float32(0.0)
        for column in range(row.shape[0]):
            score += state[column] * np.float32(row[column])
        raw[place] += score * (facts[item, SCALE] / np.float32(FINE_STEPS))
        item_of[number] = item
        score_of[number] = raw[place]
        unsure = max(unsure, facts[item, FINE_LOST])
    return np.float32(2.0) * length * unsure


@jit
def _score_exactly(state, near, found, chosen, table, facts, bonuses, raw, score_of):  # type: ignore[no-untyped-def]
    for number in range(found):
        place = near[number]
        item = chosen[place]
        row = table[item]
        score = np.float32(0.0)
        for column in range(row.shape[0]):
            score += state[column] * row[column]
        score += facts[item, BIAS] + bonuses[place]
        raw[place] = score
        score_of[number] = score


@jit
def _place(item_of, score_of, found, unsure, items, scores):  # type: ignore[no-untyped-def]
    """Write the best of `found` items in order, by counting how many are better.

    Returns False if two of them differ by no more than `unsure`.
    """
    doubts = np.int32(0)
    for number in range(found):
        item, score = item_of[number], score_of[number]
        better, close = np.int32(0), np.int32(0)
        for other in range(found):
            apart = score_of[other] - score
            equal = (apart == np.float32(0.0)) & (item_of[other] < item)
            better += np.int32((apart > np.float32(0.0)) | equal)
            close += np.int32(abs(apart) <= unsure)
        if better < items.shape[0]:
            items[better] = item
            scores[better] = score
            doubts += np.int32(close > 1)  # each item is close to itself
    return doubts == 0
