"""Finds users whose events arrive in more than one partition, so that their state is split.

This happens when producers of one shop use different partitioners. Nearly all use one of two: for each new user, we
look for a row in the partition that the other partitioner would choose.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stream_app.kernels.jit import jit
from stream_app.kernels.memory import pointer_to
from stream_app.state import user_index as index
from stream_app.state.user_index import UserIndex

#: Users checked in one call; this takes about 5 ms.
MOST = 16_384
_32 = np.uint64(0xFFFFFFFF)
_SEED, _M = np.uint64(0x9747B28C), np.uint64(0x5BD1E995)
_CRC = np.uint64(0xEDB88320)
_ONE = np.uint64(1)


@dataclass(frozen=True, slots=True)
class SplitUser:
    """A user with two rows."""

    user: str
    partitions: tuple[int, int]


class SplitUsers:
    """Checks the users of an index that are new since the last call. Used by the thread that owns the index."""

    def __init__(self, users: UserIndex, partitions: int) -> None:
        """`partitions`: how many the input topics have."""
        self._users, self._partitions = users, partitions
        self._seen = 0  # serial of the last user checked
        self._others(np.empty(0, np.int64))  # compiles it before any event waits

    def look(self) -> list[SplitUser]:
        """Those among the next `MOST` new users that have an older row in another partition."""
        users = self._users
        if users.newest == self._seen or self._partitions == 1:
            return []
        serial = users.serial[: users.high]
        new = np.flatnonzero((serial > self._seen) & (users.partition[: users.high] >= 0))
        if len(new) > MOST:
            new = new[np.argpartition(serial[new], MOST - 1)[:MOST]]
            self._seen = int(serial[new].max())
        else:
            self._seen = users.newest
        others = self._others(new)
        pairs = zip(new[others >= 0].tolist(), others[others >= 0].tolist(), strict=True)
        where = users.partition
        return [SplitUser(users.name(slot), (int(where[other]), int(where[slot]))) for slot, other in pairs]

    def _others(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The older row (n,) of each slot's user in another partition, -1 if there is none."""
        others = np.full(len(slots), -1, np.int64)
        _others(*self._users.tables[:6], self._users.serial, slots, self._partitions, others)
        return others


@jit
def murmur2(data, at, size):  # type: ignore[no-untyped-def]
    """The hash by which Kafka's Java clients place keys. Source: `org.apache.kafka.common.utils.Utils`."""
    h = _SEED ^ np.uint64(size)
    whole = size - size % 4
    for i in range(at, at + whole, 4):
        k = np.uint64(0)
        for byte in range(4):
            k |= np.uint64(data[i + byte]) << np.uint64(8 * byte)
        k = (k * _M) & _32
        k ^= k >> np.uint64(24)
        h = ((h * _M) & _32) ^ ((k * _M) & _32)
    if size > whole:
        for byte in range(size - whole):
            h ^= np.uint64(data[at + whole + byte]) << np.uint64(8 * byte)
        h = (h * _M) & _32
    h ^= h >> np.uint64(13)
    h = (h * _M) & _32
    return h ^ (h >> np.uint64(15))


@jit
def crc32(data, at, size):  # type: ignore[no-untyped-def]
    """The hash by which librdkafka places keys. Source: its `rdcrc32.c`, the CRC of zlib."""
    c = _32
    for i in range(at, at + size):
        c ^= np.uint64(data[i])
        for _ in range(8):
            c = (c >> _ONE) ^ (_CRC if c & _ONE else np.uint64(0))
    return c ^ _32


@jit
def _others(  # type: ignore[no-untyped-def]
    table, hashes, partitions, name_at, name_bytes, names, serial, slots, total, others
):
    mask = len(table) - 1
    table_, hashes_, partitions_ = pointer_to(table), pointer_to(hashes), pointer_to(partitions)
    name_at_, name_bytes_, names_ = pointer_to(name_at), pointer_to(name_bytes), pointer_to(names)
    for i in range(len(slots)):
        slot = slots[i]
        at, size = name_at[slot], name_bytes[slot]
        java = np.int64((murmur2(names_, at, size) & np.uint64(0x7FFFFFFF)) % np.uint64(total))
        librdkafka = np.int64(crc32(names_, at, size) % np.uint64(total))
        for place in (java, librdkafka):
            if place != partitions[slot]:
                other = index.probe(
                    table_, mask, hashes_, partitions_, name_at_, name_bytes_, names_, names_, at, size, place,
                    hashes[slot],
                )[1]  # fmt: skip
                if other >= 0 and serial[other] < serial[slot]:
                    others[i] = other
                    break
