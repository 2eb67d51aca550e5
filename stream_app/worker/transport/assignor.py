"""Sticky assignment of co-partitioned topics: one worker gets partition p of every topic, others its standbys."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata


class Owned(msgspec.Struct, frozen=True, array_like=True):
    """What a member reports when it joins: the partitions whose state it has."""

    partitions: list[int]
    standbys: list[int] = []  # partitions of other members for which it is a standby


def balance(
    partitions: Iterable[int],
    owned: Mapping[str, Iterable[int]],
    standby_of: Mapping[str, Iterable[int]] = MappingProxyType({}),
) -> dict[str, list[int]]:
    """The partitions of each member: distributed evenly, and with as few moves as an even distribution allows.

    `owned` names the partitions that each member had before. If two members claim the same partition, the one that
    claims more partitions keeps it. The remaining partitions go first to their standbys (`standby_of`: the partitions
    that each member is a standby of), as far as those have room. The largest and the smallest share differ by at
    most one partition.
    """
    members = sorted(owned)
    free = set(partitions)
    least, extra = divmod(len(free), len(members))
    result: dict[str, list[int]] = {}
    # If the partitions cannot be divided evenly, the members that had the most get one more.
    for member in sorted(members, key=lambda m: (-len(set(owned[m]) & free), m)):
        kept = sorted(set(owned[member]) & free)
        room = least + (1 if extra > 0 else 0)
        kept = kept[:room]
        if len(kept) > least:
            extra -= 1
        free.difference_update(kept)
        result[member] = kept
    for p in sorted(free):
        for member in sorted(members, key=lambda m: (len(result[m]), m)):
            have = len(result[member])
            if p in standby_of.get(member, ()) and (have < least or (have == least and extra > 0)):
                extra -= have == least
                result[member].append(p)
                free.discard(p)
                break
    todo = sorted(free)
    for member in members:
        while todo and len(result[member]) < least:
            result[member].append(todo.pop(0))
    for member in members:
        if todo and len(result[member]) == least:
            result[member].append(todo.pop(0))
    return {member: sorted(result[member]) for member in members}


def place_standbys(
    units: Mapping[str, Iterable[int]], each: int, near: Mapping[str, Iterable[int]]
) -> dict[str, list[int]]:
    """The standby partitions of each member: every partition gets `each` standbys, none of them on its owner.

    `units`: the partitions that each member owns. `near`: the partitions whose state a member has already. Standbys
    are distributed evenly, but one stays where it is if that makes the shares differ by at most one.
    """
    standbys: dict[str, list[int]] = {member: [] for member in units}
    # Take one partition of each member in turn. Member by member, the last members would get too many standbys.
    turns = sorted(
        (turn, p, m) for m, partitions in units.items() for turn, p in enumerate(sorted(partitions))
    )
    for _, p, owner in turns:
        others = sorted(
            (m for m in units if m != owner),
            key=lambda m: (len(standbys[m]) - (p in near.get(m, ())), p not in near.get(m, ()), m),
        )
        for member in others[:each]:
            standbys[member].append(p)
    return {member: sorted(held) for member, held in standbys.items()}


class CopartitionedAssignor(AbstractPartitionAssignor):
    """Assigns partition numbers across all subscribed topics, and lets a worker keep its partitions if possible.

    aiokafka's own assignors distribute the partitions of each topic independently, so one worker would get a user's
    clicks and another worker the same user's purchases. Each consumer needs an instance of its own, because the
    instance remembers what that consumer has.
    """

    name = "foreclick-copartitioned"
    version = 0

    def __init__(self, standby_replicas: int = 0) -> None:
        """`standby_replicas`: the number of standbys of each partition, fewer if the group has too few members."""
        self._each = standby_replicas
        self._owned: list[int] = []
        #: Partitions for which this member is to be a standby.
        self.standbys: list[int] = []

    def assign(
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Distributes the partition numbers of all subscribed topics over the members.

        If the member with a partition number does not subscribe to one of the topics, another member that does gets
        this topic's partition.
        """
        topics = sorted({topic for m in members.values() for topic in m.subscription})
        counts = {topic: cluster.partitions_for_topic(topic) or set() for topic in topics}
        said = {member: _said(m.user_data) for member, m in members.items()}
        every = set().union(*counts.values())
        # A member may claim anything: keep only partitions that exist.
        owned = {member: every.intersection(o.partitions) for member, o in said.items()}
        standby_of = {member: every.intersection(o.standbys) for member, o in said.items()}
        units = balance(every, owned, standby_of)
        standbys = place_standbys(units, self._each, standby_of)
        owner = {p: member for member, partitions in units.items() for p in partitions}
        given: dict[str, list[tuple[str, list[int]]]] = {member: [] for member in members}
        for topic in topics:
            takers = sorted(m for m, metadata in members.items() if topic in metadata.subscription)
            at = {p: owner[p] if owner[p] in takers else takers[p % len(takers)] for p in counts[topic]}
            for member in takers:
                given[member].append((topic, sorted(p for p in at if at[p] == member)))
        return {
            member: ConsumerProtocolMemberAssignment(
                self.version, given[member], msgspec.msgpack.encode(Owned([], standbys[member]))
            )
            for member in members
        }

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What this member sends when it joins."""
        return ConsumerProtocolMemberMetadata(
            self.version, sorted(topics), msgspec.msgpack.encode(Owned(self._owned, self.standbys))
        )

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Remembers what this member was assigned."""
        self._owned = sorted({p for _, partitions in assignment.assignment for p in partitions})
        self.standbys = sorted(_said(assignment.user_data).standbys)


def _said(user_data: bytes | None) -> Owned:
    """Decodes what a member reports, or is told; empty if it is missing or has the format of another version.

    Any client with the right to join the group may send any bytes, so decoding them must never raise.
    """
    try:
        return msgspec.msgpack.decode(user_data or b"", type=Owned)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return Owned([])
