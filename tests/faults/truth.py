"""What the topics must contain at the end, computed from the plan alone."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.changelog import BUCKETS, LAST_EVENTS, User
from tests.faults.events import TOPICS, Event, Plan, closer

WINDOWS_MS = (60_000, 600_000, 3_600_000, 86_400_000, 604_800_000)


@dataclass
class Inputs:
    """The input topics as a plain consumer reads them."""

    #: Per topic and partition, by offset: user and number of the event, None if the record is not an event.
    records: dict[tuple[str, int], list[tuple[int, int] | None]] = field(default_factory=dict)
    #: The offset after the last record that is not a closing event.
    end: dict[tuple[str, int], int] = field(default_factory=dict)
    bad: set[tuple[str, int, int]] = field(default_factory=set)


def read_inputs(messages: Iterable[Any], prefix: str) -> Inputs:
    """Return the place of each event of the plan."""
    found = Inputs()
    for message in messages:
        topic, partition, offset = message.topic().removeprefix(prefix), message.partition(), message.offset()
        records = found.records.setdefault((topic, partition), [])
        assert offset == len(records), f"an offset is missing in {topic}-{partition} at {len(records)}"
        value = message.value()
        if message.key() == closer(partition).encode():
            records.append(None)
            continue
        found.end[topic, partition] = offset + 1
        if value == b'{"user_id": ':
            found.bad.add((topic, partition, offset))
            records.append(None)
            continue
        name = value.split(b'"session_id": "s', 1)[1].split(b'"', 1)[0]
        user, number = name.split(b"-")
        records.append((int(user), int(number)))
    return found


def closed_forms(plan: Plan, numbers: dict[int, list[int]], what: str) -> list[str]:
    """Return the problems of the numbers of each user's events: they must be 0 to n - 1, each once, in any order."""
    n = plan.each
    right = (n, n * (n - 1) // 2, 0, n - 1)
    problems = []
    for user in range(plan.users):
        mine = numbers.get(user, [])
        found = (len(mine), sum(mine), min(mine, default=-1), max(mine, default=-1))
        if found != right:
            problems.append(f"{what} of u{user}: count, sum, least and most are {found}, must be {right}")
    return problems


def true_users(plan: Plan, inputs: Inputs) -> dict[str, User]:
    """Return the state of each user after all events of the plan, each applied once and in order."""
    source: dict[tuple[int, str], int] = {}
    for (topic, _), records in inputs.records.items():
        for offset, place in enumerate(records):
            if place is not None:
                source[place[0], topic] = offset
    events: dict[int, list[Event]] = defaultdict(list)
    for event in plan.events():
        events[event.user].append(event)
    return {f"u{user}": _user(mine, source) for user, mine in events.items()}


def _user(events: Sequence[Event], source: dict[tuple[int, str], int]) -> User:
    clock, user = events[-1].ts, events[-1].user
    m = sum(event.price is not None for event in events)
    return User(
        clock=clock,
        source=tuple(source.get((user, topic), -1) for topic in TOPICS),
        events=len(events),
        late=0,
        last_ts=tuple(max(e.ts for e in events if e.topic == topic) for topic in TOPICS),
        purchases=m,
        spent=m * (m + 1) / 2,
        windows=tuple(_window(events, clock, w) for w in range(len(BUCKETS))),
        recent=tuple((TOPICS.index(e.topic), e.ts, e.price) for e in reversed(events[-LAST_EVENTS:])),
    )


def _window(events: Sequence[Event], clock: int, w: int) -> tuple[int, ...]:
    """Return the counts per type and the money in the last buckets, up to and including that of the user's clock."""
    width = WINDOWS_MS[w] // BUCKETS[w]
    inside = [e for e in events if e.ts // width > clock // width - BUCKETS[w]]
    return (*(sum(e.topic == topic for e in inside) for topic in TOPICS), sum(e.price or 0 for e in inside))
