"""Checks whether the positions of a state belong to the present topics, and agree with the group's offsets. Pure.

A state has a position, a source offset, in each input topic. It has a meaning only in the topic whose records made
the state: another topic of the same name has other records at the same offsets.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stream_app.kafka.errors import TopicError

#: How long a log must end before the state's position until this counts, in seconds: a new leader may not know at
#: once how far the records are replicated. Longer than `TopicWatch` needs, which has more information.
BEHIND_S = 10.0


class LogEnd(NamedTuple):
    """The end of a partition, from the broker's last answer."""

    stable: int  #: records from here on cannot be read yet
    high: int  #: offset of the next record, as far as replicas have the records
    at_ms: int  #: time of the answer, on a steady clock


def made_again(topic: str) -> str:
    """The error text for an input or a changelog that was replaced by another topic of the same name."""
    return (
        f"topic {topic} was deleted and made again, so the offsets in the state mean other records: start with "
        "another FORECLICK_GROUP, whose state begins empty"
    )


def check_ids(topics: Sequence[str], then: Sequence[bytes], now: Sequence[bytes]) -> None:
    """Raises TopicError if a state belongs to other topics than those that exist now; missing ids match all."""
    if len(then) != len(topics) or len(now) != len(topics):
        return
    other = [topic for topic, was, is_ in zip(topics, then, now, strict=True) if was != is_]
    if other:
        raise TopicError("; ".join(map(made_again, other)))


class StateAheadOfLog:
    """Detects a log that ends before the position of a state."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, int], LogEnd] = {}

    def look(self, topic: str, partition: int, position: int, end: LogEnd | None) -> None:
        """Raises TopicError once the broker has said so for `BEHIND_S` seconds; call it about once a second."""
        place = topic, partition
        if end is None or end.stable >= position:
            self._since.pop(place, None)
            return
        first = self._since.setdefault(place, end)
        if end.at_ms - first.at_ms >= BEHIND_S * 1000:
            raise TopicError(
                f"{topic}-{partition} ends at offset {end.stable}, but the state includes its records up to "
                f"{position}: the topic was deleted and made again, or its brokers have lost records; start with "
                "another FORECLICK_GROUP, whose state begins empty"
            )

    def forget(self) -> None:
        """Forgets everything, since partitions were reassigned."""
        self._since.clear()


class RecordsBehindOpenTransaction:
    """Detects partitions whose records wait for the end of another producer's transaction."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, int], LogEnd] = {}

    def look(self, topic: str, partition: int, end: LogEnd | None) -> tuple[int, float]:
        """How many records wait, transaction markers included, and for how many seconds the first one has waited.

        An ordinary transaction ends, and the last stable offset moves: only an offset that does not move counts.
        """
        place = topic, partition
        if end is None or end.high <= end.stable:
            self._since.pop(place, None)
            return 0, 0.0
        first = self._since.get(place)
        if first is None or first.stable != end.stable:
            first = self._since[place] = end
        return end.high - end.stable, (end.at_ms - first.at_ms) / 1000

    def forget(self) -> None:
        """Forgets everything, since partitions were reassigned."""
        self._since.clear()


class Comparison(NamedTuple):
    """The differences between a state and the offsets of its group."""

    sentences: list[str]
    again: bool  #: the group's offsets are before the state and must be committed again


def compare(
    partition: int,
    topics: Sequence[str],
    positions: Sequence[int] | None,
    committed: Mapping[str, int | None],
) -> Comparison:
    """How the restored state of a partition and the group's offsets differ, with one sentence for each difference.

    `positions`: the next source offset of each topic, None if there is no state.
    """
    known, skipped, unknown = [], [], []
    for topic, position in zip(topics, positions or [0] * len(topics), strict=True):
        offset = committed[topic] or 0
        place = f"{topic}-{partition}"
        if offset < position:
            known.append(f"offsets {offset} to {position - 1} of {place}")
        elif offset > position and positions is not None:
            skipped.append(f"offsets {position} to {offset - 1} of {place}")
        elif offset > position:
            unknown.append(f"offset {offset} of {place}")
    sentences = []
    if known:
        sentences.append(
            f"{_listed(known)} are in the state already and are passed over: to process them again use another "
            "FORECLICK_GROUP"
        )
    if skipped:
        sentences.append(
            f"{_listed(skipped)} are not in the state and are skipped, because the group's committed offsets lie "
            "behind them: to process them set the offsets back, or use another FORECLICK_GROUP"
        )
    if unknown:
        sentences.append(
            f"there is no state of partition {partition}, though the group has committed {_listed(unknown)}: what "
            "lies below is in no answer; to process it use another FORECLICK_GROUP"
        )
    return Comparison(sentences, bool(known))


def _listed(places: Sequence[str]) -> str:
    return ", ".join(places)
