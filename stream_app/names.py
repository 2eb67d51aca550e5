"""Item and category names: their stable hashes, which state keeps, and the model's indexes of them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xxhash


def stable_hash(name: str) -> int:
    """XXH3 64-bit hash of the name in UTF-8, never 0 (which stands for "none").

    The same in every process and release, so that state written by one worker is read by another.
    Source: the XXH3 specification of xxHash 0.8.
    """
    return xxhash.xxh3_64_intdigest(name.encode()) or 1


class Names:
    """A bounded table of the names seen: each costs its hash and the model's look-up once."""

    def __init__(
        self,
        model_index: Callable[[str], int],
        none_index: int,
        limit: int = 2_000_000,
        vocabulary: Mapping[int, str] | None = None,
    ) -> None:
        """`vocabulary`: names by hash that can be told without having been seen here."""
        self._vocabulary = vocabulary or {}
        self._model_index = model_index
        self._none_index = none_index
        self._limit = limit
        self._index: dict[str | int | None, int] = {}
        self._hash = np.empty(1024, np.uint64)
        self._model = np.empty(1024, np.int32)
        self._by_hash: dict[int, str] = {}
        self._reset()

    def _reset(self) -> None:
        self._index.clear()
        self._by_hash.clear()
        self._index[None] = 0
        self._hash[0] = 0
        self._model[0] = self._none_index

    def __len__(self) -> int:
        return len(self._index) - 1

    def look_up(
        self, names: Sequence[str | int | None]
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
        """Hashes (n,) and model indexes (n,) of the names; an integer counts as its decimal string."""
        if len(self._index) > self._limit:
            self._reset()
        get = self._index.get
        found = [get(name, -1) for name in names]
        index = np.array(found, np.int64)
        for i in np.flatnonzero(index < 0).tolist():
            index[i] = self._add(names[i])
        return self._hash[index], self._model[index]

    def _add(self, name: str | int | None) -> int:
        known = self._index.get(name)
        if known is not None:  # twice in this batch
            return known
        text = str(name)
        i = len(self._index)
        if i == len(self._hash):
            self._hash = np.concatenate([self._hash, np.empty_like(self._hash)])
            self._model = np.concatenate([self._model, np.empty_like(self._model)])
        self._hash[i] = stable_hash(text) if text else 0
        self._model[i] = self._model_index(text) if text else self._none_index
        self._index[name] = i
        self._by_hash[int(self._hash[i])] = text
        return i

    def name_of(self, hashed: int) -> str | None:
        """The name of a hash if the model or this process knows it, else "#" and hex digits; None for 0."""
        if hashed == 0:
            return None
        return self._by_hash.get(hashed) or self._vocabulary.get(hashed) or f"#{hashed:016x}"
