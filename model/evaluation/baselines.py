"""Baselines for the network: lists of items that need only counting.

Each baseline returns a list of item numbers (n, k), best first. A list that is too short is filled with popular
items; equal counts are ordered by popularity, which favours the baseline.
"""

import numpy as np
import numpy.typing as npt

from model.data.interactions import Interactions
from model.data.sequences import Targets

Lists = npt.NDArray[np.int32]


def popularity(n: int, known: int, k: int) -> Lists:
    """Return the most popular items, the same list for every event (item numbers are popularity ranks)."""
    row = np.full(k, -1, np.int32)
    row[: min(k, known)] = np.arange(min(k, known))
    return np.tile(row, (n, 1))


def followers(last: npt.NDArray[np.int32], table: Lists, known: int, k: int) -> Lists:
    """Return the items that most often followed each event's item.

    With the table of direct successors this is a first-order Markov chain, with that of `candidates.pairs`
    over several steps it is sequential rules (Ludewig and Jannach 2018).
    """
    lists = np.full((len(last), k), -1, np.int32)
    seen = last < known
    width = min(k, table.shape[1])
    lists[seen, :width] = table[last[seen], :width]
    popular = popularity(1, known, k)[0]
    for number in np.flatnonzero((lists < 0).any(axis=1)):
        row = lists[number]  # a view
        have = int((row >= 0).sum())
        rest = popular[~np.isin(popular, row[:have])][: k - have]
        row[have : have + len(rest)] = rest
    return lists


def event_types(data: Interactions, wanted: Targets) -> dict[str, npt.NDArray[np.int64]]:
    """Return guesses of the next type: always the most common next type of the data, or the same again."""
    known = wanted.event_type[wanted.event_type >= 0]
    common = int(np.bincount(known, minlength=3).argmax()) if len(known) else 0
    return {"majority": np.full(len(data), common), "repeat": data.event_type.astype(np.int64)}
