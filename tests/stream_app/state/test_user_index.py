"""The hash table of users, and rows as changelog values, compared with plain dictionaries and loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stream_app.state import user_index as index_module
from stream_app.state.errors import StateError
from stream_app.state.row_codec import gather, numbers, pack, unpack
from stream_app.state.user_index import UserIndex, packed_keys
from tests.stream_app.colliding_names import colliding

LIMIT = 12
names = st.sampled_from([b"a", b"b", b"c", b"ab", b"abcdefgh", b"abcdefghi", "ü".encode(), b"x" * 128])


class Table(RuleBasedStateMachine):
    """Users are added and removed in two partitions; a table of sixteen places probes far and must close its gaps."""

    def __init__(self) -> None:
        super().__init__()
        self.index = UserIndex(LIMIT)
        self.index._table = np.zeros(16, np.int32)
        self.model: dict[tuple[int, bytes], int] = {}
        self.serials: set[int] = set()

    @rule(partition=st.integers(0, 1), some=st.lists(names, min_size=1, max_size=6))
    def come(self, partition: int, some: list[bytes]) -> None:
        new = {key for key in some if (partition, key) not in self.model}
        if len(self.model) + len(new) > LIMIT:
            return
        text, places = packed_keys(some)
        slots, fresh = self.index.resolve(partition, text, places["at"], places["bytes"])
        assert len(fresh) == len(new)
        for key, slot in zip(some, slots.tolist(), strict=True):
            assert self.model.setdefault((partition, key), slot) == slot
        serials = set(self.index.serial[fresh].tolist())
        assert len(serials) == len(new)
        assert not serials & self.serials
        self.serials |= serials

    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        if not self.model:
            return
        gone = data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True, min_size=1))
        self.index.remove(np.array([self.model.pop(key) for key in gone], np.int64))

    @invariant()
    def is_the_dictionary(self) -> None:
        assert len(self.index) == len(self.model)
        for partition in (0, 1):
            mine = {key.decode(): slot for (p, key), slot in self.model.items() if p == partition}
            assert self.index.mapping(partition) == mine
            assert self.index.slots_of(partition).tolist() == sorted(mine.values())
        for partition, key in [*self.model, (0, b"nobody"), (2, b"a")]:
            assert self.index.find(partition, key) == self.model.get((partition, key))


TestTable = Table.TestCase
TestTable.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestTable.__doc__ = "In any order of adding and removing, each user is found at its slot."


def test_the_buffer_of_names_is_bounded() -> None:
    """Names of removed users are dropped before the buffer grows, and the others are kept."""
    index = UserIndex(100)
    size = len(index._names)
    text, places = packed_keys([b"stays"])
    stays = int(index.resolve(0, text, places["at"], places["bytes"])[0][0])
    for i in range(3000):
        text, places = packed_keys([b"%0100d" % i])
        slots, _ = index.resolve(0, text, places["at"], places["bytes"])
        assert index.name(int(slots[0])) == f"{i:0100d}"
        index.remove(slots)
    assert len(index._names) == size
    assert index.name(stays) == "stays"
    assert index.find(0, b"stays") == stays


def test_too_many_users() -> None:
    """If no slot is free, the error names the setting."""
    text, places = packed_keys([b"%d" % i for i in range(LIMIT + 1)])
    with pytest.raises(StateError, match="FORECLICK_RESIDENT_USERS"):
        UserIndex(LIMIT).resolve(0, text, places["at"], places["bytes"])


def test_users_crafted_to_collide_are_spread() -> None:
    """Users whose ids have the same XXH64, which anybody can make, are found with as few probes as others.

    The test counts probes: in a half full table linear probing needs 1.5 for an existing key (Knuth, vol.
    3, section 6.4, equation 23).
    """
    index = UserIndex(4096)
    text, places = packed_keys(colliding(4000))
    slots, new = index.resolve(0, text, places["at"], places["bytes"])
    assert len(set(slots.tolist())) == len(new) == 4000
    mask = len(index._table) - 1
    taken = np.flatnonzero(index._table)
    home = [int(index_module._place(index._hash[index._table[at] - 1], 0, mask)) for at in taken.tolist()]
    assert ((taken - np.array(home)) & mask).mean() < 2


def test_one_name_in_two_partitions() -> None:
    """The place in the table also depends on the partition."""
    hashed = np.uint64(12345)
    assert index_module._place(hashed, 0, 1023) != index_module._place(hashed, 1, 1023)


words = st.lists(st.sampled_from([0, 0, 0, 1, -1, 2**62]), min_size=11, max_size=11)
ROW = np.dtype([("a", "i8"), ("b", "f8", (9,)), ("c", "i4", (2,))], align=True)


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from([0, 0, 0, 1, -1, 2**62]), min_size=11, max_size=11),
            st.binary(max_size=12),
        ),
        max_size=8,
    ),
    st.integers(0, 3).map(lambda floats: 4 * floats),
    st.integers(0, 65535),
    st.randoms(use_true_random=False),
)
@settings(deadline=None)
def test_rows_come_back(
    rows: list[tuple[list[int], bytes]], width: int, number: int, random: np.random.Generator
) -> None:
    """Packed rows are unpacked bit for bit into other slots, with the bytes after them, and no byte is wasted.

    Each has the number of its layout.
    """
    n = len(rows)
    table = np.zeros(max(1, n), ROW)
    table.view(np.int64).reshape(-1, 11)[:n] = [words for words, _ in rows] if n else np.empty((0, 11))
    behind = np.frombuffer(b"".join(extra.ljust(12, b"-")[:width] for _, extra in rows), np.uint8).reshape(
        n, width
    )
    slots = np.arange(n)
    random.shuffle(slots)
    data, ends = pack(table, slots, behind[slots], number)
    for i, slot in enumerate(slots.tolist()):
        filled = sum(word != 0 for word in rows[slot][0])
        assert ends[i + 1] - ends[i] == 2 + 2 + 8 * filled + width + 2  # number, bitmap, zeros after it
    other = np.full(max(1, n), -1, np.int64).repeat(11).view(ROW)
    data.flags.writeable = False
    sizes = np.diff(ends).astype(np.int32)
    assert numbers(data, ends[:-1], sizes).tolist() == [number] * n
    at = unpack(other, slots, data, ends[:-1] + 2, sizes - 2)
    assert other[:n].tobytes() == table[:n].tobytes()
    assert ((ends[1:] - at) & ~3).tolist() == [width] * n
    extra = np.empty((n, width), np.uint8)
    gather(data, at, width, extra)
    assert extra.tobytes() == behind[slots].tobytes()
    for short in range(int(sizes[0]) - 4 - width) if n else ():
        cut = np.array([short], np.int32)
        assert unpack(other, slots[:1], data, ends[:1] + 2, cut).tolist() == [-1]
