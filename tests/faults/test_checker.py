"""The checker finds each kind of problem, and the proxy recognises requests."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from aiokafka.protocol.api import RequestHeader_v1
from aiokafka.protocol.commit import OffsetCommitRequest_v2
from aiokafka.protocol.transaction import EndTxnRequest_v0

from stream_app.state.row_codec import pack
from stream_app.state.row_layout import LAYOUT, ROW
from tests.faults.changelog import Layout, State, user_of
from tests.faults.checker import (
    check_dead_letters,
    check_flags,
    check_positions,
    check_predictions,
    check_state,
    event_at,
)
from tests.faults.events import FIRST_TS, STEP_MS, TOPICS, Plan, body, event_id
from tests.faults.steps import END_TXN, OFFSET_COMMIT, PRODUCE, Frame, Progress, Step, read_request
from tests.faults.truth import Inputs, read_inputs, true_users

PLAN = Plan(seed=3, users=4, each=8, partitions=2)


@dataclass(frozen=True)
class Record:
    """A record in librdkafka's form."""

    of: str
    at: tuple[int, int]  # partition, offset
    k: bytes
    v: bytes
    h: tuple[tuple[str, bytes], ...] = ()

    def topic(self) -> str:
        return self.of

    def partition(self) -> int:
        return self.at[0]

    def offset(self) -> int:
        return self.at[1]

    def key(self) -> bytes:
        return self.k

    def value(self) -> bytes:
        return self.v

    def headers(self) -> list[tuple[str, bytes]]:
        return list(self.h)


def sent() -> list[Record]:
    """Return the input topics after the plan was sent, with an invalid and a closing record per partition."""
    ends: dict[tuple[str, int], int] = {}
    records = []

    def add(topic: str, partition: int, key: str, value: bytes) -> None:
        offset = ends.setdefault((topic, partition), 0)
        ends[topic, partition] += 1
        records.append(Record("p-" + topic, (partition, offset), key.encode(), value))

    for event in PLAN.events():
        add(event.topic, PLAN.partition(event.user), f"u{event.user}", body(event))
    for topic in TOPICS:
        for partition in range(PLAN.partitions):
            add(topic, partition, f"u{partition}", b'{"user_id": ')
            add(topic, partition, f"end-{partition}", b'{"user_id": "end"}')
    return records


@pytest.fixture
def inputs() -> Inputs:
    """Those topics as `Inputs`."""
    return read_inputs(sent(), "p-")


@pytest.fixture
def predictions(inputs: Inputs) -> list[Record]:
    """Return one prediction per event, in the order of the events."""
    place = {
        event: (topic, partition, offset)
        for (topic, partition), records in inputs.records.items()
        for offset, event in enumerate(records)
        if event is not None
    }
    made = []
    for i, event in enumerate(PLAN.events()):
        topic, partition, offset = place[event.user, event.number]
        name = f"u{event.user}"
        said = {"id": f"p-{topic}-{partition}-{offset}", "user_id": name}
        if (known := event_id(event.user, event.number)) is not None:
            said["event_id"] = known
        made.append(Record("p-predictions", (partition, i), name.encode(), json.dumps(said).encode()))
    return made


def problems(predictions: list[Any], inputs: Inputs, once: bool = False) -> str:
    """Return the checker's problems of the predictions."""
    return "\n".join(check_predictions(predictions, "p-", PLAN, inputs, once).problems)


def test_predictions_as_they_must_be(predictions: list[Record], inputs: Inputs) -> None:
    """One prediction per event is correct, and so is a repeat with the same content."""
    assert problems(predictions, inputs, once=True) == ""
    assert problems([*predictions, predictions[3]], inputs) == ""


def test_a_lost_prediction(predictions: list[Record], inputs: Inputs) -> None:
    """A missing prediction is found, in the middle and at the end."""
    assert "count, sum, least and most" in problems(predictions[:-1], inputs)
    assert "was answered after" in problems(predictions[1:], inputs)


