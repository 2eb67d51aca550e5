"""Item and category names: their stable hashes, which the state stores, and the model's numbers for them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from stream_app.kernels.hashing import Key, random_key, siphash13_word
from stream_app.kernels.jit import jit
from stream_app.kernels.memory import pointer_to

#: What compiled code returns for a name that is not in the table yet, instead of the model's number.
NOT_YET = np.iinfo(np.int32).min

#: The most bytes of a table, and the bytes of each name in addition to its text: two objects, a tuple, table entries.
MAX_BYTES = 256 * 1024 * 1024
NAME_BYTES = 256


def stable_hash(name: str) -> int:
    """XXH64 hash of the name in UTF-8, never 0, which means "none".

    It is the same in every process and release, so that all workers can read the state.
    """
    return xxhash.xxh64_intdigest(name.encode()) or 1


class NameTable:
    """A table of the names seen, limited in number and in bytes. The model is asked once for each name.

    A name's place depends on its stable hash and a secret key, so that nobody can choose names that collide.
    """

    def __init__(
        self,
        model_index: Callable[[str], int],
        none_index: int,
        limit: int = 2_000_000,
        vocabulary: Mapping[int, str] | None = None,
        *,
        max_bytes: int = MAX_BYTES,
        key: Key | None = None,
    ) -> None:
        """`vocabulary`: names by hash that are known from the start and never dropped.

        `key`: of the hash that determines a name's place; random by default.
        """
        self._vocabulary = dict(vocabulary or {})
        self._model_index = model_index
        self.none_index = none_index
        self._limit = limit
        self._max_bytes = max_bytes
        self._key = key or random_key()
        self._reset()

    def _reset(self) -> None:
        self._seen: dict[int, tuple[str, int]] = {}
        self._bytes = 0
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
        """Hashes (n,) of the names and the model's numbers (n,); an integer counts as its decimal string."""
        self.bound()
        texts = ["" if name is None else str(name) for name in names]
        hashes = np.array([stable_hash(text) if text else 0 for text in texts], np.uint64)
        indexes = np.empty(len(texts), np.int32)
        _find_all(self.columns, hashes, indexes)
        for i in np.flatnonzero(indexes == NOT_YET).tolist():
            indexes[i] = self.add(int(hashes[i]), texts[i])
        return hashes, indexes

    @property
    def columns(
        self,
    ) -> tuple[
        npt.NDArray[np.int32], npt.NDArray[np.uint64], npt.NDArray[np.int32], int, np.uint64, np.uint64
    ]:
        """Table, hashes, the model's numbers, its number of none and the key, for compiled code that calls `find`."""
        return self._table, self._hashes, self._model, self.none_index, *self._key

    def bound(self) -> None:
        """Drops the names seen if there are too many of them, or if they take too much memory."""
        if len(self._seen) >= self._limit or self._bytes >= self._max_bytes:
            self._reset()

    def add(self, hashed: int, name: str) -> int:
        """The model's number of a name for which `find` returned NOT_YET."""
        known = self._seen.get(hashed)
        if known is None:
            known = self._seen[hashed] = name, self._model_index(name)
            self._bytes += NAME_BYTES + len(name.encode())
            self._append(hashed, known[1])
        return known[1]

    def _append(self, hashed: int, index: int) -> None:
        i = self._count
        if i == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
            self._model = np.concatenate([self._model, np.empty_like(self._model)])
            self._table = np.zeros(2 * len(self._table), np.int32)
            _insert(self._table, self._hashes, 0, i, *self._key)
        self._hashes[i] = hashed
        self._model[i] = index
        self._count += 1
        _insert(self._table, self._hashes, i, i + 1, *self._key)

    def name_of(self, hashed: int) -> str | None:
        """The name of a hash if the model or this process knows it, otherwise "#" and hex digits; None for 0."""
        if hashed == 0:
            return None
        seen = self._seen.get(hashed)
        return seen[0] if seen else self._vocabulary.get(hashed, f"#{hashed:016x}")


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


@jit
def _place(hashed, k0, k1, mask):  # type: ignore[no-untyped-def]
    return np.int64(siphash13_word(hashed, k0, k1) & np.uint64(mask))


@jit
def find(names, hashed):  # type: ignore[no-untyped-def]
    """The model's number of a hash, NOT_YET if it is not in the table. `names`: what `pointers` returns."""
    table, mask, hashes, model, _, k0, k1 = names
    at = _place(hashed, k0, k1, mask)
    while table[at] != 0:
        i = table[at] - 1
        if hashes[i] == hashed:
            return model[i]
        at = (at + 1) & mask
    return NOT_YET


@jit
def pointers(columns):  # type: ignore[no-untyped-def]
    """`NameTable.columns` as `find` needs them; index 4 is the model's number of none."""
    table, hashes, model, none, k0, k1 = columns
    return pointer_to(table), len(table) - 1, pointer_to(hashes), pointer_to(model), none, k0, k1


@jit
def _find_all(columns, wanted, out):  # type: ignore[no-untyped-def]
    names = pointers(columns)
    for i in range(len(wanted)):
        out[i] = names[4] if wanted[i] == 0 else find(names, wanted[i])


@jit
def _insert(table, hashes, start, end, k0, k1):  # type: ignore[no-untyped-def]
    """Puts numbers from `start` to `end` into an open-addressed table with linear probing."""
    mask = len(table) - 1
    for i in range(start, end):
        at = _place(hashes[i], k0, k1, mask)
        while table[at] != 0:
            at = (at + 1) & mask
        table[at] = i + 1
