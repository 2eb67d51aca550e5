"""What the logs must contain at the end, whatever happened. These checks read only the logs."""

import json
from collections import defaultdict
from typing import Any

from aiokafka import TopicPartition

from stream_app.contract.records import INPUT_TOPICS
from tests.faults.changelog import BUCKETS, LAST_EVENTS, User, read_state
from tests.faults.checker import differences
from tests.faults.truth import WINDOWS_MS
from tests.simulation.records import CLOSER, Sent

_FENCE = b"\xff"


class Message:
    """A record in the form that `tests.faults.changelog` reads."""

    def __init__(self, record: Any) -> None:
        self._record = record

    def partition(self) -> int:
        return int(self._record.partition)

    def key(self) -> Any:
        return self._record.key

    def value(self) -> Any:
        return self._record.value


def judge(world: Any) -> list[str]:
    """Return all problems."""
    sent = [s for s in world.source.sent if not s.last]
    once = world.guarantee == "exactly_once"
    return [
        *_transactions(world),
        *_predictions(world, sent, once),
        *_dead_letters(world, sent, once),
        *_flags(world, sent, once),
        *_state(world, sent, once),
        *world.early,
    ]


def _read(world: Any, topic: str) -> list[Any]:
    """Return what a reader of committed records sees."""
    found = []
    for (name, _), log in sorted(world.broker.logs.items()):
        if name == topic:
            found += log.read(0)[0]
    return found


def _transactions(world: Any) -> list[str]:
    broker = world.broker
    problems = [f"a transaction of {name} is still open" for name in broker.transactions.undecided]
    if broker.group.pending:
        problems.append("offsets of a transaction are undecided")
    problems += [
        f"a transaction hangs in {tp.topic}-{tp.partition} at {log.stable} of {log.end}"
        for tp, log in broker.logs.items()
        if log.stable != log.end
    ]
    return problems


class _Answers:
    """The outputs of one topic by the id of what they answer."""

    def __init__(self, name: str, once: bool) -> None:
        self._name, self._once = name, once
        self.found: dict[str, tuple[Any, Any]] = {}
        self.problems: list[str] = []

    def take(self, id_: str, key: Any, value: Any) -> bool:
        first = self.found.setdefault(id_, (key, value))
        if first is not self.found[id_] or first != (key, value):
            self.problems.append(
                f"{self._name} {id_} was repeated with other content: {first} {(key, value)}"
            )
        return True

    def count(self, ids: list[str]) -> None:
        """Add a problem per id that occurs more than once, if that is not allowed."""
        if self._once:
            twice = sorted({i for i in ids if ids.count(i) > 1})
            self.problems += [f"{self._name} {i} was written {ids.count(i)} times" for i in twice]


def _predictions(world: Any, sent: list[Sent], once: bool) -> list[str]:
    answers, ids = _Answers("prediction", once), []
    order: dict[str, list[str]] = defaultdict(list)
    for record in _read(world, "predictions"):
        said = json.loads(record.value)
        if said["user_id"].startswith(CLOSER):
            continue
        if said["id"] not in answers.found:
            order[said["user_id"]].append(said["id"])
        answers.take(said["id"], record.key, record.value)
        ids.append(said["id"])
    answers.count(ids)
    right: dict[str, list[str]] = defaultdict(list)
    for each in sent:
        if each.good:
            right[each.user].append(each.id)
    wanted = {id_ for mine in right.values() for id_ in mine}
    problems = answers.problems
    problems += [f"no prediction {id_}" for id_ in sorted(wanted - answers.found.keys())]
    problems += [f"prediction {id_} answers no event" for id_ in sorted(answers.found.keys() - wanted)]
    problems += [
        f"the answers to {u} have the order {order[u]}"
        for u in right
        if not problems and order[u] != right[u]
    ]
    return problems