def test_a_repeated_prediction(predictions: list[Record], inputs: Inputs) -> None:
    """A repeat is found where none is allowed, and one with other content always."""
    assert "was repeated" in problems([*predictions, predictions[3]], inputs, once=True)
    other = replace(predictions[3], v=predictions[3].v.replace(b"}", b', "model": "m"}'))
    assert "with other content" in problems([*predictions, other], inputs)


def test_a_prediction_out_of_its_place(predictions: list[Record], inputs: Inputs) -> None:
    """Two predictions of a user in the wrong order are found, and so are a wrong partition, key or id."""
    first, second = [i for i, p in enumerate(predictions) if p.k == b"u1"][:2]
    swapped = list(predictions)
    swapped[first], swapped[second] = swapped[second], swapped[first]
    assert "u1: event 1 was answered after 0 others" in problems(swapped, inputs)
    moved = [replace(predictions[0], at=(1 - predictions[0].at[0], 0)), *predictions[1:]]
    assert "is in partition" in problems(moved, inputs)
    assert "has the key" in problems([replace(predictions[0], k=b"u9"), *predictions[1:]], inputs)
    invented = replace(predictions[0], v=predictions[0].v.replace(b"-0-", b"-7-").replace(b"-1-", b"-7-"))
    assert "answers no event" in problems([*predictions, invented], inputs)


def test_flags_and_dead_letters(predictions: list[Record], inputs: Inputs) -> None:
    """A flag without an event is found, and a missing, a superfluous and a repeated dead letter."""
    assert not check_flags(predictions[:3], "p-", inputs, once=True).problems
    assert check_flags([predictions[0]] * 2, "p-", inputs, once=True).problems
    assert check_flags([replace(predictions[0], k=b"u9")], "p-", inputs, once=False).problems
    letters = [_letter(place) for place in sorted(inputs.bad)]
    assert len(letters) == len(TOPICS) * PLAN.partitions
    assert not check_dead_letters(letters, "p-", inputs, once=True).problems
    assert "no dead letter of" in check_dead_letters(letters[1:], "p-", inputs, once=False).problems[0]
    assert check_dead_letters([*letters, letters[0]], "p-", inputs, once=True).problems
    assert check_dead_letters([*letters, _letter(("clicks", 0, 0))], "p-", inputs, once=False).problems


def _letter(place: tuple[str, int, int]) -> Record:
    names = ("topic", "partition", "offset")
    headers = tuple(
        (f"__streams.errors.{n}", f"{'p-' if n == 'topic' else ''}{v}".encode())
        for n, v in zip(names, place, strict=True)
    )
    return Record("p-dead-letters", (place[1], 0), b"k", b'{"user_id": ', headers)


def test_state(inputs: Inputs) -> None:
    """An event that was lost or applied twice is found, and so are missing and unknown users."""
    truth = true_users(PLAN, inputs)
    assert truth["u2"].spent == 3.0 and truth["u2"].events == 8, "two purchases of 1 and 2 among eight events"
    assert not check_state(State(dict(truth), {}), PLAN, inputs)
    u = truth["u2"]
    for wrong in (replace(u, events=9), replace(u, spent=5.0), replace(u, recent=u.recent[1:]), None):
        users = {**truth, "u2": wrong} if wrong else {n: user for n, user in truth.items() if n != "u2"}
        assert len(check_state(State(users, {}), PLAN, inputs)) == 1
    assert check_state(State({**truth, "u77": u}, {}), PLAN, inputs) == ["state of u77, who has no events"]


def test_positions(inputs: Inputs) -> None:
    """An offset before the last event of the plan is found, and one after the end."""
    right = {where: len(records) for where, records in inputs.records.items()}
    assert not check_positions(right, inputs, "offset")
    assert not check_positions(inputs.end, inputs, "offset"), "the closing events may be open"
    for by in (-2, 1):
        assert check_positions({**right, ("clicks", 0): right["clicks", 0] + by}, inputs, "offset")
    assert event_at(inputs, ("clicks", 0, 10**6)) is None


