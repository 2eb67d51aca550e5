"""Users with events in more than one partition, compared with a loop over names."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.contract.partitioner import partitions_of
from stream_app.kernels.jit import jit
from stream_app.kernels.memory import pointer_to
from stream_app.worker.watches import split_user_finder as split
from stream_app.worker.watches.split_user_finder import SplitUser, SplitUsers
from tests.stream_app.state.test_users import some_users

PARTITIONS = 4


@jit
def hashes(text):  # type: ignore[no-untyped-def]
    """Return both hashes of a buffer."""
    data = pointer_to(text)
    return split.murmur2(data, 0, len(text)), split.crc32(data, 0, len(text))


@given(st.binary(min_size=1, max_size=40))
@settings(max_examples=300, deadline=None)
def test_hashes(key: bytes) -> None:
    """Both hashes are those of Kafka's clients: murmur2 as in `replay`, CRC32 as in zlib."""
    java, librdkafka = hashes(np.frombuffer(key, np.uint8))
    assert librdkafka == zlib.crc32(key)
    assert (int(java) & 0x7FFFFFFF) % 97 == partitions_of([key], 97)[0]


def java(user: str) -> int:
    return int(partitions_of([user.encode()], PARTITIONS)[0])


def librdkafka(user: str) -> int:
    return zlib.crc32(user.encode()) % PARTITIONS


def test_users_of_two_partitioners() -> None:
    """Each user that two rules place differently is found once, whichever row is older; others are not."""
    users = some_users(0, 400)
    watch = SplitUsers(users, PARTITIONS)
    names = [f"u{i}" for i in range(100)]
    for name in names[:50]:
        users.slots(java(name), [name])
    assert watch.look() == []
    for name in names[:50]:
        users.slots(librdkafka(name), [name])
    for name in names[50:]:
        users.slots(librdkafka(name), [name])
        users.slots(java(name), [name])
    wanted = {SplitUser(n, (java(n), librdkafka(n))) for n in names[:50] if java(n) != librdkafka(n)}
    wanted |= {SplitUser(n, (librdkafka(n), java(n))) for n in names[50:] if java(n) != librdkafka(n)}
    found = watch.look()
    assert len(found) == len(set(found))
    assert set(found) == wanted
    assert watch.look() == []


def test_many_new_users_are_looked_at_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call checks a bounded number of users, the oldest first, and the next calls check the rest."""
    monkeypatch.setattr(split, "MOST", 10)
    users = some_users(0, 400)
    watch = SplitUsers(users, PARTITIONS)
    names = [n for n in (f"u{i}" for i in range(100)) if java(n) != librdkafka(n)][:30]
    for name in names:
        users.slots(java(name), [name])
        users.slots(librdkafka(name), [name])
    found = []
    for _ in range(6):
        some = watch.look()
        assert len(some) == 5
        found += some
    assert [each.user for each in found] == names
    assert watch.look() == []


def test_a_user_is_looked_up_where_java_places_it() -> None:
    """Of several rows, the one in the partition of Kafka's own partitioner is first, then the others by number."""
    users = some_users(0)
    for partition in range(PARTITIONS):
        users.slots(partition, ["alice"])
    where = users.partition[users.find_all("alice", PARTITIONS)].tolist()
    first = java("alice")
    assert where == [first, *(p for p in range(PARTITIONS) if p != first)]
    assert users.find_all("bob", PARTITIONS) == []
