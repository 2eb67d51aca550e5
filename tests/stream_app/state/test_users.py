"""Slots, eviction and the changelog of the users, with the model's hidden states."""

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from model.serving.hidden_states import HiddenStates
from stream_app.contract.records import EVENT_TYPES
from stream_app.decoding.name_table import stable_hash
from stream_app.state.row_layout import FORMAT, ROW
from stream_app.state.users import (
    META_KEY,
    ItemIndex,
    PartitionMeta,
    StateError,
    Users,
    decode_meta,
    encode_meta,
)
from stream_app.state.window_buckets import LAST_EVENTS
from tests.stream_app.helpers import Log, changelog

WIDTH = 3
LIMIT = 24
ITEMS = ItemIndex.build([stable_hash(f"i{i}") for i in range(4)], none=7)


def some_users(width: int = WIDTH, limit: int = LIMIT) -> Users:
    hidden_states = HiddenStates(2, width, torch.device("cpu")) if width else None
    return Users(limit, ITEMS, hidden_states, width)


def hidden(users: Users, slots: np.ndarray) -> np.ndarray:
    assert users.hidden is not None
    return users.hidden.read(slots)


def scribble(users: Users, slot: int, seed: int) -> None:
    """Fill a row with random plausible values, its hidden state with finite ones, and items in stored form."""
    random = np.random.default_rng(seed)
    raw = random.integers(0, 256, ROW.itemsize, np.uint8)
    users.rows[slot : slot + 1].view(np.uint8)[:] = raw
    row = users.rows[slot]
    for name in set(ROW.names or ()) - {"recent"}:
        value = row[name]
        row[name] = np.abs(value >> 18) if value.dtype.kind == "i" else np.abs(np.nan_to_num(value))
    row["head"] %= 1000
    row["recent"]["ts"] = np.abs(row["recent"]["ts"] >> 18)
    row["recent"]["kind"] %= len(EVENT_TYPES)
    items = random.integers(0, 6, LAST_EVENTS)  # 4 and 5: unknown to the model, or no item
    hashes = [0 if i == 5 else stable_hash(f"i{i}") for i in items.tolist()]
    users.rows["recent"]["item_hash"][slot] = hashes
    users.recent_item[slot] = np.where(items < 4, items, ITEMS.none)
    users.empty_hidden(users.take_fresh())
    users.flagged[slot] = users.rows["flagged"][slot]
    if users.hidden is not None:
        state = random.integers(0, 256, (1, 4 * users.width), np.uint8).view(np.float32)
        users.hidden.write(np.array([slot]), np.where(np.isfinite(state), state, np.float32(-0.0)))
    users.dirty[slot] = True


def test_a_new_user_has_an_empty_row() -> None:
    """A new slot, and one of a removed user, is empty except for -1 as source offsets."""
    users = some_users()
    empty = np.zeros(1, ROW)
    empty["source"] = -1
    for round_ in range(3):
        slots = users.slots(1, ["a", "b", "a"])
        users.empty_hidden(users.take_fresh())
        assert slots[0] == slots[2] != slots[1]
        for slot in slots[:2]:
            assert users.rows[slot].tobytes() == empty.tobytes()
            assert users.recent_item[slot].tolist() == [ITEMS.none] * LAST_EVENTS
            assert users.name(slot) == ("a" if slot == slots[0] else "b")
            assert users.partition[slot] == 1
            assert not users.dirty[slot]
            assert users.touched[slot] == 0
        assert not hidden(users, slots).any()
        for slot in slots[:2]:
            scribble(users, int(slot), round_)
            users.touched[slot] = 5
        users.remove(slots[:2])
        assert len(users) == 0
        assert not len(users.take_dirty(1))


