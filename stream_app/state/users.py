"""The users in memory: rows in one array with a slot for each user, and the model's hidden states."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from model.serving.api import HiddenStates
from stream_app.contract.message_columns import MessageColumns
from stream_app.contract.partitioner import partitions_of
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import EVENT_TYPES
from stream_app.kernels.item_checks import UNKNOWN_CHECK
from stream_app.state.errors import StateError
from stream_app.state.layout import DescriptionError, Layout
from stream_app.state.plausibility import Damaged, beyond, refusal, wrong_rows
from stream_app.state.row_codec import gather, pack, told_apart
from stream_app.state.row_layout import FLAG_REASONS, FORMATS_READ, LAYOUT
from stream_app.state.row_reader import Layouts, are_text, damaged_of, is_users, keys_of, why_of
from stream_app.state.user_index import UserIndex, packed_keys
from stream_app.state.window_buckets import LAST_EVENTS

#: Key of the record with the state of the partition itself. A user_id has at least one byte.
META_KEY = b""


class UnreadableMetaError(StateError):
    """The value under `META_KEY` is not a partition's own record."""


class PartitionMeta(msgspec.Struct, frozen=True):
    """The state of a partition itself. It is written last in a checkpoint, after all users.

    A field may be added at the end, with a default: versions ignore fields that they do not know.
    """

    format: int
    row_bytes: int
    hidden: int  #: width of the hidden state behind each row, 0 without a model
    model: str  #: label of the model behind it
    watermark: int  #: Unix ms
    sequence: int  #: events applied in this partition
    positions: list[int]  #: next source offset of each input topic
    generation: int  #: of the consumer group, for people who read the changelog
    #: 16 bytes for each input topic, the id of the topic to which the position belongs; empty if unknown.
    topic_ids: list[bytes] = []
    model_created: int = 0  #: Unix ms at which the last model behind it was exported, 0 if unknown


@dataclass(frozen=True, slots=True)
class ItemIndex:
    """How the model numbers items: `known` of them first, then buckets for all others, then `none`."""

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
        """Numbers of the hashes, of any shape; `none` for items that the model does not know."""
        if not self.known:
            return np.full(hashes.shape, self.none, np.int32)
        at = np.minimum(np.searchsorted(self.hashes, hashes), self.known - 1)
        return np.where(self.hashes[at] == hashes, self.numbers[at], np.int32(self.none))


