"""Compares what is in Kafka with the truth: inputs, outputs, state, offsets, transactions. No code of the product."""

import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import IsolationLevel

from tests.faults.changelog import State, read_state
from tests.faults.events import TOPICS, Plan, event_id
from tests.faults.topics import committed, ends, read_topic
from tests.faults.truth import Inputs, closed_forms, read_inputs, true_users

OUTPUTS = ("predictions", "flags", "dead-letters")
SHOWN = 20  # problems of one kind in a report
Place = tuple[str, int, int]  # topic, partition, offset of a source record


@dataclass
class Findings:
    """What the checker found."""

    problems: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)  #: counts by name

    def add(self, problems: list[str]) -> None:
        """Add problems of one kind: the text of the first ones, and the number of the others."""
        self.problems += problems[:SHOWN]
        if len(problems) > SHOWN:
            self.problems.append(f"... and {len(problems) - SHOWN} more of this kind")


class Outputs:
    """One output topic: the first record of each id, and the problems of the others."""

    def __init__(self, name: str, once: bool) -> None:
        """`once`: each id may occur only once."""
        self.name, self._once = name, once
        self._first: dict[Place, int] = {}  # checksum of key and value
        self.repeats = 0
        self.problems: list[str] = []

    def __contains__(self, place: Place) -> bool:
        return place in self._first

    def __len__(self) -> int:
        return len(self._first)

    def take(self, place: Place, partition: int, key: bytes, value: bytes) -> bool:
        """Add a record; return whether it is the first with its id."""
        content = zlib.crc32(value, zlib.crc32(key))
        if partition != place[1]:
            self.problems.append(f"{self.name} {place} is in partition {partition}")
        if place not in self._first:
            self._first[place] = content
            return True
        self.repeats += 1
        if self._once:
            self.problems.append(f"{self.name} {place} was repeated")
        if self._first[place] != content:
            self.problems.append(f"{self.name} {place} was repeated with other content")
        return False


def check_predictions(
    messages: Iterable[Any], prefix: str, plan: Plan, inputs: Inputs, once: bool
) -> Outputs:
    """Check that each event of the plan has one prediction, and that a user's first ones are in the events' order."""
    found = Outputs("prediction", once)
    numbers: dict[int, list[int]] = defaultdict(list)
    for message in messages:
        said = json.loads(message.value())
        place = place_of(said["id"], prefix)
        if message.key().startswith(b"end-"):
            continue
        event = event_at(inputs, place)
        if event is None or said.get("event_id") != event_id(*event):
            found.problems.append(
                f"prediction {said['id']} of {said['user_id']} answers no event that was sent"
            )
            continue
        user, number = event
        if not said["user_id"] == message.key().decode() == f"u{user}":
            found.problems.append(f"prediction {said['id']} has the key {message.key()!r}")
        if found.take(place, message.partition(), message.key(), message.value()):
            if number != len(numbers[user]):
                found.problems.append(
                    f"u{user}: event {number} was answered after {len(numbers[user])} others"
                )
            numbers[user].append(number)
    found.problems += closed_forms(plan, numbers, "predictions")
    return found


def check_flags(messages: Iterable[Any], prefix: str, inputs: Inputs, once: bool) -> Outputs:
    """Check that each flag belongs to an event that was sent, and that repeats have the same content."""
    found = Outputs("flag", once)
    for message in messages:
        place = place_of(json.loads(message.value())["id"], prefix)
        event = event_at(inputs, place)
        if event is None or message.key() != f"u{event[0]}".encode():
            found.problems.append(
                f"flag {place} with the key {message.key()!r} belongs to no event that was sent"
            )
        else:
            found.take(place, message.partition(), message.key(), message.value())
    return found


def check_dead_letters(messages: Iterable[Any], prefix: str, inputs: Inputs, once: bool) -> Outputs:
    """Check that each invalid record has one dead letter, and no other record has one."""
    found = Outputs("dead letter", once)
    for message in messages:
        headers = {name.rpartition(".")[2]: value.decode() for name, value in message.headers()}
        place = (headers["topic"].removeprefix(prefix), int(headers["partition"]), int(headers["offset"]))
        if place not in inputs.bad:
            found.problems.append(f"dead letter of {place}, which is not an invalid record")
        found.take(place, message.partition(), message.key(), message.value())
    found.problems += [f"no dead letter of {place}" for place in sorted(inputs.bad) if place not in found]
    return found


