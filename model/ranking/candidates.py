"""Chooses the items to score: followers and associates of the last items, the best of the category, the most
popular."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

#: How many followers of the user's last item, of the one before it, and so on, become candidates.
QUOTAS = (40, 16, 8, 4)
FOLLOWERS = QUOTAS[0]  # columns of the follower table
CATEGORY_BEST = 16
POPULAR = 12
SUCCESSORS = 20
#: Most candidates of an event: followers, the last items themselves, category, popularity.
MOST = sum(QUOTAS) + len(QUOTAS) + CATEGORY_BEST + POPULAR
_REACH = 8  # a follower comes at most this many events later


class Tables(NamedTuple):
    """Candidate tables of one model, in vocabulary numbers; -1 fills a row that has no more."""

    followers: npt.NDArray[np.int32]  # (known items, FOLLOWERS), best first, then associates (see `fill`)
    strength: npt.NDArray[np.float32]  # same shape: log1p(100 x share of the followers' weight)
    category_best: npt.NDArray[np.int32]  # (category rows, CATEGORY_BEST)
    popular: npt.NDArray[np.int32]  # (POPULAR,)
    successors: npt.NDArray[np.int32]  # (known items, SUCCESSORS), the very next items: the Markov baseline


def pairs(
    user: npt.NDArray[np.int64], item: npt.NDArray[np.int32], known: int, reach: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return (from, to, weight) of all items that follow another of the same user, sorted by from and to.

    `user` and `item` are columns in which one user's events are in order. An item that comes d items later
    counts 1 / d, d up to `reach`: the sequential rules of Ludewig and Jannach 2018 (arXiv 1803.09587). Items
    outside the vocabulary are skipped.
    """
    order = np.argsort(user, kind="stable")
    order = order[item[order] < known]
    user, item = user[order], item[order]
    keys, weights = [], []
    for distance in range(1, reach + 1):
        same = user[distance:] == user[:-distance]
        source, target = item[:-distance][same], item[distance:][same]
        keys.append(source.astype(np.int64) * known + target)
        weights.append(np.full(len(source), 1.0 / distance))
    key, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    weight = np.bincount(inverse, np.concatenate(weights), minlength=len(key))
    return key // max(known, 1), key % max(known, 1), weight.astype(np.float64)


def build(
    user: npt.NDArray[np.int64],
    item: npt.NDArray[np.int32],
    category: npt.NDArray[np.int32],
    known: int,
    category_rows: int,
) -> Tables:
    """Return the candidate tables of a training table in vocabulary numbers (0 is the most popular item)."""
    source, target, weight = pairs(user, item, known, _REACH)
    total = np.bincount(source, weight, minlength=known)
    followers, share = _best_of_each(source, target, weight, known, FOLLOWERS)
    strength = np.log1p(100.0 * share / np.maximum(total, 1e-9)[:, None])
    seen = item < known
    key, counts = np.unique(category[seen].astype(np.int64) * max(known, 1) + item[seen], return_counts=True)
    best, _ = _best_of_each(
        key // max(known, 1), key % max(known, 1), counts.astype(np.float64), category_rows, CATEGORY_BEST
    )
    best[-1] = -1  # "no category" gives no hint
    popular = np.full(POPULAR, -1, np.int32)
    popular[: min(POPULAR, known)] = np.arange(min(POPULAR, known))
    successors, _ = _best_of_each(*pairs(user, item, known, 1), known, SUCCESSORS)
    return Tables(followers, strength.astype(np.float32), best, popular, successors)


def fill(tables: Tables, associates: npt.NDArray[np.int32]) -> Tables:
    """Return the tables with the empty places of each follower row taken by the item's associates.

    `associates` (known items, FOLLOWERS) are the items that the network ranks first after each item. Items that
    were seen to follow keep their places; an associate has strength 0, so only its score counts.
    """
    followers = tables.followers.copy()
    for number in np.flatnonzero((followers < 0).any(axis=1)):
        row = followers[number]  # a view
        have = int((row >= 0).sum())
        fresh = associates[number][~np.isin(associates[number], row[:have])]
        row[have : have + len(fresh)] = fresh[: len(row) - have]
    return tables._replace(followers=followers)


def _best_of_each(
    source: npt.NDArray[np.int64],
    target: npt.NDArray[np.int64],
    weight: npt.NDArray[np.float64],
    rows: int,
    width: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """Return the heaviest targets of every source and their weights; of equal ones the lower number comes first."""
    order = np.lexsort((target, -weight, source))
    source, target, weight = source[order], target[order], weight[order]
    rank = np.arange(len(source)) - np.searchsorted(source, source)
    kept = rank < width
    best = np.full((rows, width), -1, np.int32)
    heavy = np.zeros((rows, width))
    best[source[kept], rank[kept]] = target[kept]
    heavy[source[kept], rank[kept]] = weight[kept]
    return best, heavy
