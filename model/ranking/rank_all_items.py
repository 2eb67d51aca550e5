"""Finds the best of all items after an event, for evaluation; `rank_candidates` approximates it."""

import numpy as np
import numpy.typing as npt

from model.kernels.jit import jit
from model.kernels.simd_math import exp
from model.ranking.candidates import QUOTAS, Tables
from model.ranking.rank_candidates import Ranked


@jit(inline="always")
def _insert(item, score, items, scores, filled, k):  # type: ignore[no-untyped-def]
    """Insert an item into the sorted top k; return how many items it holds."""
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


@jit(inline="always")
def _softmax(raw, count, scores, filled):  # type: ignore[no-untyped-def]
    """Turn the top scores into the softmax over all raw scores."""
    if filled == 0:
        return
    top = scores[0]
    total = np.float32(0.0)
    for place in range(count):
        total += exp(raw[place] - top)
    for place in range(filled):
        scores[place] = exp(scores[place] - top) / total


@jit
def _top_rows(raw, items, scores):  # type: ignore[no-untyped-def]
    k = items.shape[1]
    for event in range(raw.shape[0]):
        filled = 0
        for item in range(raw.shape[1]):
            score = raw[event, item]
            if filled < k or score > scores[event, k - 1]:
                filled = _insert(item, score, items[event], scores[event], filled, k)
        _softmax(raw[event], raw.shape[1], scores[event], filled)


def rank(
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
