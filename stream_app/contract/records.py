"""Topics, event types, and a Kafka record as all parts of the system see it."""

from collections.abc import Iterable
from typing import NamedTuple

Headers = tuple[tuple[str, bytes], ...]

#: The input topics. Their order breaks ties when they are merged by event time.
INPUT_TOPICS = ("clicks", "browses", "purchases")
OUTPUT_TOPICS = ("predictions", "flags", "dead-letters")
#: Event types, at the index of their topic in `INPUT_TOPICS`.
EVENT_TYPES = ("click", "browse", "purchase")
CLICK, BROWSE, PURCHASE = range(3)


class Record(NamedTuple):
    """One record exactly as Kafka holds it."""

    topic: str
    partition: int
    offset: int
    timestamp: int  #: Unix ms: the broker's append time, or the producer's where the topic says so
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


def by_partition(records: Iterable[Record]) -> dict[tuple[str, int], list[Record]]:
    """The records of each topic and partition, in their order."""
    found: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        found.setdefault((record.topic, record.partition), []).append(record)
    return found
