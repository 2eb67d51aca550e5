"""The consumer group as its coordinator sees it: members, generations, sessions, offsets."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from aiokafka import TopicPartition

from tests.simulation.log import INVALID_EPOCH

ILLEGAL_GENERATION, UNKNOWN_MEMBER, REBALANCING = 22, 25, 27

#: Called with an error code, the member's id, the generation, its own partition numbers, and the numbers of
#: which it should keep a copy.
Joined = Callable[[int, str, int, list[int], list[int]], None]


@dataclass(slots=True)
class _Member:
    seen: float
    joined: Joined | None = None  # set while it waits for the others
    partitions: list[int] = field(default_factory=list)


class Group:
    """One group, whose members share partition numbers, with the eager protocol."""

    def __init__(
        self,
        partitions: int,
        session_s: float,
        later: Callable[..., None],
        now: Callable[[], float],
        assign: Callable[[int, list[str]], dict[str, list[int]]],
        standbys: bool,
    ) -> None:
        """`assign(partitions, members)` returns the shares; `standbys`: members are standbys of each other."""
        self._standbys = standbys
        self._partitions, self._session_s, self._later, self._now, self._assign = (
            partitions, session_s, later, now, assign,
        )  # fmt: skip
        self.generation = 0
        self.members: dict[str, _Member] = {}
        self._rebalancing = False
        self._round = 0
        self._born = 0
        #: The committed offsets.
        self.offsets: dict[TopicPartition, int] = {}
        #: The greatest offsets ever committed: a late commit can set offsets back, since Kafka does not notice it.
        self.reached: dict[TopicPartition, int] = {}
        #: Called after each commit.
        self.on_commit: Callable[[], None] = lambda: None
        self._pending: dict[int, dict[TopicPartition, int]] = {}  # offsets by transaction's producer
        self._epochs: dict[int, int] = {}
        self.rebalances = 0

    @property
    def pending(self) -> bool:
        """Whether offsets wait for the end of a transaction."""
        return bool(self._pending)

    # --- members

    def join(self, name: str, joined: Joined) -> None:
        """Call `joined` when all members have joined, or when the missing ones were removed."""
        if not name:
            self._born += 1
            name = f"member-{self._born}"
            self.members[name] = _Member(self._now())
            self._watch(name)
        elif name not in self.members:
            joined(UNKNOWN_MEMBER, "", -1, [], [])
            return
        self.members[name].joined = joined
        self.rebalance()
        self._join_all()

    def leave(self, name: str) -> None:
        """Remove a member."""
        if self.members.pop(name, None) is not None:
            self.rebalance()
            self._join_all()

    def heartbeat(self, name: str, generation: int) -> int:
        """Return the error code."""
        member = self.members.get(name)
        if member is None:
            return UNKNOWN_MEMBER
        if generation != self.generation:
            return ILLEGAL_GENERATION
        member.seen = self._now()
        return REBALANCING if self._rebalancing else 0

    def rebalance(self) -> None:
        """Start a rebalance: from now on, heartbeats tell members to join again."""
        if not self._rebalancing and self.members:
            self._rebalancing = True
            self._round += 1
            self._later(self._session_s, self._give_up, self._round)

    def _give_up(self, round_: int) -> None:
        if self._rebalancing and round_ == self._round:
            for name in [n for n, m in self.members.items() if m.joined is None]:
                del self.members[name]
            self._join_all()

    def _join_all(self) -> None:
        if not self._rebalancing or any(m.joined is None for m in self.members.values()):
            return
        self._rebalancing = False
        if not self.members:
            return
        self.generation += 1
        self.rebalances += 1
        shares = self._assign(self._partitions, sorted(self.members))
        for name, member in self.members.items():
            joined, member.joined = member.joined, None
            member.seen, member.partitions = self._now(), shares[name]
            assert joined is not None
            others = [p for p in range(self._partitions) if p not in shares[name]]
            joined(0, name, self.generation, shares[name], others if self._standbys else [])

    def _watch(self, name: str) -> None:
        member = self.members.get(name)
        if member is None:
            return
        left = member.seen + self._session_s - self._now()
        if left <= 0 and member.joined is None:
            self.leave(name)
        else:
            self._later(max(left, 0.1), self._watch, name)

    # --- offsets

    def _refuse(self, name: str, generation: int) -> int:
        if generation < 0 and not name:  # a consumer outside the group
            return UNKNOWN_MEMBER if self.members else 0
        if name not in self.members:
            return UNKNOWN_MEMBER
        return ILLEGAL_GENERATION if generation != self.generation else 0

    def commit(self, name: str, generation: int, offsets: dict[TopicPartition, int]) -> int:
        """Return the error code."""
        code = self._refuse(name, generation)
        if not code:
            self._put(offsets)
            if name in self.members:
                self.members[name].seen = self._now()
        return code

    def commit_in_transaction(
        self, id_: int, epoch: int, name: str, generation: int, offsets: Iterable[tuple[TopicPartition, int]]
    ) -> int:
        """Return the error code. The offsets wait for the marker."""
        if epoch < self._epochs.get(id_, -1):
            return INVALID_EPOCH
        # Kafka does not check a request without a member id.
        code = 0 if generation < 0 and not name else self._refuse(name, generation)
        if not code:
            self._epochs[id_] = epoch
            self._pending.setdefault(id_, {}).update(offsets)
        return code

    def mark(self, id_: int, epoch: int, commit: bool) -> None:
        """End a transaction."""
        if epoch < self._epochs.get(id_, -1):
            return
        self._epochs[id_] = epoch
        offsets = self._pending.pop(id_, {})
        if commit:
            self._put(offsets)

    def _put(self, offsets: dict[TopicPartition, int]) -> None:
        self.offsets.update(offsets)
        for tp, offset in offsets.items():
            self.reached[tp] = max(offset, self.reached.get(tp, 0))
        self.on_commit()
