"""The events of a simulation and the outputs they must cause, and the batches that are built without a producer."""

import json
from dataclasses import dataclass
from typing import Any

from aiokafka.producer.message_accumulator import BatchBuilder

from stream_app.contract.records import INPUT_TOPICS

FIRST_TS = 1_700_000_000_000
STEP_MS = 1000
CLOSER = "end"


def builder() -> Any:
    """Return an empty record batch."""
    return BatchBuilder(512 * 1024, 0, is_transactional=False)


@dataclass(frozen=True, slots=True)
class Sent:
    """A record of an input."""

    topic: str
    partition: int
    offset: int
    user: str
    ts: int
    good: bool
    price: int | None  #: of a purchase
    last: bool = False  # a closing event, which only marks the end

    @property
    def id(self) -> str:
        """The id in the outputs."""
        return f"{self.topic}-{self.partition}-{self.offset}"


class Source:
    """Makes events in the order of their times, so that only one result of the merge is possible."""

    def __init__(self, logs: Any, partitions: int, users: int) -> None:
        self._logs, self._partitions, self._users = logs, partitions, users
        self.sent: list[Sent] = []
        self._ts = FIRST_TS

    def send(self, count: int, choose: int = 0) -> None:
        """Append some events."""
        for i in range(count):
            number = len(self.sent)
            user = (number * 7 + choose + i) % self._users
            topic = INPUT_TOPICS[(number + choose) % 3]
            self._put(topic, user % self._partitions, f"u{user}", good=number % 11 != 5)

    def close(self) -> None:
        """Append events later than all others, so that none of these has to wait for a topic."""
        for partition in range(self._partitions):
            for topic in INPUT_TOPICS:
                self._put(topic, partition, f"{CLOSER}{partition}", good=True, last=True)

    def _put(self, topic: str, partition: int, user: str, *, good: bool, last: bool = False) -> None:
        log = self._logs[topic, partition]
        self._ts += STEP_MS
        value = {"user_id": user, "ts": self._ts, "item_id": f"i{len(self.sent) % 5}"}
        price = 1 + len(self.sent) % 9 if topic == "purchases" else None
        if price is not None:
            value["price"] = price
        self.sent.append(Sent(topic, partition, log.end, user, self._ts, good, price, last))
        log.put([(user.encode(), json.dumps(value).encode() if good else b"{broken", ())])