def test_more_users_than_slots_say_what_to_do() -> None:
    """If no slot is free, the error names the setting."""
    users = some_users(limit=2)
    users.slots(0, ["a", "b"])
    with pytest.raises(StateError, match="FORECLICK_RESIDENT_USERS"):
        users.slots(1, ["c"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_hidden_state_that_is_no_number_is_made_anew(value: float) -> None:
    """Read back, it is zero and marked as lacking events; the neighbour's is unchanged."""
    users, fresh = some_users(), some_users()
    assert users.hidden is not None
    for users_of in (users, fresh):
        users_of.count[0] = 0
    slots = users.slots(0, ["a", "b"])
    for slot in slots.tolist():
        scribble(users, slot, slot)
    state = hidden(users, slots)
    state[0, -1] = value
    users.hidden.write(slots, state)
    fresh.restore(0, changelog(users.take_dirty(0).each(), 0))
    found = np.array([fresh.mapping(0)[name] for name in ("a", "b")])
    assert not hidden(fresh, found[:1]).any()
    assert hidden(fresh, found[1:]).tobytes() == state[1:].tobytes()
    assert fresh.stale[found].tolist() == [True, False]


names = st.sampled_from(["a", "b", "c", "d", "ü", "f", "g"])


class Changelog(RuleBasedStateMachine):
    """Two partitions that change, write their log and are read back, compared with plain dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.users = some_users()
        self.model: dict[tuple[int, str], tuple[bytes, bytes]] = {}  # row and hidden state of each user
        self.log: dict[int, Log] = {0: [], 1: []}
        self.users.count.update({0: 0, 1: 0})

    @rule(partition=st.integers(0, 1), some=st.lists(names, min_size=1), seed=st.integers(0, 9999))
    def change(self, partition: int, some: list[str], seed: int) -> None:
        for slot, user in zip(self.users.slots(partition, some).tolist(), some, strict=True):
            scribble(self.users, slot, seed)
            state = hidden(self.users, np.array([slot])).tobytes()
            self.model[partition, user] = (self.users.rows[slot].tobytes(), state)

    @rule(partition=st.integers(0, 1), some=st.sets(names))
    def remove(self, partition: int, some: set[str]) -> None:
        gone = [user for user in sorted(some) if (partition, user) in self.model]
        self.users.remove(np.array([self.users.mapping(partition)[user] for user in gone], np.int64))
        for user in gone:
            del self.model[partition, user]
            self.log[partition].append((user.encode(), None))

    @rule(partition=st.integers(0, 1))
    def checkpoint(self, partition: int) -> None:
        written = self.users.take_dirty(partition).each()
        assert len({key for key, _ in written}) == len(written)
        self.log[partition] += written
        assert not len(self.users.take_dirty(partition))

    @rule(partition=st.integers(0, 1))
    def drop_and_restore(self, partition: int) -> None:
        self.checkpoint(partition)
        self.users.drop(partition)
        for user in "abcdü":
            assert (self.users.find_anywhere(user) is not None) == ((1 - partition, user) in self.model)
        self.users.count[partition] = 0
        self.read_back(self.users, partition, 3)

    def read_back(self, users: Users, partition: int, at_once: int) -> None:
        log = self.log[partition]
        for start in range(0, len(log), at_once):
            users.restore(partition, changelog(log[start : start + at_once], partition))

    @invariant()
    def holds_what_it_should(self) -> None:
        assert len(self.users) == len(self.model)
        used = [slot for partition in (0, 1) for slot in self.users.mapping(partition).values()]
        assert len(set(used)) == len(used)
        self.check(self.users)

    def check(self, users: Users) -> None:
        for (partition, user), (row, state) in self.model.items():
            slot = users.mapping(partition)[user]
            assert users.rows[slot].tobytes() == row
            assert hidden(users, np.array([slot])).tobytes() == state
            assert users.name(slot) == user

    def teardown(self) -> None:
        for partition in (0, 1):
            self.checkpoint(partition)
        for at_once in (1, 2, 1000):
            fresh = some_users()
            for partition in (0, 1):
                self.read_back(fresh, partition, at_once)
            assert len(fresh) == len(self.model)
            self.check(fresh)
            for partition, user in self.model:
                ours, theirs = self.users.mapping(partition)[user], fresh.mapping(partition)[user]
                assert fresh.recent_item[theirs].tolist() == self.users.recent_item[ours].tolist()
            assert not fresh.dirty.any()


TestChangelog = Changelog.TestCase
TestChangelog.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
TestChangelog.__doc__ = (
    "Rows and hidden states come back from the log bit for bit, in any chunks, tombstones and all."
)


@pytest.mark.parametrize(("before", "after"), [(3, 5), (5, 3), (0, 3), (3, 0)])
def test_a_model_of_another_width_keeps_the_rows(before: int, after: int) -> None:
    """Rows of a changelog written with another hidden width are read; the states start at zero."""
    old, new = some_users(before), some_users(after)
    for slot in old.slots(0, ["a", "b"]).tolist():
        scribble(old, slot, slot)
    log = old.take_dirty(0).each()
    other = some_users(after)
    scribble(other, int(other.slots(0, ["c"])[0]), 9)
    new.restore(0, changelog([*log, *other.take_dirty(0).each()]))
    for users, name in ((old, "a"), (old, "b"), (other, "c")):
        ours, theirs = new.mapping(0)[name], users.mapping(0)[name]
        assert new.rows[ours].tobytes() == users.rows[theirs].tobytes()
    if after:
        assert not hidden(new, np.array([new.mapping(0)["a"], new.mapping(0)["b"]])).any()
        wanted = hidden(other, np.array([other.mapping(0)["c"]])).tobytes()
        assert hidden(new, np.array([new.mapping(0)["c"]])).tobytes() == wanted


@pytest.mark.parametrize("value", [b"", b"\0", b"\3" + bytes(40)])
def test_a_record_that_is_no_row(value: bytes) -> None:
    """A record that ends before its row is refused with the remedy."""
    with pytest.raises(
        StateError, match=r"partition 0, offset 0, .*ends before its row does.*FORECLICK_GROUP"
    ):
        some_users().restore(0, changelog([(b"a", value)]))


META = PartitionMeta(FORMAT, ROW.itemsize, 128, "shop@1", 17, 3, [1, 2, 3], 4)


def test_the_partition_record() -> None:
    """The partition's record is read back unchanged; another format or a broken one is refused with the remedy."""
    assert decode_meta(encode_meta(META)) == META
    for number in (1, FORMAT + 1):
        with pytest.raises(StateError, match="start with another FORECLICK_GROUP"):
            decode_meta(encode_meta(msgspec.structs.replace(META, format=number)))
    with pytest.raises(StateError, match="cannot be read"):
        decode_meta(b"\x00")


def test_the_partition_record_of_other_versions() -> None:
    """Fields of a later version are ignored, and the record of format 2, which has fewer, is read."""
    fields = msgspec.to_builtins(META)
    assert decode_meta(msgspec.msgpack.encode({**fields, "added_later": [1, {"a": 2}]})) == META
    older = {name: fields[name] for name in PartitionMeta.__struct_fields__[:8]}
    read = decode_meta(msgspec.msgpack.encode({**older, "format": 2}))
    assert (read.positions, read.model_created) == ([1, 2, 3], 0)


def test_the_partition_record_is_no_user() -> None:
    """The partition's key, which no user can have, makes no row."""
    users = some_users()
    users.restore(0, changelog([(META_KEY, encode_meta(META)), (META_KEY, None)]))
    assert len(users) == 0


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=LIMIT), st.integers(0, LIMIT + 2))
@settings(max_examples=100, deadline=None)
def test_oldest_are_those_longest_silent(sequence: list[int], keep: int) -> None:
    """Exactly the surplus users are returned, those with the smallest sequence, of this partition only."""
    users = some_users(0, limit=2 * LIMIT)
    users.slots(1, ["someone else"])
    slots = users.slots(0, [f"u{i}" for i in range(len(sequence))])
    users.rows["sequence"][slots] = sequence
    order = sorted(range(len(sequence)), key=sequence.__getitem__)
    oldest = [users.name(slot) for slot in users.oldest(0, keep).tolist()]
    assert oldest == [f"u{i}" for i in order[: max(0, len(sequence) - keep)]]
    assert not len(users.oldest(5, 0))


def test_expired_are_those_beyond_their_time() -> None:
    """Users expire beyond the limit, not at it; users not yet in the log stay unless they are requested too."""
    users = some_users(0)
    slots = users.slots(0, ["old", "edge", "dirty", "new"])
    users.rows["clock"][slots] = [99, 100, 50, 150]
    users.dirty[slots[2]] = True
    assert users.expired(0, 200, 100).tolist() == slots[:1].tolist()
    assert users.expired(0, 200, 100, changed_too=True).tolist() == slots[[0, 2]].tolist()
    assert not len(users.expired(3, 200, 100))


@given(st.lists(st.integers(0, 20), unique=True), st.lists(st.integers(0, 25)))
@settings(deadline=None)
def test_item_index_finds_what_is_known(known: list[int], asked: list[int]) -> None:
    """The number of a known hash is its index, any other hash has none."""
    index = ItemIndex.build([stable_hash(str(i)) for i in known], none=99)
    hashes = np.array([stable_hash(str(i)) for i in asked], np.uint64)
    assert index.of(hashes).tolist() == [known.index(i) if i in known else 99 for i in asked]
