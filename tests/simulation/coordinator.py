"""The coordinator of transactions, like Kafka's, in both forms of the protocol."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from aiokafka import TopicPartition

from tests.simulation.group import Group
from tests.simulation.log import INVALID_TXN_STATE, Log

CONCURRENT, UNKNOWN_MAPPING, FENCED = 51, 49, 90


@dataclass(slots=True)
class _Id:
    """A transactional id. Its states: empty, ongoing, preparing (markers are being written), complete."""

    producer_id: int
    timeout_s: float
    epoch: int = -1
    state: str = "empty"
    commit: bool = False  # how the last transaction ended
    partitions: set[TopicPartition] = field(default_factory=set)
    group: bool = False
    serial: int = 0  # number of its transactions so far
    left: int = 0  # number of markers still to be written


class Transactions:
    """All transactional ids. Markers are written after the decision, at a different time in each partition."""

    def __init__(
        self,
        logs: dict[TopicPartition, Log],
        group: Group,
        later: Callable[..., None],
        marker_s: Callable[[], float],
    ) -> None:
        """`later(seconds, call, *args)` delays a call; `marker_s` returns how long the next marker takes."""
        self._logs, self._group, self._later, self._marker_s = logs, group, later, marker_s
        self._ids: dict[str, _Id] = {}
        self._next_producer = 1000

    @property
    def undecided(self) -> list[str]:
        """Ids with an open transaction."""
        return [name for name, id_ in self._ids.items() if id_.state in ("ongoing", "preparing")]

    def init(self, name: str | None, timeout_s: float) -> tuple[int, int, int]:
        """Return error code, producer id and epoch."""
        id_ = self._ids.get(name) if name is not None else None
        if id_ is None:
            self._next_producer += 1
            id_ = _Id(self._next_producer, timeout_s)
            if name is not None:
                self._ids[name] = id_
        if id_.state == "preparing":
            return CONCURRENT, -1, -1
        if id_.state == "ongoing":
            self._abort(id_)
            return CONCURRENT, -1, -1
        id_.epoch += 1
        id_.state = "empty"
        return 0, id_.producer_id, id_.epoch

    def _known(self, name: str, producer_id: int, epoch: int) -> tuple[int, _Id | None]:
        id_ = self._ids.get(name)
        if id_ is None or id_.producer_id != producer_id:
            return UNKNOWN_MAPPING, None
        return (0, id_) if id_.epoch == epoch else (FENCED, id_)

    def add(
        self, name: str, producer_id: int, epoch: int, tps: Iterable[TopicPartition], *, group: bool = False
    ) -> int:
        """Add partitions, or the group, to the transaction, which begins if there is none."""
        code, id_ = self._known(name, producer_id, epoch)
        if id_ is None or code:
            return code
        if id_.state == "preparing":
            return CONCURRENT
        if id_.state != "ongoing":
            id_.state = "ongoing"
            id_.serial += 1
            self._later(id_.timeout_s, self._time_out, id_, id_.serial)
        id_.partitions.update(tps)
        id_.group |= group
        return 0

    def end(self, name: str, producer_id: int, epoch: int, *, implicit: bool) -> tuple[int, int, int]:
        """Commit; return error code, producer id and the epoch of the next transaction."""
        code, id_ = self._known(name, producer_id, epoch)
        if id_ is None:
            return code, -1, -1
        if code:
            # The second form recognises a repeated request: the epoch has grown by one since.
            if implicit and id_.epoch == epoch + 1 and id_.commit and id_.state in ("preparing", "complete"):
                return (CONCURRENT, -1, -1) if id_.state == "preparing" else (0, producer_id, id_.epoch)
            return code, -1, -1
        if id_.state == "preparing":
            return CONCURRENT, -1, -1
        if id_.state == "complete" and id_.commit and not implicit:
            return 0, producer_id, epoch
        if id_.state != "ongoing":
            return INVALID_TXN_STATE, -1, -1
        if implicit:
            id_.epoch += 1
        self._decide(id_, True)
        return 0, producer_id, id_.epoch

    def _abort(self, id_: _Id) -> None:
        id_.epoch += 1  # the previous writer is fenced
        self._decide(id_, False)

    def _time_out(self, id_: _Id, serial: int) -> None:
        if id_.state == "ongoing" and id_.serial == serial:
            self._abort(id_)

    def _decide(self, id_: _Id, commit: bool) -> None:
        id_.state, id_.commit = "preparing", commit
        where: list[TopicPartition | None] = [*sorted(id_.partitions), *([None] if id_.group else [])]
        id_.left = len(where)
        for tp in where:
            self._later(self._marker_s(), self._mark, id_, tp, id_.epoch)
        if not where:
            id_.state = "complete"

    def _mark(self, id_: _Id, tp: TopicPartition | None, epoch: int) -> None:
        if tp is None:
            self._group.mark(id_.producer_id, epoch, id_.commit)
        else:
            self._logs[tp].mark(id_.producer_id, epoch, id_.commit)
        id_.left -= 1
        if not id_.left:
            id_.state = "complete"
            id_.partitions.clear()
            id_.group = False
