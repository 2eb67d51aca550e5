"""The input of the comparison and the expected results: JSON events of a skewed population of users.

Users by Zipf 1.1 (the first of 20,000 makes 14 % of the events), 70 % clicks, 20 % browses, 10 % purchases,
event time advancing 1 ms per event. A user's counts are kept in tumbling windows of 60 s of event time.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from confluent_kafka import Producer

KINDS = ("click", "browse", "purchase")
WINDOW_S = 60
USERS = 20_000
ITEMS = 50_000
ZIPF = 1.1
FLUSH_LIMIT_S = 120.0

#: clicks, browses, purchases
Counts = tuple[int, int, int]


@dataclass(frozen=True)
class Traffic:
    """n events as columns, in the order of their event time."""

    user: npt.NDArray[np.int64]  # (n,)
    kind: npt.NDArray[np.int64]  # (n,) index into KINDS
    item: npt.NDArray[np.int64]  # (n,) 1 to ITEMS
    nonce: npt.NDArray[np.int64]  # (n,) makes each event_id different from the next
    start_s: int  # event time of the first event, Unix seconds

    def __len__(self) -> int:
        return len(self.user)

    def take(self, n: int) -> "Traffic":
        """Return the first n events."""
        columns = {name: getattr(self, name)[:n] for name in ("user", "kind", "item", "nonce")}
        return replace(self, **columns)


@dataclass(frozen=True)
class Truth:
    """The correct outputs of job 1 for a traffic."""

    user: npt.NDArray[np.int64]  # (n,) user of each event
    counts: dict[tuple[str, int], Counts]  # (user_id, start of the window in Unix seconds) -> last counts


def traffic(n: int, start_s: int, users: int = USERS, seed: int = 7) -> Traffic:
    """Return n random events for a seed."""
    random = np.random.default_rng(seed)
    weight = 1.0 / np.arange(1, users + 1) ** ZIPF
    return Traffic(
        user=random.choice(users, n, p=weight / weight.sum()),
        kind=random.choice(len(KINDS), n, p=(0.7, 0.2, 0.1)),
        item=random.integers(1, ITEMS + 1, n),
        nonce=random.integers(0, 2**40, n),
        start_s=start_s,
    )


def records(events: Traffic) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield key, value and time (Unix ms) of each event; a value has 107 bytes on average."""
    columns = zip(
        events.user.tolist(), events.kind.tolist(), events.item.tolist(), events.nonce.tolist(), strict=True
    )
    kinds = [kind.encode() for kind in KINDS]
    for number, (user, kind, item, nonce) in enumerate(columns):
        ms = events.start_s * 1000 + number
        yield (
            b"u%d" % user,
            b'{"event_id":"%08d-%010x","user_id":"u%d","event_type":"%b","item_id":%d,"ts":%d.%03d}'
            % (number, nonce, user, kinds[kind], item, ms // 1000, ms % 1000),
            ms,
        )


def truth(events: Traffic) -> Truth:
    """Return the last counts of every user and window."""
    second = events.start_s + np.arange(len(events)) // 1000
    window = second // WINDOW_S
    first = int(window[0])
    spans = int(window[-1]) - first + 1
    cell = events.user * spans + (window - first)
    cells, group = np.unique(cell, return_inverse=True)
    counts = np.zeros((len(cells), len(KINDS)), np.int64)
    np.add.at(counts, (group, events.kind), 1)
    names = [(f"u{c // spans}", (first + c % spans) * WINDOW_S) for c in cells.tolist()]
    rows: list[list[int]] = counts.tolist()
    return Truth(events.user, {name: (r[0], r[1], r[2]) for name, r in zip(names, rows, strict=True)})


def recent_start(n: int) -> int:
    """Return a start (Unix s) so that n events end shortly before now: Faust expires windows by the wall clock."""
    return int(time.time()) - n // 1000 - 100


def produce(bootstrap: str, topic: str, events: Traffic) -> None:
    """Send all events to a topic, each to the partition that Kafka's Java client would choose for its key."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "log_level": 0,  # otherwise it logs that it has to wait for its id on a new broker
            "linger.ms": 20,
            "batch.size": 262_144,
            "queue.buffering.max.messages": 2_000_000,
        }
    )
    for number, (key, value, ms) in enumerate(records(events)):
        producer.produce(topic, value, key, timestamp=ms)
        if number % 5_000 == 0:
            producer.poll(0)
    if left := producer.flush(FLUSH_LIMIT_S):
        raise TimeoutError(f"{left} events of the input were not acknowledged within {FLUSH_LIMIT_S:.0f} s")
