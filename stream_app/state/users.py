"""The users in memory: rows in one array, a slot for each user, and the model's hidden state beside them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from model.slab import Slab
from stream_app.errors import StateError
from stream_app.state.rows import FORMAT, RECENT, ROW

#: Key of the record that holds what is kept per partition. A user_id has at least one byte.
META_KEY = b""


class PartitionMeta(msgspec.Struct, frozen=True):
    """What is kept per partition. Written last in a checkpoint: where it stands, the users before it do too."""

    format: int
    row_bytes: int
    hidden: int  #: width of the hidden state behind each row, 0 without a model
    model: str  #: label of the model that made it
    watermark: int  #: Unix ms
    sequence: int  #: events applied in this partition
    positions: list[int]  #: next source offset of each input topic
    generation: int  #: of the consumer group, for people who read the log


@dataclass(frozen=True, slots=True)
class ItemIndex:
    """How the model numbers items: `known` of them, then buckets for the rest, then `none`."""

    known: int
    none: int
    hashes: npt.NDArray[np.uint64]  # sorted stable hashes of the known items
    numbers: npt.NDArray[np.int32]  # their numbers

    @classmethod
    def build(cls, hashes: Sequence[int], none: int) -> "ItemIndex":
        """`hashes[i]` is the stable hash of item number i."""
        values = np.array(hashes, np.uint64)
        order = np.argsort(values, kind="stable")
        return cls(len(values), none, values[order], order.astype(np.int32))

    def of(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        """Numbers of the hashes, of any shape; `none` where the model does not know the item."""
        if not self.known:
            return np.full(hashes.shape, self.none, np.int32)
        at = np.minimum(np.searchsorted(self.hashes, hashes), self.known - 1)
        return np.where(self.hashes[at] == hashes, self.numbers[at], np.int32(self.none))


class Users:
    """Slots of the users of all partitions that this process owns.

    `limit` bounds the slots: the memory is reserved at once (the system hands it out page by page as rows
    are first written), so that growing never copies.
    """

    def __init__(self, limit: int, items: ItemIndex, hidden: Slab | None = None, width: int = 0) -> None:
        self.items = items
        self.hidden = hidden
        self.width = width  #: of the hidden state
        self.rows = np.zeros(limit, ROW)
        self.recent_item = np.zeros((limit, RECENT), np.int32)
        self.dirty = np.zeros(limit, np.bool_)
        self.touched = np.zeros(limit, np.int64)
        self.names = np.zeros(limit, object)
        self.partition = np.zeros(limit, np.int32)
        self.slots: dict[int, dict[str, int]] = {}
        self._free: list[int] = []
        self._high = 0  # slots at and above were never used
        self._empty = np.zeros(1, ROW)
        self._empty["source"] = -1

    def __len__(self) -> int:
        return sum(map(len, self.slots.values()))

    def resolve(self, partition: int, users: Sequence[str]) -> npt.NDArray[np.int64]:
        """The slot of each user, a new one where the user has none yet."""
        known = self.slots.setdefault(partition, {})
        get = known.get
        slots = np.array([get(user, -1) for user in users], np.int64)
        missing = np.flatnonzero(slots < 0)
        if len(missing):
            new = dict.fromkeys([users[i] for i in missing.tolist()])
            for user, slot in zip(new, self._allocate(partition, list(new)), strict=True):
                known[user] = slot
            slots[missing] = [known[users[i]] for i in missing.tolist()]
        return slots

    def find(self, user: str) -> int | None:
        """The slot of a user in whichever partition holds them."""
        for known in self.slots.values():
            if user in known:
                return known[user]
        return None

    def _allocate(self, partition: int, users: list[str]) -> list[int]:
        reused = [self._free.pop() for _ in range(min(len(self._free), len(users)))]
        fresh = len(users) - len(reused)
        if self._high + fresh > len(self.rows):
            raise StateError(
                f"more than {len(self.rows)} users at once: raise FORECLICK_RESIDENT_USERS or add workers"
            )
        taken = [*reused, *range(self._high, self._high + fresh)]
        self._high += fresh
        slots = np.array(taken, np.int64)
        if self.hidden is not None:
            if self._high > self.hidden.capacity:
                self.hidden.grow(min(len(self.rows), max(2 * self.hidden.capacity, self._high)))
            self.hidden.reset(slots)
        self.rows[slots] = self._empty
        self.recent_item[slots] = self.items.none
        self.dirty[slots] = False
        self.touched[slots] = 0
        self.partition[slots] = partition
        self.names[slots] = users
        return taken

    def remove(self, partition: int, users: Iterable[str]) -> None:
        """Frees the slots of some users."""
        known = self.slots[partition]
        slots = [known.pop(user) for user in users]
        self.names[slots] = None
        self.dirty[slots] = False
        self._free.extend(slots)

    def drop(self, partition: int) -> None:
        """Frees the slots of all users of a partition."""
        if partition in self.slots:
            self.remove(partition, list(self.slots[partition]))
            del self.slots[partition]

    def oldest(self, partition: int, keep: int) -> list[str]:
        """The users to forget so that `keep` remain: those whose last event lies furthest back."""
        known = self.slots.get(partition, {})
        surplus = len(known) - keep
        if surplus <= 0:
            return []
        slots = np.fromiter(known.values(), np.int64, len(known))
        order = np.argsort(self.rows["sequence"][slots], kind="stable")[:surplus]
        return list(self.names[slots[order]])

    def expired(self, partition: int, watermark: int, ttl_ms: int, *, changed_too: bool = False) -> list[str]:
        """Users whose last event lies more than `ttl_ms` behind the watermark; not the dirty ones if not asked."""
        known = self.slots.get(partition, {})
        slots = np.fromiter(known.values(), np.int64, len(known))
        old = watermark - self.rows["clock"][slots] > ttl_ms
        if not changed_too:
            old &= ~self.dirty[slots]
        return list(self.names[slots[old]])

    # --- the changelog

    def take_dirty(self, partition: int) -> tuple[list[bytes], list[bytes]]:
        """Keys and values of the users changed since the last call, which are clean from now on."""
        changed = np.flatnonzero(self.dirty[: self._high])
        slots = changed[self.partition[changed] == partition]
        self.dirty[slots] = False
        if not len(slots):
            return [], []
        parts = [self.rows[slots].view(np.uint8).reshape(len(slots), ROW.itemsize)]
        if self.hidden is not None:
            parts.append(np.ascontiguousarray(self.hidden.read(slots)).view(np.uint8))
        size = sum(p.shape[1] for p in parts)
        packed = np.concatenate(parts, axis=1).tobytes()
        keys = [name.encode() for name in self.names[slots]]
        return keys, [packed[i : i + size] for i in range(0, len(packed), size)]

    def restore(self, partition: int, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        """Applies changelog records in log order: the last value of a key counts, None forgets the user."""
        latest = dict(zip(keys, values, strict=True))
        latest.pop(META_KEY, None)
        known = self.slots.setdefault(partition, {})
        gone = [k.decode() for k, v in latest.items() if v is None]
        self.remove(partition, [user for user in gone if user in known])
        users = [k.decode() for k, v in latest.items() if v is not None]
        packed = [v for v in latest.values() if v is not None]
        if not users:
            return
        size = len(packed[0])
        width = (size - ROW.itemsize) // 4
        if size < ROW.itemsize or any(len(v) != size for v in packed):
            # A model of another width, or none, wrote some of them.
            for user, value in zip(users, packed, strict=True):
                self._write(partition, [user], value, (len(value) - ROW.itemsize) // 4)
        else:
            self._write(partition, users, b"".join(packed), width)

    def _write(self, partition: int, users: list[str], packed: bytes, width: int) -> None:
        n = len(users)
        if width < 0 or len(packed) != n * (ROW.itemsize + 4 * width):
            raise StateError(
                f"the changelog holds a record of {len(packed) // n} bytes where a row has at least "
                f"{ROW.itemsize}: it was written by another version; use another FORECLICK_GROUP"
            )
        slots = self.resolve(partition, users)
        table = np.frombuffer(packed, np.uint8).reshape(n, -1)
        self.rows[slots] = np.ascontiguousarray(table[:, : ROW.itemsize]).view(ROW)[:, 0]
        hashes = self.rows["recent"]["item_hash"][slots]
        recent = self.items.of(hashes)
        recent[hashes == 0] = self.items.none
        self.recent_item[slots] = recent
        if self.hidden is not None and width == self.width:
            states = np.ascontiguousarray(table[:, ROW.itemsize :]).view(np.float32)
            self.hidden.write(slots, states)


def encode_meta(meta: PartitionMeta) -> bytes:
    """The value of the record under `META_KEY`."""
    return msgspec.msgpack.encode(meta)


def decode_meta(value: bytes) -> PartitionMeta:
    """Reads what `encode_meta` wrote. Raises StateError for another format."""
    try:
        meta = msgspec.msgpack.decode(value, type=PartitionMeta)
    except msgspec.MsgspecError as e:
        raise StateError(f"the changelog's partition record cannot be read ({e})") from e
    if meta.format != FORMAT or meta.row_bytes != ROW.itemsize:
        raise StateError(
            f"the changelog has state format {meta.format} ({meta.row_bytes} bytes a row), this version reads "
            f"{FORMAT} ({ROW.itemsize}): start with another FORECLICK_GROUP, or keep the old version"
        )
    return meta
