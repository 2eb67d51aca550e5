"""The assignor: one worker per partition number of all topics, evenly, with as few moves as possible."""

from aiokafka.cluster import ClusterMetadata
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_app.worker.transport.assignor import CopartitionedAssignor, balance, place_standbys

members = st.sets(st.sampled_from([f"w{i}" for i in range(8)]), min_size=1)
sizes = st.integers(0, 24)


class Topics(ClusterMetadata):
    """The cluster metadata of the topics, without a broker."""

    def __init__(self, counts: dict[str, int]) -> None:
        super().__init__()
        self.counts = counts

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self.counts[topic])) if topic in self.counts else None


def check(result: dict[str, list[int]], partitions: int) -> None:
    """Check that every partition is assigned once, and that shares differ by at most one."""
    assert sorted(p for owned in result.values() for p in owned) == list(range(partitions))
    counts = [len(owned) for owned in result.values()]
    assert max(counts) - min(counts) <= 1
    assert all(owned == sorted(owned) for owned in result.values())


@given(sizes, st.dictionaries(st.sampled_from("abcdefgh"), st.lists(st.integers(-2, 30)), min_size=1))
@settings(max_examples=300, deadline=None)
def test_any_claims_end_in_a_balance(partitions: int, claims: dict[str, list[int]]) -> None:
    """Whatever partitions members report, even twice or unknown ones, all are assigned once, evenly, reproducibly."""
    result = balance(range(partitions), claims)
    assert set(result) == set(claims)
    check(result, partitions)
    assert balance(reversed(range(partitions)), dict(reversed(claims.items()))) == result


@given(sizes, members)
@settings(deadline=None)
def test_nothing_moves_when_nothing_changes(partitions: int, names: set[str]) -> None:
    """The same members keep exactly their partitions."""
    before = balance(range(partitions), {name: [] for name in names})
    assert balance(range(partitions), before) == before


@given(sizes, members, members)
@settings(max_examples=300, deadline=None)
def test_no_more_moves_than_needed(partitions: int, names: set[str], later: set[str]) -> None:
    """After joins and leaves each remaining member keeps as much as an even share allows."""
    before = balance(range(partitions), {name: [] for name in names})
    after = balance(range(partitions), {name: before.get(name, []) for name in later})
    check(after, partitions)
    kept = sum(len(set(before[name]) & set(after[name])) for name in names & later)
    least, extra = divmod(partitions, len(later))
    held = [len(before[name]) for name in names & later]
    most = sum(min(n, least) for n in held) + min(extra, sum(n > least for n in held))
    assert kept == most


@given(sizes, members, st.sets(st.sampled_from(["clicks", "browses", "purchases"]), min_size=1))
@settings(max_examples=100, deadline=None)
def test_members_get_whole_partitions(partitions: int, names: set[str], topics: set[str]) -> None:
    """Through the protocol, a member gets the same numbers of every topic, and reports them the next time."""
    cluster = Topics(dict.fromkeys(topics, partitions))
    assignors = {name: CopartitionedAssignor() for name in names}
    first: dict[str, list[tuple[str, list[int]]]] = {}
    for _ in range(2):
        metadata = {name: a.metadata(topics) for name, a in assignors.items()}
        result = next(iter(assignors.values())).assign(cluster, metadata)
        given_out = {name: list(result[name].assignment) for name in names}
        for name, assignor in assignors.items():
            assignor.on_assignment(result[name])
            numbers = [owned for _, owned in given_out[name]]
            assert [topic for topic, _ in given_out[name]] == sorted(topics)
            assert all(each == numbers[0] for each in numbers)
        check({name: owned[0][1] for name, owned in given_out.items()}, partitions)
        assert first in ({}, given_out)
        first = given_out


def test_topics_of_other_sizes_and_members_of_other_topics() -> None:
    """With a missing topic, fewer partitions or another subscription, everything that exists is assigned once."""
    cluster = Topics({"clicks": 4, "browses": 2})
    assignor = CopartitionedAssignor()
    metadata = {"a": assignor.metadata(["clicks", "browses"]), "b": assignor.metadata(["clicks", "missing"])}
    result = assignor.assign(cluster, metadata)
    given_out = [(t, p) for each in result.values() for t, owned in each.assignment for p in owned]
    wanted = [*(("clicks", p) for p in range(4)), *(("browses", p) for p in range(2))]
    assert sorted(given_out) == sorted(wanted)


def test_a_member_without_user_data_is_a_new_one() -> None:
    """A member that does not report its partitions gets a share like a new one."""
    assignor = CopartitionedAssignor()
    silent = assignor.metadata(["clicks"])
    silent.user_data = b""
    result = assignor.assign(Topics({"clicks": 3}), {"a": silent, "b": assignor.metadata(["clicks"])})
    check({name: each.assignment[0][1] for name, each in result.items()}, 3)


@given(sizes, members, st.integers(0, 3))
@example(24, {"w0", "w1", "w2"}, 1)
@settings(max_examples=200, deadline=None)
def test_standbys_are_elsewhere_and_even(partitions: int, names: set[str], each: int) -> None:
    """A partition has the configured number of standbys, or one on each other member; evenly, and with few moves."""
    units = balance(range(partitions), {name: [] for name in names})
    standbys = place_standbys(units, each, {})
    assert set(standbys) == names
    for name in names:
        assert not set(standbys[name]) & set(units[name]), "a standby on the owner's worker is useless"
    for p in range(partitions):
        assert sum(p in held for held in standbys.values()) == min(each, len(names) - 1)
    counts = [len(held) for held in standbys.values()]
    assert max(counts) - min(counts) <= 2
    assert place_standbys(units, each, standbys) == standbys


@given(st.integers(1, 24), members.filter(lambda names: len(names) > 1), st.data())
@settings(max_examples=200, deadline=None)
def test_who_has_a_copy_takes_over(partitions: int, names: set[str], data: st.DataObject) -> None:
    """Each partition of a member that left goes to the member with its copy, as far as an even share allows."""
    before = balance(range(partitions), {name: [] for name in names})
    standbys = place_standbys(before, 1, {})
    left = data.draw(st.sampled_from(sorted(names)))
    owned = {name: held for name, held in before.items() if name != left}
    standby_of = {name: held for name, held in standbys.items() if name != left}
    after = balance(range(partitions), owned, standby_of)
    check(after, partitions)
    for p in before[left]:
        (keeper,) = (name for name, held in standby_of.items() if p in held)
        # The member with the copy is skipped only if it already has its full share.
        assert p in after[keeper] or len(after[keeper]) >= partitions // len(after)


def test_standbys_are_told_through_the_protocol() -> None:
    """Each member learns its standbys, and reports them when it joins again."""
    cluster = Topics({"clicks": 4})
    assignors = {name: CopartitionedAssignor(1) for name in "ab"}
    for _ in range(2):
        metadata = {name: a.metadata({"clicks"}) for name, a in assignors.items()}
        for name, given_out in assignors["a"].assign(cluster, metadata).items():
            assignors[name].on_assignment(given_out)
        assert {name: a.standbys for name, a in assignors.items()} == {"a": [2, 3], "b": [0, 1]}