def check_state(state: State, plan: Plan, inputs: Inputs) -> list[str]:
    """Check that every user's row is what follows from the plan."""
    users = {name: user for name, user in state.users.items() if not name.startswith("end-")}
    return differences(users, true_users(plan, inputs))


def differences(users: Mapping[str, Any], truth: Mapping[str, Any]) -> list[str]:
    """Return the problems of the users' rows, each of which must equal that in `truth`."""
    problems = [f"state of {name}, who has no events" for name in sorted(users.keys() - truth.keys())]
    for name, right in truth.items():
        if name not in users:
            problems.append(f"no state of {name}")
        elif users[name] != right:
            wrong = [f for f in vars(right) if getattr(users[name], f) != getattr(right, f)]
            shown = [f"{f} {getattr(users[name], f)} must be {getattr(right, f)}" for f in wrong]
            problems.append(f"state of {name}: " + "; ".join(shown)[:400])
    return problems


def check_positions(found: Mapping[tuple[str, int], int], inputs: Inputs, what: str) -> list[str]:
    """Check that offsets are after the last event of the plan, and not after the end; closing events may be open."""
    problems = []
    for (topic, partition), end in inputs.end.items():
        at, last = found.get((topic, partition), -1), len(inputs.records[topic, partition])
        if not end <= at <= last:
            problems.append(f"{what} of {topic}-{partition} is {at}, must be {end} to {last}")
    return problems


def check_ends(bootstrap: str, topics: list[str]) -> list[str]:
    """Check that no transaction hangs: committed records end where the log ends."""
    shown = ends(bootstrap, topics, IsolationLevel.READ_COMMITTED)
    there = ends(bootstrap, topics, IsolationLevel.READ_UNCOMMITTED)
    return [
        f"{topic}-{p}: committed records end at {at}, the log at {there[topic, p]}: a transaction hangs"
        for (topic, p), at in shown.items()
        if at != there[topic, p]
    ]


def check(bootstrap: str, prefix: str, group: str, plan: Plan, guarantee: str) -> Findings:
    """Run all checks; read every topic from its beginning."""
    once = guarantee == "exactly_once"
    findings = Findings()

    def read(name: str) -> Iterable[Any]:
        return read_topic(bootstrap, prefix + name)

    inputs = read_inputs((message for topic in TOPICS for message in read(topic)), prefix)
    sent: dict[int, list[int]] = defaultdict(list)
    for place in (each for records in inputs.records.values() for each in records if each is not None):
        sent[place[0]].append(place[1])
    findings.add(closed_forms(plan, sent, "inputs"))
    kinds = {
        "predictions": check_predictions(read(OUTPUTS[0]), prefix, plan, inputs, once),
        "flags": check_flags(read(OUTPUTS[1]), prefix, inputs, once),
        "dead letters": check_dead_letters(read(OUTPUTS[2]), prefix, inputs, once),
    }
    for name, outputs in kinds.items():
        findings.add(outputs.problems)
        findings.numbers |= {name: len(outputs), f"{name} repeated": outputs.repeats}
    changelog = f"{group}-users-changelog"
    state = read_state(read(changelog))
    findings.add(check_state(state, plan, inputs))
    stands = {(t, p): at for p, where in state.positions.items() for t, at in zip(TOPICS, where, strict=True)}
    findings.add(check_positions(stands, inputs, "position in the state"))
    offsets = committed(bootstrap, group, [prefix + t for t in TOPICS], plan.partitions)
    done = {(t.removeprefix(prefix), p): at for t, by in offsets.items() for p, at in enumerate(by)}
    findings.add(check_positions(done, inputs, "committed offset"))
    findings.add(check_ends(bootstrap, [prefix + t for t in (*TOPICS, *OUTPUTS, changelog)]))
    return findings


def place_of(output_id: str, prefix: str) -> Place:
    """Return the source record that an output's id names."""
    topic, partition, offset = output_id.removeprefix(prefix).rsplit("-", 2)
    return topic, int(partition), int(offset)


def event_at(inputs: Inputs, place: Place) -> tuple[int, int] | None:
    """Return user and number of the event at a place, None if there is no event."""
    records = inputs.records.get(place[:2], [])
    return records[place[2]] if 0 <= place[2] < len(records) else None