class Rows(UserIndex):
    """Rows of one layout in one array, a slot for each user, and their changelog.

    Rows of other layouts in the changelog are read by field name.
    """

    def __init__(self, limit: int, layout: Layout) -> None:
        super().__init__(limit)
        if layout.first is not None and not told_apart(layout.first.size):
            raise ValueError(
                f"values without a number, of rows of {layout.first.size} bytes, cannot be recognised"
            )
        self.layout = layout
        self.rows = np.zeros(limit, layout.dtype)
        self.dirty = np.zeros(limit, np.bool_)
        self._layouts: dict[int, Layouts] = {}

    def resolve_users(
        self,
        partition: int,
        text: npt.NDArray[np.uint8],
        at: npt.NDArray[np.int64],
        size: npt.NDArray[np.int32],
    ) -> npt.NDArray[np.int64]:
        """The slot (n,) of each user; a user without one gets a new slot with an empty row."""
        slots, new = self.resolve(partition, text, at, size)
        if len(new):
            self.clear(new)
        return slots

    def slots(self, partition: int, users: Sequence[str]) -> npt.NDArray[np.int64]:
        """As `resolve_users`, for names."""
        text, places = packed_keys(user.encode() for user in users)
        return self.resolve_users(partition, text, places["at"], places["bytes"])

    def clear(self, slots: npt.NDArray[np.int64]) -> None:
        """Empties slots that got a new user."""
        self.rows[slots] = self.layout.empty
        self.dirty[slots] = False

    def remove(self, slots: npt.NDArray[np.int64]) -> None:
        """Frees slots."""
        super().remove(slots)
        self.dirty[slots] = False

    def drop(self, partition: int) -> None:
        """Frees the slots of all users of a partition."""
        self.remove(self.slots_of(partition))
        self.count.pop(partition, None)
        self._layouts.pop(partition, None)

    def find_anywhere(self, user: str) -> int | None:
        """The slot of a user in any partition that holds one."""
        return next(iter(self.find_all(user, 1)), None)

    def find_all(self, user: str, partitions: int) -> list[int]:
        """The slots of a user, one for each partition that holds them.

        The first is that of the partition where Kafka's Java clients place the user; the others follow by number.
        """
        first = int(partitions_of([user.encode()], partitions)[0])
        numbers = list(self.count)  # in one step, since another thread may add a partition
        numbers.sort(key=lambda number: (number != first, number))
        found = (self.find(number, user.encode()) for number in numbers)
        return [slot for slot in found if slot is not None]

    # --- the changelog

    def take_dirty(self, partition: int) -> MessageColumns:
        """State records of the users that changed since the last call; they count as clean from now on."""
        changed = np.flatnonzero(self.dirty[: self.high])
        slots = changed[self.partition[changed] == partition]
        self.dirty[slots] = False
        values, ends = pack(self.rows, slots, self.hidden_bytes(slots), self.layout.number)
        return MessageColumns(*self.keys(slots), values, ends[:-1], np.diff(ends).astype(np.int32))

    def take_description(self, partition: int) -> MessageColumns:
        """The record that describes the layout of these rows; none if the partition's changelog has it already."""
        return MessageColumns.of(self._layouts_of(partition).to_describe())

    def _layouts_of(self, partition: int) -> Layouts:
        return self._layouts.setdefault(partition, Layouts(self.layout))

    def restore(self, partition: int, records: RecordColumns, *, skip: bool = False) -> list[Damaged]:
        """Applies changelog records in log order: the last value of a key counts, and a tombstone forgets the user.

        Raises StateError for a record that cannot be read or cannot be true. With `skip` it forgets the user of such
        a record and returns the record; only a layout whose fields have another meaning still raises StateError.
        """
        spans = records.spans[records.spans["key_bytes"] > 0]
        users = is_users(records.data, spans["key_at"])
        layouts = self._layouts_of(partition)
        damaged = self._learn(layouts, records, spans[~users])
        spans = spans[users]
        readable = are_text(records.data, spans)
        damaged += [damaged_of(records, span, "its key is no text") for span in spans[~readable]]
        spans = spans[readable]
        # Only the last record of each user counts, so the others need not be read.
        number = self._last_of_each(partition, records.data, spans)
        spans = spans[number]
        gone = spans["value_bytes"] < 0
        known = [self.find(partition, key) for key in keys_of(records.data, spans[gone])]
        self.remove(np.array([slot for slot in known if slot is not None], np.int64))
        spans = spans[~gone]
        if len(spans):
            damaged += self._read(partition, layouts, records, spans)
        if damaged and not skip:
            raise StateError(refusal(damaged[0], records.topic, partition))
        return damaged

    def _read(
        self, partition: int, layouts: Layouts, records: RecordColumns, spans: npt.NDArray[np.void]
    ) -> list[Damaged]:
        slots, _ = self.resolve(partition, records.data, spans["key_at"], spans["key_bytes"])
        self.dirty[slots] = False
        at, size = spans["value_at"], spans["value_bytes"]
        hidden_at = layouts.read(self.rows, slots, records.data, at, size)
        wrong = self.wrong_rows(slots)
        bad = (hidden_at < 0) | (wrong > 0)
        damaged = []
        if bad.any():
            why = [why_of(b, w) for b, w in zip(hidden_at[bad].tolist(), wrong[bad].tolist(), strict=True)]
            damaged = [damaged_of(records, s, w) for s, w in zip(spans[bad], why, strict=True)]
            self.remove(slots[bad])
            slots, hidden_at, at, size = slots[~bad], hidden_at[~bad], at[~bad], size[~bad]
        if len(slots):
            # Up to three zero bytes may follow the hidden state, whose size is a multiple of four bytes.
            self.restored(slots, records.data, hidden_at, (at + size - hidden_at) & ~3)
        return damaged

    def _learn(self, layouts: Layouts, records: RecordColumns, spans: npt.NDArray[np.void]) -> list[Damaged]:
        damaged = []
        for span, key in zip(spans, keys_of(records.data, spans), strict=True):
            try:
                layouts.learn(key)
            except DescriptionError as error:
                damaged.append(damaged_of(records, span, str(error)))
        return damaged

    def wrong_rows(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
        """What is wrong (n,) with rows that were read back, as indexes of `plausibility.WRONG`; 0 for nothing."""
        return np.zeros(len(slots), np.int8)

    def beyond(self, partition: int, ends: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.int64]:
        """The slots of a partition whose rows include offsets that the inputs do not have."""
        slots = self.slots_of(partition)
        return slots[beyond(self.rows["source"][slots], ends, positions)]

    def _last_of_each(
        self, partition: int, data: npt.NDArray[np.uint8], spans: npt.NDArray[np.void]
    ) -> npt.NDArray[np.int64]:
        """Positions of the last record of each key, in ascending order."""
        own = UserIndex(max(1, len(spans)))
        slots, _ = own.resolve(partition, data, spans["key_at"], spans["key_bytes"])
        last = np.empty(own.high, np.int64)
        last[slots] = np.arange(len(spans))  # numpy keeps the last of several values for one slot
        return np.sort(last)

    # --- what follows a row in the changelog

    def hidden_bytes(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Bytes (n, any number) that follow the row of each slot."""
        return np.empty((len(slots), 0), np.uint8)

    def restored(
        self,
        slots: npt.NDArray[np.int64],
        data: npt.NDArray[np.uint8],
        at: npt.NDArray[np.int64],
        size: npt.NDArray[np.int64],
    ) -> None:
        """Called for slots whose rows were read back, with the position and size of the bytes after each row."""


class Users(Rows):
    """The users of all partitions that this process owns: their rows and the model's hidden states."""

    def __init__(
        self, limit: int, items: ItemIndex, hidden: HiddenStates | None = None, width: int = 0
    ) -> None:
        super().__init__(limit, LAYOUT)
        self.items = items
        self.hidden = hidden
        self.width = width  #: of the hidden state
        self.recent_item = np.zeros((limit, LAST_EVENTS), np.int32)
        #: Checks of the recent items. Only this process can compute them, so they are not in the changelog.
        self.recent_check = np.zeros((limit, LAST_EVENTS), np.uint32)
        self.touched = np.zeros(limit, np.int64)
        #: Copied to the row at a checkpoint. The model thread writes it, while the state thread writes rows.
        self.flagged = np.zeros((limit, len(FLAG_REASONS)), np.int64)
        self.fresh: list[
            npt.NDArray[np.int64]
        ] = []  #: slots whose hidden state still belongs to an earlier user
        #: Slots whose hidden state lacks events: it is rebuilt from the last events before it is used.
        self.stale = np.zeros(limit, np.bool_)

    def clear(self, slots: npt.NDArray[np.int64]) -> None:
        """Empties slots that got a new user."""
        super().clear(slots)
        self.recent_item[slots] = self.items.none
        self.recent_check[slots] = UNKNOWN_CHECK
        self.touched[slots] = 0
        self.stale[slots] = False
        self.fresh.append(slots)

    def take_fresh(self) -> npt.NDArray[np.int64]:
        """The slots that got a new user since the last call; pass them to `empty_hidden`."""
        slots = np.unique(np.concatenate(self.fresh)) if self.fresh else np.empty(0, np.int64)
        self.fresh.clear()
        return slots

    def empty_hidden(self, slots: npt.NDArray[np.int64]) -> None:
        """Empties what the model thread stores about some slots."""
        if not len(slots):
            return
        self.flagged[slots] = 0
        if self.hidden is not None:
            self.make_room(int(slots.max()) + 1)
            self.hidden.reset(slots)

    def make_room(self, slots: int) -> None:
        """Makes room for the hidden states of so many slots."""
        if self.hidden is not None and slots > self.hidden.capacity:
            self.hidden.grow(min(self.limit, max(2 * self.hidden.capacity, slots)))

    def take_dirty(self, partition: int) -> MessageColumns:
        """State records of the users that changed since the last call; they count as clean from now on."""
        slots = np.flatnonzero(self.dirty[: self.high])
        self.rows["flagged"][slots] = self.flagged[slots]
        return super().take_dirty(partition)

    def oldest(self, partition: int, keep: int) -> npt.NDArray[np.int64]:
        """The slots to forget so that `keep` users remain: those whose last event is the oldest."""
        slots = self.slots_of(partition)
        surplus = max(0, len(slots) - keep)
        return slots[np.argsort(self.rows["sequence"][slots], kind="stable")[:surplus]]

    def expired(
        self, partition: int, watermark: int, ttl_ms: int, *, changed_too: bool = False
    ) -> npt.NDArray[np.int64]:
        """Slots whose last event is more than `ttl_ms` before the watermark; dirty ones only with `changed_too`."""
        slots = self.slots_of(partition)
        old = watermark - self.rows["clock"][slots] > ttl_ms
        if not changed_too:
            old &= ~self.dirty[slots]
        return slots[old]

    def hidden_bytes(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """The hidden state (n, 4 width) of each slot; NaN marks a stale one."""
        if self.hidden is None:
            return super().hidden_bytes(slots)
        known = ~self.stale[slots]
        if known.all():
            return np.ascontiguousarray(self.hidden.read(slots)).view(np.uint8)
        states = np.full((len(slots), self.width), np.nan, np.float32)
        if known.any():
            states[known] = self.hidden.read(slots[known])
        return states.view(np.uint8)

    def restored(
        self,
        slots: npt.NDArray[np.int64],
        data: npt.NDArray[np.uint8],
        at: npt.NDArray[np.int64],
        size: npt.NDArray[np.int64],
    ) -> None:
        """Finds the model's numbers of the recent items, and loads hidden states of this model's width."""
        self.number_recent(slots)
        self.recent_check[slots] = UNKNOWN_CHECK
        self.flagged[slots] = self.rows["flagged"][slots]
        if self.hidden is None:
            return
        self.make_room(int(slots.max()) + 1)
        mine = size == 4 * self.width  # a model of another width, or none, may have written some
        self.hidden.reset(slots[~mine])
        self.stale[slots] = ~mine
        states = np.empty((int(mine.sum()), 4 * self.width), np.uint8)
        gather(data, at[mine], 4 * self.width, states)
        found = states.view(np.float32)
        broken = ~np.isfinite(found).all(axis=1)
        found[broken] = 0.0
        self.hidden.write(slots[mine], found)
        self.stale[slots[mine][broken]] = True

    def wrong_rows(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
        """What is wrong with the rows of some slots."""
        return wrong_rows(self.rows, slots, len(EVENT_TYPES))

    def number_recent(self, slots: npt.NDArray[np.int64]) -> None:
        """Finds the model's numbers of the recent items of some slots by their hashes."""
        hashes = self.rows["recent"]["item_hash"][slots]
        recent = np.full(hashes.shape, self.items.none, np.int32)
        there = hashes != 0
        recent[there] = self.items.of(hashes[there])
        self.recent_item[slots] = recent


def encode_meta(meta: PartitionMeta) -> bytes:
    """The value of the record under `META_KEY`."""
    return msgspec.msgpack.encode(meta)


def decode_meta(value: bytes) -> PartitionMeta:
    """Reads what `encode_meta` wrote, in this version or another.

    Raises StateError for another format, and UnreadableMetaError for invalid bytes.
    """
    try:
        meta = msgspec.msgpack.decode(value, type=PartitionMeta)
    except msgspec.MsgspecError as e:
        raise UnreadableMetaError(f"it cannot be read ({e})") from e
    if meta.format not in FORMATS_READ:
        raise StateError(
            f"the changelog has state format {meta.format}, this version reads "
            f"{' and '.join(map(str, FORMATS_READ))}: start with another FORECLICK_GROUP, or keep the other version"
        )
    return meta
