"""Item and category names: their stable hashes, which state keeps, and the model's indexes of them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from stream_app.pointer import jit, pointer_to

#: The model's index of a name that is not in the table yet, as compiled code reports it.
NOT_YET = np.iinfo(np.int32).min


def stable_hash(name: str) -> int:
    """XXH64 hash of the name in UTF-8, never 0 (which stands for "none").

    The same in every process and release, so that state written by one worker is read by another.
    """
    return xxhash.xxh64_intdigest(name.encode()) or 1


class Names:
    """A bounded table of the names seen: each costs the model's look-up once."""

    def __init__(
        self,
        model_index: Callable[[str], int],
        none_index: int,
        limit: int = 2_000_000,
        vocabulary: Mapping[int, str] | None = None,
    ) -> None:
        """`vocabulary`: names by hash that are known from the start and are never forgotten."""
        self._vocabulary = dict(vocabulary or {})
        self._model_index = model_index
        self.none_index = none_index
        self._limit = limit
        self._reset()

    def _reset(self) -> None:
        self._seen: dict[int, tuple[str, int]] = {}
        self._count = 0
        capacity = max(1024, 2 * len(self._vocabulary))
        self._hashes = np.empty(capacity, np.uint64)
        self._model = np.empty(capacity, np.int32)
        self._table = np.zeros(2 * _power_of_two(capacity), np.int32)
        for hashed, name in self._vocabulary.items():
            self._append(hashed, self._model_index(name))

    def __len__(self) -> int:
        return len(self._seen)

    def look_up(
        self, names: Sequence[str | int | None]
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
        """Hashes (n,) and model indexes (n,) of the names; an integer counts as its decimal string."""
        self.bound()
        texts = ["" if name is None else str(name) for name in names]
        hashes = np.array([stable_hash(text) if text else 0 for text in texts], np.uint64)
        indexes = np.empty(len(texts), np.int32)
        _find_all(self._table, self._hashes, self._model, hashes, self.none_index, indexes)
        for i in np.flatnonzero(indexes == NOT_YET).tolist():
            indexes[i] = self.add(int(hashes[i]), texts[i])
        return hashes, indexes

    @property
    def columns(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64], npt.NDArray[np.int32], int]:
        """Table, hashes, model indexes and the index of none, for compiled code that calls `find`."""
        return self._table, self._hashes, self._model, self.none_index

    def bound(self) -> None:
        """Forgets the names seen once there are too many of them."""
        if len(self._seen) >= self._limit:
            self._reset()

    def add(self, hashed: int, name: str) -> int:
        """The model's index of a name that `find` did not know when it was asked."""
        known = self._seen.get(hashed)
        if known is None:
            known = self._seen[hashed] = name, self._model_index(name)
            self._append(hashed, known[1])
        return known[1]

    def _append(self, hashed: int, index: int) -> None:
        i = self._count
        if i == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
            self._model = np.concatenate([self._model, np.empty_like(self._model)])
            self._table = np.zeros(2 * len(self._table), np.int32)
            _insert(self._table, self._hashes, 0, i)
        self._hashes[i] = hashed
        self._model[i] = index
        self._count += 1
        _insert(self._table, self._hashes, i, i + 1)

    def name_of(self, hashed: int) -> str | None:
        """The name of a hash if the model or this process knows it, else "#" and hex digits; None for 0."""
        if hashed == 0:
            return None
        seen = self._seen.get(hashed)
        return seen[0] if seen else self._vocabulary.get(hashed, f"#{hashed:016x}")


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


@jit
def find(table, mask, hashes, model, hashed):  # type: ignore[no-untyped-def]
    """The model's index of a hash, NOT_YET where the table of `mask` + 1 places does not hold it. By pointers."""
    at = np.int64(hashed) & mask
    while table[at] != 0:
        i = table[at] - 1
        if hashes[i] == hashed:
            return model[i]
        at = (at + 1) & mask
    return NOT_YET


@jit
def pointers(columns):  # type: ignore[no-untyped-def]
    """`Names.columns` as `find` takes them, and the index of none."""
    table, hashes, model, none = columns
    return pointer_to(table), len(table) - 1, pointer_to(hashes), pointer_to(model), none


@jit
def _find_all(table, hashes, model, wanted, none, out):  # type: ignore[no-untyped-def]
    places, known, numbers = pointer_to(table), pointer_to(hashes), pointer_to(model)
    for i in range(len(wanted)):
        out[i] = none if wanted[i] == 0 else find(places, len(table) - 1, known, numbers, wanted[i])


@jit
def _insert(table, hashes, start, end):  # type: ignore[no-untyped-def]
    """Puts numbers from `start` to `end` into an open-addressed table with linear probing."""
    mask = len(table) - 1
    for i in range(start, end):
        at = np.int64(hashes[i]) & mask
        while table[at] != 0:
            at = (at + 1) & mask
        table[at] = i + 1
