"""Sticky assignment of co-partitioned topics: partition p of every topic goes to one worker, copies to others."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata


class Owned(msgspec.Struct, frozen=True, array_like=True):
    """What a member says of itself when it joins: the partitions it holds state of."""

    partitions: list[int]
    copies: list[int] = []  # partitions of others whose state it copies


def balance(
    partitions: Iterable[int],
    owned: Mapping[str, Iterable[int]],
    copied: Mapping[str, Iterable[int]] = MappingProxyType({}),
) -> dict[str, list[int]]:
    """Partitions of each member: as even as can be, moving as few as that allows.

    `owned` says for each member which partitions it held before. Where two claim one, whoever claims more
    partitions keeps it. What is left goes to who has a copy of it (`copied`), if there is room. No member gets more
    than one partition more than another.
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
    for p in sorted(free):
        for member in sorted(members, key=lambda m: (len(result[m]), m)):
            have = len(result[member])
            if p in copied.get(member, ()) and (have < least or (have == least and extra > 0)):
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


def place_copies(
    units: Mapping[str, Iterable[int]], each: int, near: Mapping[str, Iterable[int]]
) -> dict[str, list[int]]:
    """Partitions of which each member keeps a copy: `each` members for a partition, none of them its owner.

    `units`: partitions of each member. `near`: partitions whose state a member has already. Copies are spread evenly,
    but stay where they are if that makes no difference of more than one.
    """
    copies: dict[str, list[int]] = {member: [] for member in units}
    # The members' partitions in turn: those of one after the other would find the last ones with too many copies.
    turns = sorted(
        (turn, p, m) for m, partitions in units.items() for turn, p in enumerate(sorted(partitions))
    )
    for _, p, owner in turns:
        others = sorted(
            (m for m in units if m != owner),
            key=lambda m: (len(copies[m]) - (p in near.get(m, ())), p not in near.get(m, ()), m),
        )
        for member in others[:each]:
            copies[member].append(p)
    return {member: sorted(held) for member, held in copies.items()}


class CopartitionedAssignor(AbstractPartitionAssignor):
    """Assigns by partition number over all subscribed topics, and keeps what a worker had where it can.

    aiokafka's own assignors spread the partitions of several topics independently, which would part a
    user's clicks from the same user's purchases. An instance belongs to one consumer, since it remembers
    what that consumer holds.
    """

    name = "foreclick-copartitioned"
    version = 0

    def __init__(self, copies: int = 0) -> None:
        """`copies`: how many other members keep a copy of a partition's state, if there are so many."""
        self._each = copies
        self._owned: list[int] = []
        #: Partitions of which this member is to keep a copy.
        self.copies: list[int] = []

    def assign(
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Partition numbers of all subscribed topics, balanced over the members.

        Where whoever has a number does not subscribe to one of the topics, that topic's partition goes to
        another member that does.
        """
        topics = sorted({topic for m in members.values() for topic in m.subscription})
        counts = {topic: cluster.partitions_for_topic(topic) or set() for topic in topics}
        said = {member: _said(m.user_data) for member, m in members.items()}
        every = set().union(*counts.values())
        # A member may claim what it likes, at any length.
        owned = {member: every.intersection(o.partitions) for member, o in said.items()}
        copied = {member: every.intersection(o.copies) for member, o in said.items()}
        units = balance(every, owned, copied)
        copies = place_copies(units, self._each, copied)
        owner = {p: member for member, partitions in units.items() for p in partitions}
        given: dict[str, list[tuple[str, list[int]]]] = {member: [] for member in members}
        for topic in topics:
            takers = sorted(m for m, metadata in members.items() if topic in metadata.subscription)
            at = {p: owner[p] if owner[p] in takers else takers[p % len(takers)] for p in counts[topic]}
            for member in takers:
                given[member].append((topic, sorted(p for p in at if at[p] == member)))
        return {
            member: ConsumerProtocolMemberAssignment(
                self.version, given[member], msgspec.msgpack.encode(Owned([], copies[member]))
            )
            for member in members
        }

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What this member sends when it joins."""
        return ConsumerProtocolMemberMetadata(
            self.version, sorted(topics), msgspec.msgpack.encode(Owned(self._owned, self.copies))
        )

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Remembers what this member now holds."""
        self._owned = sorted({p for _, partitions in assignment.assignment for p in partitions})
        self.copies = sorted(_said(assignment.user_data).copies)


def _said(user_data: bytes | None) -> Owned:
    """What a member said of itself, or is told; nothing where that is missing, or in another version's words.

    Any client with the right to join the group says what it likes: nothing of it may end whoever reads it.
    """
    try:
        return msgspec.msgpack.decode(user_data or b"", type=Owned)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return Owned([])