def test_the_changelog_is_read_as_it_is_written() -> None:
    """The suite's own reader reads from a record what the product wrote."""
    rows = np.zeros(1, ROW)
    row = rows[0]
    row["clock"], row["events"], row["late"], row["purchases"], row["spent"] = FIRST_TS, 2, 1, 1, 7.0
    row["source"], row["last_ts"] = (5, -1, 9), (FIRST_TS, 0, FIRST_TS - STEP_MS)
    row["count"][0] = (1, 0, 2)  # in the window of one minute
    row["count"][-1] = (3, 0, 0)  # in the window of seven days
    row["amount"][-1] = 7.0
    row["recent"]["price"] = np.nan
    row["recent"][0]["ts"], row["recent"][0]["kind"], row["recent"][0]["price"] = FIRST_TS, 2, 7.0
    row["recent"][1]["ts"], row["recent"][1]["kind"] = FIRST_TS + 1, 1
    values, ends = pack(rows, np.zeros(1, np.int64), np.full((1, 12), 255, np.uint8), LAYOUT.number)
    found = user_of(values[: ends[-1]].tobytes(), Layout(LAYOUT.description.encode()))
    assert (found.clock, found.events, found.late, found.purchases, found.spent) == (FIRST_TS, 2, 1, 1, 7.0)
    assert (found.source, found.last_ts) == ((5, -1, 9), (FIRST_TS, 0, FIRST_TS - STEP_MS))
    assert found.windows[0] == (1, 0, 2, 0) and found.windows[4] == (3, 0, 0, 7)
    assert found.recent == ((1, FIRST_TS + 1, None), (2, FIRST_TS, 7.0))


def test_the_plan_has_closed_forms() -> None:
    """The same seed gives the same events; a user's purchases cost 1 to m; times rise."""
    events = list(PLAN.events())
    assert events == list(PLAN.events()) != list(Plan(4, 4, 8, 2).events())
    assert len(events) == len(PLAN) == 32
    assert [e.ts for e in events] == sorted({e.ts for e in events})
    for user in range(PLAN.users):
        mine = [e for e in events if e.user == user]
        assert [e.number for e in mine] == list(range(8))
        assert sorted(e.price for e in mine if e.price is not None) == [1, 2]


def test_requests() -> None:
    """A request is recognised by its bytes: a commit, the end of a transaction, an abort."""
    offsets = OffsetCommitRequest_v2("g", 1, "m", 0, [("t", [(0, 5, "")])])
    assert read_request(_bytes(offsets), b"p-predictions", b"p-log").key == OFFSET_COMMIT
    for commits in (True, False):
        end = read_request(_bytes(EndTxnRequest_v0("id", 1, 0, commits)), b"p-predictions", b"p-log")
        assert (end.key, end.commits) == (END_TXN, commits)
    produced = read_request(bytes(8) + b"...p-predictions...", b"p-predictions", b"p-log")
    assert (produced.key, produced.outputs, produced.state) == (PRODUCE, True, False)


def _bytes(request: Any) -> bytes:
    return RequestHeader_v1(request, correlation_id=1, client_id="c").encode() + request.encode()


def commit() -> Iterator[tuple[Frame, set[Step]]]:
    """Return the frames of a commit under at_least_once, and the steps that each reaches."""
    frame = Frame(PRODUCE, True, False, False, True, False)
    yield frame, set()
    yield replace(frame, answer=True), set()
    state = Frame(PRODUCE, False, True, False, True, False)
    yield state, {Step.OUTPUTS}
    yield replace(state, answer=True), {Step.WITHIN}
    yield replace(state, whole=True), {Step.OUTPUTS}
    yield replace(state, whole=True, answer=True), set()
    offsets = Frame(OFFSET_COMMIT, False, False, False, True, False)
    yield offsets, {Step.CHANGELOG, Step.OFFSETS}
    yield replace(offsets, answer=True), {Step.UNANSWERED, Step.ANSWERED}


def test_steps_of_a_commit() -> None:
    """Each frame of a commit reaches its steps; none does if no output was acknowledged since the last commit."""
    progress = Progress("at_least_once")
    for _ in range(2):
        assert [progress.take(frame) for frame, _ in commit()] == [steps for _, steps in commit()]
    assert progress.commits == 2 and not progress.sent
    assert [progress.take(frame) for frame, _ in list(commit())[2:]] == [set()] * 6
