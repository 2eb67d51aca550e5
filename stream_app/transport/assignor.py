"""Sticky assignment of co-partitioned topics: partition p of every topic goes to one worker."""

from collections.abc import Iterable, Mapping

import msgspec
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata


class Owned(msgspec.Struct, frozen=True, array_like=True):
    """What a member says of itself when it joins: the partitions it holds state of."""

    partitions: list[int]


def balance(partitions: Iterable[int], owned: Mapping[str, Iterable[int]]) -> dict[str, list[int]]:
    """Partitions of each member: as even as can be, moving as few as that allows.

    `owned` says for each member which partitions it held before. Where two claim one, whoever claims more
    partitions keeps it. No member gets more than one partition more than another.
    """
    members = sorted(owned)
    free = set(partitions)
    least, extra = divmod(len(free), len(members))
    result: dict[str, list[int]] = {}
    # Members that hold the most keep the one place more that some may have.
    for member in sorted(members, key=lambda m: (-len(set(owned[m]) & free), m)):
        kept = sorted(set(owned[member]) & free)
        room = least + (1 if extra > 0 else 0)
        kept = kept[:room]
        if len(kept) > least:
            extra -= 1
        free.difference_update(kept)
        result[member] = kept
    todo = sorted(free)
    for member in members:
        while todo and len(result[member]) < least:
            result[member].append(todo.pop(0))
    for member in members:
        if todo and len(result[member]) == least:
            result[member].append(todo.pop(0))
    return {member: sorted(result[member]) for member in members}


class CopartitionedAssignor(AbstractPartitionAssignor):
    """Assigns by partition number over all subscribed topics, and keeps what a worker had where it can.

    aiokafka's own assignors spread the partitions of several topics independently, which would part a
    user's clicks from the same user's purchases. An instance belongs to one consumer, since it remembers
    what that consumer holds.
    """

    name = "foreclick-copartitioned"
    version = 0

    def __init__(self) -> None:
        self._owned: list[int] = []

    def assign(
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Partition numbers of all subscribed topics, balanced over the members.

        Where whoever has a number does not subscribe to one of the topics, that topic's partition goes to
        another member that does.
        """
        topics = sorted({topic for m in members.values() for topic in m.subscription})
        counts = {topic: cluster.partitions_for_topic(topic) or set() for topic in topics}
        owned = {member: _owned(m.user_data) for member, m in members.items()}
        units = balance(set().union(*counts.values()), owned)
        owner = {p: member for member, partitions in units.items() for p in partitions}
        given: dict[str, list[tuple[str, list[int]]]] = {member: [] for member in members}
        for topic in topics:
            takers = sorted(m for m, metadata in members.items() if topic in metadata.subscription)
            at = {p: owner[p] if owner[p] in takers else takers[p % len(takers)] for p in counts[topic]}
            for member in takers:
                given[member].append((topic, sorted(p for p in at if at[p] == member)))
        return {
            member: ConsumerProtocolMemberAssignment(self.version, given[member], b"") for member in members
        }

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What this member sends when it joins."""
        return ConsumerProtocolMemberMetadata(
            self.version, sorted(topics), msgspec.msgpack.encode(Owned(self._owned))
        )

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Remembers what this member now holds."""
        self._owned = sorted({p for _, partitions in assignment.assignment for p in partitions})


def _owned(user_data: bytes) -> list[int]:
    """What a member said of itself; nothing where it did not, or said it in another version's words."""
    try:
        return msgspec.msgpack.decode(user_data, type=Owned).partitions
    except msgspec.MsgspecError:
        return []
