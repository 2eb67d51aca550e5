"""The numbers of items and categories in the network's tables."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import xxhash

from model.data.interactions import Interactions


class Index:
    """Numbers for ids: known ids have 0 .. len(ids) - 1, then come hashed buckets for unknown ids, then "none".

    Unknown ids share `buckets` rows by a stable hash (xxh64), so the same new item always gets the
    same row, in every process and every run.
    """

    def __init__(self, ids: list[str], buckets: int) -> None:
        self.ids = ids
        self.buckets = buckets
        self.known = len(ids)
        self.none = self.known + buckets  #: the number that means "this event names none"
        self.size = self.none + 1  #: rows an embedding table needs
        self._numbers = {name: number for number, name in enumerate(ids)}

    def of(self, name: str) -> int:
        """Return the number of an id: below `known` if training saw the id, else its bucket."""
        number = self._numbers.get(name)
        return number if number is not None else self.bucket(name)

    def bucket(self, name: str) -> int:
        """Return the number of the hashed bucket of an id, known or not."""
        return int(self.bucket_of(np.array([xxhash.xxh64_intdigest(name.encode()) or 1], np.uint64))[0])

    def bucket_of(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        """Return the bucket numbers (n,) for hashes of ids (xxh64, with 1 in place of 0)."""
        return (self.known + hashes % np.uint64(self.buckets)).astype(np.int32)

    def lookup(self, names: Iterable[str]) -> npt.NDArray[np.int32]:
        """Return the numbers of many ids, then that of "none": so a column with -1 for none can index the result."""
        return np.array([*(self.of(name) for name in names), self.none], np.int32)

    def lookup_buckets(self) -> npt.NDArray[np.int32]:
        """Return for every number its bucket, as if the id were unknown; (size,) int32."""
        table = np.arange(self.size, dtype=np.int32)
        table[: self.known] = [self.bucket(name) for name in self.ids]
        return table


class Vocabulary:
    """The items and the categories of one model."""

    def __init__(self, items: Index, categories: Index) -> None:
        self.items = items
        self.categories = categories

    def columns(self, data: Interactions) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return the item and category columns of a table in this vocabulary's numbers, each (n,) int32."""
        return (
            self.items.lookup(data.items)[data.item],
            self.categories.lookup(data.categories)[data.category],
        )


def build(data: Interactions, *, min_count: int, max_items: int, buckets: int) -> Vocabulary:
    """Number the items and categories of a training table, the most frequent first.

    Item number 0 is the most popular item, so "the k most popular" is `range(k)` and rows in frequent use are
    adjacent in memory. Equal counts are in the order of their ids. Items seen less than `min_count` times, or beyond
    the `max_items` most frequent, share the buckets.
    """
    items = _by_count(data.item, data.items, min_count)[:max_items]
    categories = _by_count(data.category, data.categories, 1)
    return Vocabulary(Index(items, buckets), Index(categories, buckets))


def _by_count(column: npt.NDArray[np.int64], names: list[str], min_count: int) -> list[str]:
    counts = np.bincount(column[column >= 0], minlength=len(names))
    kept = [number for number in range(len(names)) if counts[number] >= max(1, min_count)]
    return [names[number] for number in sorted(kept, key=lambda number: (-counts[number], names[number]))]
