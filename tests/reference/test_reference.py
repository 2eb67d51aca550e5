"""Compares this version with the outputs, the model and the state of commit 3c99cd3."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from model.serving.runtime import Runtime
from stream_app.cli import main
from stream_app.contract.outputs import Message
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import INPUT_TOPICS
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.recordings.recording import RecordingReader
from stream_app.settings import Settings
from stream_app.state.row_layout import ROW
from tests.reference import changes, data
from tests.reference.data import MODEL, TOPICS, Answers, Changelog

CHANGELOGS = [(g, m) for g in ("at_least_once", "exactly_once") for m in ("model", "none")]

Run = Callable[[str, str], dict[str, Answers]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return the outputs of `foreclick run` by topic, each made once."""
    made: dict[tuple[str, str], dict[str, Answers]] = {}

    def outputs(recording: str, model: str) -> dict[str, Answers]:
        if (recording, model) not in made:
            out = tmp_path_factory.mktemp("run")
            more = ["--model", str(MODEL)] if model == "model" else []
            with pytest.raises(SystemExit) as ended:
                main(["run", str(data.recording(recording)), "--out", str(out), "--device", "cpu", *more])
            assert not ended.value.code
            made[recording, model] = {
                topic: data.by_place(topic, (out / f"{topic}.jsonl").read_bytes().splitlines())
                for topic in TOPICS
            }
        return made[recording, model]

    return outputs


@pytest.mark.parametrize("model", ["model", "none"])
@pytest.mark.parametrize("recording", ["plain", "edges"])
def test_run_gives_the_same_answers(recording: str, model: str, run: Run) -> None:
    """Predictions, flags and dead letters are the same, except for the list in `changes.py`."""
    for topic, found in run(recording, model).items():
        wanted = data.answers(recording, model, topic)
        assert not data.differences(recording, topic, wanted, found)[:5]


def test_changes_that_are_named_are_there(run: Run) -> None:
    """Every entry of `changes.py` really differs."""
    different = {recording: _different(recording, run) for recording in ("plain", "edges")}
    stale = [case for case in changes.EDGES if case not in {_case(place) for _, place in different["edges"]}]
    assert not stale and not changes.PLAIN.keys() - different["plain"]
    assert changes.EDGES.keys() <= set(data.CASES)


def _case(place: str) -> str:
    return data.CASES[int(place.rsplit("-", 2)[1])]


def _different(recording: str, run: Run) -> set[tuple[str, str]]:
    found = set()
    for model in ("model", "none"):
        for topic, answers in run(recording, model).items():
            wanted = data.answers(recording, model, topic)
            places = wanted.keys() | answers.keys()
            found |= {(topic, p) for p in places if not data.same(wanted.get(p), answers.get(p))}
    return found


# --- the state


class Continued:
    """Return a processor that reads the changelog and continues from the committed offsets, or from the beginning."""

    def __init__(self, model: str, stored: Changelog | None = None) -> None:
        runtime = Runtime.load(MODEL, "cpu") if model == "model" else None
        self.processor = ShopProcessor(Settings(max_idle_ms=60_000, device="cpu"), runtime, partitions=2)
        self.found: dict[str, list[tuple[str, Message]]] = {topic: [] for topic in TOPICS}
        for partition in range(2):
            positions = stored.positions(partition) if stored else [0] * len(INPUT_TOPICS)
            self.processor.assign(partition, positions)
            if stored:
                self.processor.restore(partition, RecordColumns.of(stored.of(partition)))
            self.processor.restored(partition)

    def go_on(self) -> "Continued":
        """Process the recording from each partition's position to its end."""
        processor = self.processor
        records = list(RecordingReader(data.recording("plain")))
        for partition in range(2):
            start = processor.merge(partition).positions
            for topic_index, topic in enumerate(INPUT_TOPICS):
                mine = [r for r in records if (r.topic, r.partition) == (topic, partition)]
                rest = [r for r in mine if r.offset >= start[topic_index]]
                processor.ingest(partition, topic_index, RecordColumns.of(rest), mine[-1].offset + 1)
                processor.merge(partition).finish(topic_index)
        while (output := processor.step(0.0)) is not None:
            self._keep(output.outputs)
        self._keep(processor.dead_letters())
        return self

    def _keep(self, outputs: Any) -> None:
        for (topic, _), messages in outputs.items():
            self.found[topic] += messages

    def answers(self) -> dict[str, Answers]:
        """Collect the outputs of the processor."""
        said = {}
        for topic in TOPICS[:2]:
            said[topic] = data.by_place(topic, (body or b"" for _, body, _ in self.found[topic]))
        letters = {}
        for _, _, headers in self.found["dead-letters"]:
            text = {name: value.decode() for name, value in headers}
            each = data.letter(None, None, text)
            letters[each["id"]] = {"id": each["id"], "reason": each["reason"]}
        return {**said, "dead-letters": letters}

    def rows(self) -> dict[str, np.void]:
        """Return the row of each user, as a checkpoint would write it."""
        users = self.processor.users
        users.rows["flagged"] = users.flagged
        return {n: users.rows[s].copy() for p in range(2) for n, s in users.mapping(p).items()}

    def hidden(self) -> dict[str, np.ndarray]:
        """Return the hidden state of each user."""
        users = self.processor.users
        assert users.hidden is not None
        return {n: users.hidden.read(np.array([s]))[0] for p in range(2) for n, s in users.mapping(p).items()}


@pytest.mark.parametrize(("guarantee", "model"), CHANGELOGS)
def test_the_state_of_then_is_read(guarantee: str, model: str) -> None:
    """After reading the changelog back, look-ups of each user show the same as in that commit."""
    users = Continued(model, data.changelog(guarantee, model)).processor
    wanted = data.look_ups(guarantee, model)
    assert len(users.users) == len(wanted) > 100
    for name, shown in wanted.items():
        found = users.look_up(name)
        assert found is not None, name
        assert data.same(changes.expected_look_up(shown), found), name


@pytest.mark.parametrize(("guarantee", "model"), CHANGELOGS)
def test_the_state_of_then_goes_on(guarantee: str, model: str, run: Run) -> None:
    """From that changelog and those offsets on, the answers and the final state equal those without a stop.

    The exception is users with events that only that version counted as late: their windows still lack these.
    """
    stored = data.changelog(guarantee, model)
    went_on, whole = Continued(model, stored).go_on(), Continued(model).go_on()
    rows, other = went_on.rows(), whole.rows()
    assert rows.keys() == other.keys()
    once_late = {name for name, row in rows.items() if row["late"] != other[name]["late"]}
    assert len(once_late) < len(rows) / 10
    for topic, found in went_on.answers().items():
        wanted = data.behind(run("plain", model)[topic], stored.committed)
        if topic == "dead-letters":
            wanted = {place: {"id": place, "reason": said["reason"]} for place, said in wanted.items()}
        assert wanted
        compared = [
            {place: said for place, said in each.items() if said.get("user_id") not in once_late}
            for each in (wanted, found)
        ]
        assert not data.differences("plain", topic, *compared)[:5]
    for name, row in rows.items():
        if name in once_late:
            continue
        for field in set(ROW.names or ()) - changes.NEW_IN_ROWS:
            assert row[field].tobytes() == other[name][field].tobytes(), (name, field)
    if model == "model":
        states, others = went_on.hidden(), whole.hidden()
        kept = states.keys() - once_late
        assert all(np.allclose(states[name], others[name], atol=data.TOLERANCE) for name in kept)
