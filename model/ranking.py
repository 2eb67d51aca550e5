"""The best items of an event: gather candidates, score them against the user's state, keep the top k.

Score of item i = state . item[i] + bias[i] + boost x strength of i as a follower of the last items (halved
with every item further back), so that rare transitions that the embedding blurs are not lost. `boost` is
chosen on validation data. Equal scores: the lower item number (the more popular item) first.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from model.candidates import MOST, QUOTAS, Tables

_QUOTAS = np.array(QUOTAS, np.int64)


class Ranked(NamedTuple):
    """The best items of m events, best first; rows with fewer than k candidates end in -1 with score 0."""

    items: npt.NDArray[np.int32]  # (m, k)
    scores: npt.NDArray[np.float32]  # (m, k) softmax over the event's candidates


def rank(
    states: npt.NDArray[np.float32],  # (m, hidden)
    recent: npt.NDArray[np.int32],  # (m, R) last distinct items, newest first
    category: npt.NDArray[np.int32],  # (m,)
    table: npt.NDArray[np.float32],  # (at least known items, hidden)
    bias: npt.NDArray[np.float32],  # (known items,)
    tables: Tables,
    boost: float,
    k: int,
) -> Ranked:
    """Return the k best candidates of every event."""
    items = np.full((len(states), k), -1, np.int32)
    scores = np.zeros((len(states), k), np.float32)
    _rank(
        states, recent, category, table, bias,
        tables.followers, tables.strength, tables.category_best, tables.popular, np.float32(boost),
        items, scores,
    )  # fmt: skip
    return Ranked(items, scores)


@numba.njit(nogil=True, cache=True, inline="always")
def _add(item, bonus, base, where, chosen, bonuses, count):  # type: ignore[no-untyped-def]
    """Add a candidate, or its bonus where the event already has it; return the number of candidates."""
    place = where[item] - base
    if place >= 0:
        bonuses[place] += bonus
        return count
    where[item] = base + count
    chosen[count] = item
    bonuses[count] = bonus
    return count + 1


@numba.njit(nogil=True, cache=True, fastmath=True)
def _rank(  # type: ignore[no-untyped-def]
    states, recent, category, table, bias, followers, strength, category_best, popular, boost, items, scores
):
    known, hidden = bias.shape[0], states.shape[1]
    k = items.shape[1]
    # where[i] = base + place of item i among the candidates of the present event; an older event's mark is
    # below the present base, so nothing needs to be cleared between events.
    where = np.full(known, -1, np.int64)
    chosen = np.empty(MOST, np.int32)
    bonuses = np.empty(MOST, np.float32)
    for event in range(states.shape[0]):
        base = event * MOST
        count = 0
        share = np.float32(2.0) * boost
        for place in range(min(recent.shape[1], _QUOTAS.shape[0])):
            item = recent[event, place]
            share *= np.float32(0.5)
            if item < 0 or item >= known:
                continue
            count = _add(item, np.float32(0.0), base, where, chosen, bonuses, count)
            for column in range(_QUOTAS[place]):
                follower = followers[item, column]
                if follower < 0:
                    break
                bonus = share * strength[item, column]
                count = _add(follower, bonus, base, where, chosen, bonuses, count)
        for column in range(category_best.shape[1]):
            item = category_best[category[event], column]
            if item < 0:
                break
            count = _add(item, np.float32(0.0), base, where, chosen, bonuses, count)
        for column in range(popular.shape[0]):
            item = popular[column]
            if item < 0:
                break
            count = _add(item, np.float32(0.0), base, where, chosen, bonuses, count)
        filled = 0
        for place in range(count):
            item = chosen[place]
            score = np.float32(0.0)
            for column in range(hidden):
                score += states[event, column] * table[item, column]
            score += bias[item] + bonuses[place]
            bonuses[place] = score
            filled = _insert(item, score, items[event], scores[event], filled, k)
        _softmax(bonuses, count, scores[event], filled)


@numba.njit(nogil=True, cache=True, inline="always")
def _insert(item, score, items, scores, filled, k):  # type: ignore[no-untyped-def]
    """Insert into the sorted top k; return how many it holds."""
    if filled == k:
        last = scores[k - 1]
        if score < last or (score == last and item > items[k - 1]):
            return filled
        at = k - 1
    else:
        at = filled
        filled += 1
    while at > 0 and (scores[at - 1] < score or (scores[at - 1] == score and items[at - 1] > item)):
        scores[at] = scores[at - 1]
        items[at] = items[at - 1]
        at -= 1
    scores[at] = score
    items[at] = item
    return filled


@numba.njit(nogil=True, cache=True, fastmath=True, inline="always")
def _softmax(raw, count, scores, filled):  # type: ignore[no-untyped-def]
    """Turn the top scores into shares of the exponentials of all raw scores."""
    if filled == 0:
        return
    top = scores[0]
    total = np.float32(0.0)
    for place in range(count):
        total += math.exp(raw[place] - top)
    for place in range(filled):
        scores[place] = math.exp(scores[place] - top) / total


@numba.njit(nogil=True, cache=True)
def _top_rows(raw, items, scores):  # type: ignore[no-untyped-def]
    k = items.shape[1]
    for event in range(raw.shape[0]):
        filled = 0
        for item in range(raw.shape[1]):
            score = raw[event, item]
            if filled < k or score > scores[event, k - 1]:
                filled = _insert(item, score, items[event], scores[event], filled, k)
        _softmax(raw[event], raw.shape[1], scores[event], filled)


def rank_exact(
    raw: npt.NDArray[np.float32],  # (m, known items) state . item + bias; overwritten
    recent: npt.NDArray[np.int32],
    tables: Tables,
    boost: float,
    k: int,
) -> Ranked:
    """Return the k best of all items; `raw` receives the followers' bonuses."""
    add_bonuses(raw, recent, tables, boost)
    items = np.full((len(raw), k), -1, np.int32)
    scores = np.zeros((len(raw), k), np.float32)
    _top_rows(raw, items, scores)
    return Ranked(items, scores)


def add_bonuses(
    raw: npt.NDArray[np.float32], recent: npt.NDArray[np.int32], tables: Tables, boost: float
) -> None:
    """Add the followers' bonuses to the scores of all items (m, known items), in place."""
    known, share = raw.shape[1], boost
    for place, quota in zip(range(recent.shape[1]), QUOTAS, strict=False):
        rows = np.flatnonzero((recent[:, place] >= 0) & (recent[:, place] < known))
        followers = tables.followers[recent[rows, place], :quota]  # (rows, quota), no item twice in a row
        at, column = np.nonzero(followers >= 0)
        bonus = np.float32(share) * tables.strength[recent[rows, place], :quota]
        raw[rows[at], followers[at, column]] += bonus[at, column]
        share *= 0.5
