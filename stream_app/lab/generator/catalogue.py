"""The shop: items, categories, prices, and which item leads to which."""

from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.signedinteger[Any]]
Floats = npt.NDArray[np.float64]

#: Number of tastes of users and of styles of items: a user of taste s goes on to items of style s.
TASTES = 4
#: Number of successors of an item for one taste, and how likely each is.
SUCCESSORS = 5
_SUCCESSOR_P = np.array([0.45, 0.25, 0.15, 0.10, 0.05])


def zipf(n: int, exponent: float, rng: np.random.Generator) -> Floats:
    """Return probabilities (n,) by Zipf's law, p(rank) ~ rank**-exponent, with ranks assigned at random."""
    weights = rng.permutation(np.arange(1, n + 1, dtype=np.float64) ** -exponent)
    return np.asarray(weights / weights.sum())


class Catalogue(NamedTuple):
    """I items in C categories; items of one category are adjacent in `shelf`."""

    category: Ints  # (I,)
    price: Floats  # (I,) two decimals
    shelf: Ints  # (I,) items by category
    reach: Floats  # (I + 1,) cumulated popularity along `shelf`
    border: Ints  # (C + 1,) where each category starts in `shelf`
    successors: Ints  # (I, TASTES, SUCCESSORS)
    expensive: Ints  # the most expensive twentieth of the items

    @classmethod
    def make(cls, items: int, categories: int, exponent: float, rng: np.random.Generator) -> Self:
        """Return a random catalogue: sizes and popularity by Zipf, prices log-normal around that of the category."""
        size = zipf(categories, 0.7, rng)
        # First one item per category, so that no category is empty.
        category = np.concatenate(
            [np.arange(categories), rng.choice(categories, items - categories, p=size)]
        ).astype(np.int32)
        rng.shuffle(category)
        popularity = zipf(items, exponent, rng)
        median = np.exp(rng.normal(np.log(30.0), 0.8, categories))
        price = np.maximum(np.round(median[category] * np.exp(rng.normal(0, 0.5, items)), 2), 0.5)
        shelf = np.lexsort((-popularity, category)).astype(np.int32)
        border = np.searchsorted(category[shelf], np.arange(categories + 1)).astype(np.int32)
        return cls(
            category,
            price,
            shelf,
            np.concatenate([[0.0], np.cumsum(popularity[shelf])]),
            border,
            _successors(category, popularity, categories, rng),
            np.argsort(price)[-max(1, items // 20) :].astype(np.int32),
        )

    def popular(self, category: Ints, u: Floats) -> Ints:
        """Return an item of each category (n,), drawn by popularity; `u` (n,) is uniform in [0, 1)."""
        low, high = self.reach[self.border[category]], self.reach[self.border[category + 1]]
        place = np.searchsorted(self.reach, low + u * (high - low), side="right") - 1
        return self.shelf[np.clip(place, self.border[category], self.border[category + 1] - 1)]

    def any(self, u: Floats) -> Ints:
        """Return items (n,) of the whole shop, drawn by popularity."""
        place = np.searchsorted(self.reach, u * self.reach[-1], side="right") - 1
        return self.shelf[np.minimum(place, len(self.shelf) - 1)]

    def after(self, item: Ints, taste: Ints, u: Floats) -> Ints:
        """Return the items (n,) that follow `item` for users of `taste`."""
        rank = np.searchsorted(np.cumsum(_SUCCESSOR_P)[:-1], u, side="right")
        return self.successors[item, taste, rank]


def _successors(category: Ints, popularity: Floats, categories: int, rng: np.random.Generator) -> Ints:
    """Return neighbours on the shelf of (category, style); they start at a position that depends on the item, mostly
    near the top."""
    items = len(category)
    group = category * TASTES + rng.integers(0, TASTES, items)
    order = np.lexsort((-popularity, group))
    border = np.searchsorted(group[order], np.arange(categories * TASTES + 1))
    wanted = category[:, None] * TASTES + np.arange(TASTES)  # (I, TASTES) the group of the successors
    size = border[wanted + 1] - border[wanted]
    # A small category may have no item of a style: then any style of the category is taken.
    empty = size == 0
    first = np.where(empty, border[category * TASTES][:, None], border[wanted])
    size = np.where(empty, (border[category * TASTES + TASTES] - border[category * TASTES])[:, None], size)
    place = (size * rng.random((items, TASTES)) ** 2).astype(np.int64)
    steps = (place[..., None] + np.arange(SUCCESSORS)) % size[..., None]
    return order[first[..., None] + steps].astype(np.int32)
