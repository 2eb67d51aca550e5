"""A compiled hash table from (partition, user_id) to slot, without a Python object per user.

The hash has a secret key, so that nobody can choose user ids that collide and slow every look-up down.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from stream_app.kernels.hashing import Key, random_key, siphash13
from stream_app.kernels.jit import jit
from stream_app.kernels.memory import contiguous, copy_bytes, pointer_to, same_bytes
from stream_app.state.errors import StateError

#: Odd, so that partitions spread the users of one name over the table. Source: the golden ratio times 2^64.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
# Indexes of `_state`.
_FREE, _HIGH, _NAMES = range(3)

#: Positions and lengths of keys in a buffer.
KEY = np.dtype([("at", "i8"), ("bytes", "i4")], align=True)


class UserIndex:
    """Slots from 0 to `limit`, each free or taken by one user.

    All memory is reserved at the start, and the operating system provides each page at its first write. So growing
    never copies. The slots of users that leave are used again.
    """

    def __init__(self, limit: int, key: Key | None = None) -> None:
        """`key`: of the hash; a random one by default."""
        self.limit = limit
        self._key = key or random_key()
        self.partition = np.full(limit, -1, np.int32)  #: of each slot, -1 where it is free
        self.serial = np.zeros(limit, np.int64)  #: number of the slot's present user, never used twice
        self.count: dict[int, int] = {}  #: users of each partition
        self._hash = np.zeros(limit, np.uint64)
        self._name_at = np.zeros(limit, np.int64)
        self._name_bytes = np.zeros(limit, np.int32)
        self._names = np.zeros(1 << 16, np.uint8)
        self._table = np.zeros(1 << (2 * limit - 1).bit_length(), np.int32)
        self._free = np.zeros(limit, np.int32)
        self._state = np.zeros(3, np.int64)
        self._serials = 0

    def __len__(self) -> int:
        return sum(self.count.values())

    @property
    def high(self) -> int:
        """Slots from here on were never used."""
        return int(self._state[_HIGH])

    @property
    def tables(self) -> tuple[npt.NDArray[np.generic], ...]:
        """The arrays that kernels need: the table, then hash, partition and name of each slot, and more."""
        return (
            self._table, self._hash, self.partition, self._name_at, self._name_bytes, self._names, self._free,
            self._state,
        )  # fmt: skip

    @property
    def newest(self) -> int:
        """The serial number of the newest user."""
        return self._serials

    def resolve(
        self,
        partition: int,
        text: npt.NDArray[np.uint8],
        at: npt.NDArray[np.int64],
        size: npt.NDArray[np.int32],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Slots (n,) of the users whose names are in a buffer, and which of the slots are new.

        Raises StateError if there are more users than slots.
        """
        self._make_room(int(size.sum()))
        slots, new = np.empty(len(at), np.int64), np.empty(len(at), np.int64)
        at, size = contiguous(at, size)
        found = _resolve(*self.tables, text, at, size, partition, *self._key, slots, new)
        if found < 0:
            raise StateError(
                f"more than {self.limit} users at once: raise FORECLICK_RESIDENT_USERS or add workers"
            )
        fresh = new[:found]
        self.serial[fresh] = np.arange(self._serials + 1, self._serials + 1 + found)
        self._serials += found
        self.count[partition] = self.count.get(partition, 0) + found
        return slots, fresh

    def remove(self, slots: npt.NDArray[np.int64]) -> None:
        """Frees slots."""
        for partition, n in zip(*np.unique(self.partition[slots], return_counts=True), strict=True):
            self.count[int(partition)] -= int(n)
        _remove(*self.tables, slots)

    def find(self, partition: int, user: bytes) -> int | None:
        """The slot of a user, None if there is none."""
        text, keys = packed_keys([user])
        slot = _find(*self.tables[:6], text, keys["at"][0], keys["bytes"][0], partition, *self._key)
        return int(slot) if slot >= 0 else None

    def slots_of(self, partition: int) -> npt.NDArray[np.int64]:
        """The slots of all users of a partition, in ascending order."""
        return np.flatnonzero(self.partition[: self.high] == partition)

    def name(self, slot: int) -> str:
        """The user_id of a slot."""
        at = self._name_at[slot]
        return self._names[at : at + self._name_bytes[slot]].tobytes().decode()

    def mapping(self, partition: int) -> dict[str, int]:
        """The slot of each user of a partition, made at each call: for people and tests."""
        return {self.name(slot): slot for slot in self.slots_of(partition).tolist()}

    def keys(
        self, slots: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """A buffer, and the position of each slot's user_id in it; valid until the next change."""
        return self._names, self._name_at[slots], self._name_bytes[slots]

    def _make_room(self, n: int) -> None:
        """Makes room for `n` more bytes of names; drops names of former users first."""
        used = int(self._state[_NAMES])
        if used + n <= len(self._names):
            return
        slots = np.flatnonzero(self.partition[: self.high] >= 0)
        alive = int(self._name_bytes[slots].sum())
        names = np.empty(max(2 * (alive + n), len(self._names)), np.uint8)
        self._state[_NAMES] = _compact(self._names, self._name_at, self._name_bytes, slots, names)
        self._names = names


def packed_keys(keys: Iterable[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
    """A buffer that holds the keys one after the other, and the position (n,) of each."""
    each = list(keys)
    places = np.zeros(len(each), KEY)
    places["bytes"] = [len(key) for key in each]
    places["at"] = np.cumsum(places["bytes"]) - places["bytes"]
    text = np.frombuffer(b"".join(each), np.uint8)
    return text, places


@jit
def _place(hashed, partition, mask):  # type: ignore[no-untyped-def]
    return np.int64((hashed + np.uint64(partition) * _SPREAD) & np.uint64(mask))


@jit
def probe(  # type: ignore[no-untyped-def]
    table, mask, hashes, partitions, name_at, name_bytes, names, text, at, size, partition, hashed
):
    """(place in the table of `mask` + 1 places, slot or -1). All arrays as pointers."""
    place = _place(hashed, partition, mask)
    while table[place] != 0:
        slot = table[place] - 1
        if (
            hashes[slot] == hashed
            and partitions[slot] == partition
            and name_bytes[slot] == size
            and same_bytes(names, name_at[slot], text, at, size)
        ):
            return place, slot
        place = (place + 1) & mask
    return place, -1


@jit
def _find(  # type: ignore[no-untyped-def]
    table, hashes, partitions, name_at, name_bytes, names, text, at, size, partition, k0, k1
):
    name = pointer_to(text)
    return probe(
        pointer_to(table), len(table) - 1, pointer_to(hashes), pointer_to(partitions), pointer_to(name_at),
        pointer_to(name_bytes), pointer_to(names), name, at, size, partition, siphash13(name, at, size, k0, k1),
    )[1]  # fmt: skip


@jit
def _resolve(  # type: ignore[no-untyped-def]
    table,
    hashes,
    partitions,
    name_at,
    name_bytes,
    names,
    free,
    state,
    text,
    at,
    size,
    partition,
    k0,
    k1,
    slots,
    new,
):
    """Fills `slots`, and `new` with those that were free; returns the number of new ones, -1 if too few are free."""
    mask = len(table) - 1
    table_, hashes_, partitions_ = pointer_to(table), pointer_to(hashes), pointer_to(partitions)
    name_at_, name_bytes_, names_ = pointer_to(name_at), pointer_to(name_bytes), pointer_to(names)
    text_ = pointer_to(text)
    fresh = 0
    for i in range(len(at)):
        hashed = siphash13(text_, at[i], size[i], k0, k1)
        place, slot = probe(
            table_, mask, hashes_, partitions_, name_at_, name_bytes_, names_, text_, at[i], size[i], partition,
            hashed,
        )  # fmt: skip
        if slot < 0:
            if state[_FREE] > 0:
                state[_FREE] -= 1
                slot = free[state[_FREE]]
            elif state[_HIGH] < len(partitions):
                slot = state[_HIGH]
                state[_HIGH] += 1
            else:
                return -1
            table[place] = slot + 1
            hashes[slot] = hashed
            partitions[slot] = partition
            name_at[slot] = state[_NAMES]
            name_bytes[slot] = size[i]
            state[_NAMES] = copy_bytes(text_, at[i], size[i], names_, state[_NAMES])
            new[fresh] = slot
            fresh += 1
        slots[i] = slot
    return fresh


@jit
def _remove(table, hashes, partitions, name_at, name_bytes, names, free, state, slots):  # type: ignore[no-untyped-def]
    """Removes slots from the table, and moves later entries up (Knuth, vol. 3, algorithm 6.4 R)."""
    mask = len(table) - 1
    for slot in slots:
        if partitions[slot] < 0:
            continue
        place = _place(hashes[slot], partitions[slot], mask)
        while table[place] != slot + 1:
            place = (place + 1) & mask
        partitions[slot] = -1
        free[state[_FREE]] = slot
        state[_FREE] += 1
        hole = place
        while True:
            table[hole] = 0
            while True:
                place = (place + 1) & mask
                if table[place] == 0:
                    break
                other = table[place] - 1
                home = _place(hashes[other], partitions[other], mask)
                # It may move into the hole unless its home is after the hole, up to its present place.
                if ((place - home) & mask) >= ((place - hole) & mask):
                    break
            if table[place] == 0:
                break
            table[hole] = table[place]
            hole = place


@jit
def _compact(names, name_at, name_bytes, slots, out):  # type: ignore[no-untyped-def]
    source, target = pointer_to(names), pointer_to(out)
    at = 0
    for slot in slots:
        start = name_at[slot]
        name_at[slot] = at
        at = copy_bytes(source, start, name_bytes[slot], target, at)
    return at