def _dead_letters(world: Any, sent: list[Sent], once: bool) -> list[str]:
    answers, ids = _Answers("dead letter", once), []
    for record in _read(world, "dead-letters"):
        headers = {name.rpartition(".")[2]: value.decode() for name, value in record.headers}
        id_ = f"{headers['topic']}-{headers['partition']}-{headers['offset']}"
        answers.take(id_, record.key, record.value)
        ids.append(id_)
    answers.count(ids)
    wanted = {each.id for each in sent if not each.good}
    problems = answers.problems
    problems += [f"no dead letter {id_}" for id_ in sorted(wanted - answers.found.keys())]
    problems += [
        f"dead letter {id_} belongs to no invalid record" for id_ in sorted(answers.found.keys() - wanted)
    ]
    return problems


def _flags(world: Any, sent: list[Sent], once: bool) -> list[str]:
    answers, ids = _Answers("flag", once), []
    for record in _read(world, "flags"):
        id_ = json.loads(record.value)["id"]
        answers.take(id_, record.key, record.value)
        ids.append(id_)
    answers.count(ids)
    return answers.problems


def _state(world: Any, sent: list[Sent], once: bool) -> list[str]:
    records = [r for r in _read(world, world.changelog) if r.key != _FENCE]
    state = read_state(map(Message, records))
    users = {name: user for name, user in state.users.items() if not name.startswith(CLOSER)}
    problems = differences(users, true_users(sent))
    # With at_least_once, a late commit can set offsets back. Events that are then read again are skipped.
    committed = world.broker.group.offsets if once else world.broker.group.reached
    ends: dict[tuple[str, int], int] = {}
    for each in sent:
        ends[each.topic, each.partition] = each.offset + 1
    for (topic, partition), end in ends.items():
        tp = TopicPartition(topic, partition)
        last = world.broker.logs[tp].end
        stands = state.positions.get(partition, [0, 0, 0])[INPUT_TOPICS.index(topic)]
        for what, at in (
            ("position in the state", stands),
            ("committed offset", committed.get(tp, 0)),
        ):
            if not end <= at <= last:
                problems.append(f"{what} of {topic}-{partition} is {at}, must be {end} to {last}")
    return problems


def offsets_ahead(world: Any) -> list[str]:
    """Return the committed offsets beyond the state on the changelog: the events between would be lost."""
    problems = []
    stands = read_state(Message(r) for r in _read(world, world.changelog) if r.key == b"").positions
    for tp, offset in world.broker.group.offsets.items():
        at = stands.get(tp.partition, [0, 0, 0])[INPUT_TOPICS.index(tp.topic)]
        if offset > at:
            problems.append(f"{tp.topic}-{tp.partition} is committed up to {offset}, its state up to {at}")
    return problems


def true_users(sent: list[Sent]) -> dict[str, User]:
    """Return the state, computed by a plain loop over the records in the order of their times."""
    events: dict[str, list[Sent]] = defaultdict(list)
    for each in sent:
        if each.good:
            events[each.user].append(each)
    return {name: _user(mine) for name, mine in events.items()}


def _user(events: list[Sent]) -> User:
    clock = events[-1].ts

    def last(topic: str, what: str, none: int) -> int:
        return max((getattr(e, what) for e in events if e.topic == topic), default=none)

    spent = [e.price for e in events if e.price is not None]
    return User(
        clock=clock,
        source=tuple(last(topic, "offset", -1) for topic in INPUT_TOPICS),
        events=len(events),
        late=0,
        last_ts=tuple(last(topic, "ts", 0) for topic in INPUT_TOPICS),
        purchases=len(spent),
        spent=float(sum(spent)),
        windows=tuple(_window(events, clock, w) for w in range(len(BUCKETS))),
        recent=tuple((INPUT_TOPICS.index(e.topic), e.ts, e.price) for e in reversed(events[-LAST_EVENTS:])),
    )


def _window(events: list[Sent], clock: int, w: int) -> tuple[int, ...]:
    width = WINDOWS_MS[w] // BUCKETS[w]
    inside = [e for e in events if e.ts // width > clock // width - BUCKETS[w]]
    return (
        *(sum(e.topic == topic for e in inside) for topic in INPUT_TOPICS),
        sum(e.price or 0 for e in inside),
    )
