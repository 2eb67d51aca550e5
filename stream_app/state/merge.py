"""Merges the input topics of one partition by event time. The order does not depend on how the records arrive.

The merge always takes the head with the smallest time, and breaks ties by the order of the topics (the rule of Kafka
Streams). This equals a sort by the running maximum of `time` within each topic, which is done for a whole micro-batch
at once. An event may leave when no topic that is still waited for can bring an earlier one.

`time` is never after the time at which the record was stored. So a sender's clock that is ahead raises the maximum of
its topic no further than to the broker's time, which the other topics' events reach as soon as they are stored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stream_app.contract.event_columns import Events

_NEVER = -1  # below any time
_FOREVER = np.iinfo(np.int64).max  # above any time


@dataclass(slots=True)
class _Topic:
    """What is buffered of one topic."""

    chunks: list[Events] = field(default_factory=list)
    keys: list[npt.NDArray[np.int64]] = field(default_factory=list)  # running maxima of `time`, per chunk
    size: int = 0
    newest: int = _NEVER  # running maximum of all that was added
    gone: int = _NEVER  # running maximum of all that left
    read: int = 0  # next offset to add
    idle_since: float | None = None  # since when it is empty and has nothing more to read
    finished: bool = False  # nothing will ever be added


class Merge:
    """The buffers of one partition.

    `positions` says how far processing has come: all records below left through `take` or were not events.
    """

    def __init__(self, positions: list[int]) -> None:
        self._topics = [_Topic(read=p) for p in positions]
        self.emitted = _NEVER  #: key of the last event that left
        self.out_of_order = 0  #: events that arrived after an event with a greater key had left

    @property
    def buffered(self) -> list[int]:
        """Events waiting, for each topic."""
        return [t.size for t in self._topics]

    @property
    def positions(self) -> list[int]:
        """The lowest source offset of each topic that has not left yet."""
        return [int(t.chunks[0].data["offset"][0]) if t.size else t.read for t in self._topics]

    def read(self, topic_index: int) -> int:
        """The next offset of a topic to be buffered."""
        return self._topics[topic_index].read

    def oldest_timestamp(self) -> int | None:
        """Kafka timestamp of the oldest waiting record, Unix ms."""
        heads = [int(t.chunks[0].data["timestamp"][0]) for t in self._topics if t.size]
        return min(heads) if heads else None

    def take_out_of_order(self) -> int:
        """How many events since the last call arrived after an event with a greater key had left."""
        count, self.out_of_order = self.out_of_order, 0
        return count

    def add(self, topic_index: int, events: Events, next_offset: int) -> None:
        """Buffers events of a topic in the order of offsets; all records below `next_offset` have then arrived."""
        t = self._topics[topic_index]
        t.read = max(t.read, next_offset)
        if len(events):
            key = np.maximum(np.maximum.accumulate(events.data["time"]), t.newest)
            t.newest = int(key[-1])
            t.chunks.append(events)
            t.keys.append(key)
            t.size += len(events)
            t.idle_since = None

    def renumber(self, change: Callable[[Events], None]) -> None:
        """Calls `change` with everything that is buffered, in pieces; it must not change times and offsets."""
        for t in self._topics:
            for chunk in t.chunks:
                change(chunk)

    def skip(self, positions: Sequence[int]) -> None:
        """Drops what is buffered below `positions`, and no longer waits for it: it was processed before."""
        for t, position in zip(self._topics, positions, strict=True):
            t.read = max(t.read, position)
            if t.size:
                _joined(t)
                _advance(t, int(np.searchsorted(t.chunks[0].data["offset"], position)))

    def clear(self) -> None:
        """Drops what is buffered; it will be read again from `positions`."""
        for t, position in zip(self._topics, self.positions, strict=True):
            t.chunks.clear()
            t.keys.clear()
            t.size = 0
            t.read = position
            t.newest = t.gone
            t.idle_since = None

    def idle(self, topic_index: int, nothing_to_read: bool, now: float) -> None:
        """Reports whether a topic has nothing more to read; `now` in seconds of any steady clock."""
        t = self._topics[topic_index]
        if t.size or not nothing_to_read:
            t.idle_since = None
        elif t.idle_since is None:
            t.idle_since = now

    def finish(self, topic_index: int) -> None:
        """Reports that a topic has ended: it is no longer waited for."""
        self._topics[topic_index].finished = True

    def take(self, limit: int, now: float, max_idle_s: float, *, ended: bool = False) -> Events | None:
        """At most `limit` events in their order, None if none may leave yet.

        A topic that has been idle for `max_idle_s` is no longer waited for; with `ended` no topic is.
        """
        bounds = [self._bound(t, now, max_idle_s, ended) for t in self._topics]
        parts, keys = [], []
        for topic_index, t in enumerate(self._topics):
            if not t.size:
                continue
            # An event with key k leaves only if no other topic can still bring a smaller (key, topic).
            others = [
                b if topic_index < other else b - 1 for other, b in enumerate(bounds) if other != topic_index
            ]
            last = min(others, default=_FOREVER)
            key = _joined(t)
            n = min(int(np.searchsorted(key, last, side="right")), limit)
            if n:
                parts.append((topic_index, n))
                keys.append(key[:n])
        if not parts:
            return None
        if len(parts) == 1:  # in order already
            ((topic_index, n),), (key,) = parts, keys
            events = self._topics[topic_index].chunks[0].take(slice(0, n))
            _advance(self._topics[topic_index], n)
        else:
            key = np.concatenate(keys)
            order = np.argsort(key, kind="stable")[:limit]
            topic = np.repeat(np.arange(len(parts)), [n for _, n in parts])[order]
            every = [self._topics[topic_index].chunks[0].take(slice(0, n)) for topic_index, n in parts]
            events = Events.concat(every).take(order)
            for i, (topic_index, _) in enumerate(parts):
                _advance(self._topics[topic_index], int(np.count_nonzero(topic == i)))
            key = key[order]
        self.out_of_order += int(np.count_nonzero(key < self.emitted))
        self.emitted = max(self.emitted, int(key[-1]))
        return events

    @staticmethod
    def _bound(t: _Topic, now: float, max_idle_s: float, ended: bool) -> int:
        """A lower bound of the keys of all events that this topic can still bring."""
        if ended or t.finished:
            return _FOREVER
        if not t.size and t.idle_since is not None and now - t.idle_since >= max_idle_s:
            return _FOREVER
        return t.newest


def _joined(t: _Topic) -> npt.NDArray[np.int64]:
    """Joins a topic's chunks to one; returns its keys."""
    if len(t.chunks) > 1:
        t.chunks = [Events.concat(t.chunks)]
        t.keys = [np.concatenate(t.keys)]
    return t.keys[0]


def _advance(t: _Topic, n: int) -> None:
    if not n:
        return
    t.gone = int(t.keys[0][n - 1])
    t.size -= n
    if t.size:
        t.chunks[0] = t.chunks[0].take(slice(n, None))
        t.keys[0] = t.keys[0][n:]
    else:
        t.chunks.clear()
        t.keys.clear()
