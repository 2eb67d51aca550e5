"""The events that are sent: numbered, in seeded order, with counts and sums that have closed forms."""

import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Producer

TOPICS = ("clicks", "browses", "purchases")
FIRST_TS = 1_700_000_000_000
STEP_MS = 60  # event time between two events
BAD_EVERY = 97  # after so many events comes an invalid record
PURCHASES_IN_FOUR = 1  # of four events of a user


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the plan. A user's events are numbered from 0 in the order in which they are sent."""

    topic: str
    user: int
    number: int
    ts: int
    price: int | None  # of a purchase: the m purchases of a user cost 1 to m, in seeded order


class Plan:
    """All events of a run: each of `users` users makes `each` events, the users in seeded order."""

    def __init__(self, seed: int, users: int, each: int, partitions: int) -> None:
        """`each` must be a multiple of four."""
        self.users, self.each, self.partitions = users, each, partitions
        self.purchases = each // 4
        self._seed = seed

    def __len__(self) -> int:
        return self.users * self.each

    def events(self) -> Iterator[Event]:
        """Yield the events in the order of their times, the same for the same seed."""
        rng = random.Random(self._seed)
        number = [0] * self.users
        left = [self._of_user(rng) for _ in range(self.users)]
        for turn in range(self.each):
            for place, user in enumerate(rng.sample(range(self.users), self.users)):
                topic, price = left[user].pop()
                ts = FIRST_TS + STEP_MS * (turn * self.users + place)
                yield Event(topic, user, number[user], ts, price)
                number[user] += 1

    def _of_user(self, rng: random.Random) -> list[tuple[str, int | None]]:
        clicks = [("clicks", None)] * (2 * self.purchases)
        browses = [("browses", None)] * (self.each - 3 * self.purchases)
        mine = [*clicks, *browses, *(("purchases", price + 1) for price in range(self.purchases))]
        rng.shuffle(mine)
        return mine

    def partition(self, user: int) -> int:
        """Return the partition of all records of a user."""
        return user % self.partitions

    @property
    def last_ts(self) -> int:
        """Return the time of the last event."""
        return FIRST_TS + STEP_MS * (len(self) - 1)


def event_id(user: int, number: int) -> str | None:
    """Return the event's id. Only every other user's events have one: the others are known by their offsets alone."""
    return f"e{user}-{number}" if user % 2 else None


def body(event: Event) -> bytes:
    """Return the record's value. The checker recognises the event by the session, which the worker ignores."""
    value: dict[str, Any] = {
        "user_id": f"u{event.user}",
        "ts": event.ts,
        "session_id": f"s{event.user}-{event.number}",
        "item_id": f"i{event.number % 7}",
    }
    if (name := event_id(event.user, event.number)) is not None:
        value["event_id"] = name
    if event.price is not None:
        value["price"] = event.price
    return json.dumps(value).encode()


class Sender:
    """Sends the plan at a steady rate from its own thread; catches up when the broker is back."""

    def __init__(self, bootstrap: str, prefix: str, plan: Plan, rate: float) -> None:
        """`rate`: events per second."""
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": 600_000,
                "reconnect.backoff.max.ms": 500,
                "queue.buffering.max.messages": 1_000_000,
                "log_level": 0,
            }
        )
        self._prefix, self._plan, self._rate = prefix, plan, rate
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._stopped = threading.Event()
        self.acknowledged = 0  #: valid events that the broker has acknowledged
        self.most = len(plan)  #: limit of the events to send; it may be raised later
        self.errors: list[str] = []

    def start(self) -> None:
        """Start to send."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether there are events left to send."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop early."""
        self._stopped.set()

    def finish(self, limit_s: float) -> None:
        """Return once everything is acknowledged, the closing events too."""
        self._thread.join(limit_s)
        assert not self._thread.is_alive(), f"the events were not sent within {limit_s:.0f} s"
        assert not self.errors, self.errors[:3]
        for topic in TOPICS:
            for partition in range(self._plan.partitions):
                self._close(topic, partition)
        assert self._producer.flush(limit_s) == 0, f"events were not acknowledged within {limit_s:.0f} s"
        assert self.acknowledged == len(self._plan) and not self.errors, self.errors[:3]

    def _run(self) -> None:
        try:
            self._send()
            left = self._producer.flush(600)
            if left:
                self.errors.append(f"{left} events were not acknowledged within 600 s")
        except Exception as error:  # the main thread raises it
            self.errors.append(repr(error))

    def _send(self) -> None:
        start = time.monotonic()
        for i, event in enumerate(self._plan.events()):
            if self._stopped.is_set():
                return
            if i % 20 == 0:
                self._producer.poll(0)
                self._stopped.wait(max(0.0, start + i / self._rate - time.monotonic()))
            while i >= self.most and not self._stopped.wait(0.01):
                self._producer.poll(0)
                start = time.monotonic() - i / self._rate
            key, partition = f"u{event.user}".encode(), self._plan.partition(event.user)
            self._producer.produce(
                self._prefix + event.topic, body(event), key, partition, on_delivery=self._delivered
            )
            if i % BAD_EVERY == 0:
                self._producer.produce(self._prefix + event.topic, b'{"user_id": ', key, partition)

    def _delivered(self, error: Any, _: Any) -> None:
        if error:
            self.errors.append(str(error))
        else:
            self.acknowledged += 1

    def _close(self, topic: str, partition: int) -> None:
        """Return an event later than all others, so that the merge does not wait with the events before it."""
        value = {"user_id": closer(partition), "ts": self._plan.last_ts + STEP_MS, "item_id": "i0"}
        key = closer(partition).encode()
        self._producer.produce(self._prefix + topic, json.dumps(value).encode(), key, partition)


def closer(partition: int) -> str:
    """Return the user of a partition whose events only mark the end."""
    return f"end-{partition}"
