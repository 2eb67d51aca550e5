"""Reads the reference data, and compares answers with them according to `changes.py`."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.recordings.recording import RecordingReader
from tests.reference.changes import EDGES, FIELDS, PLAIN

HERE = Path(__file__).parent
MODEL = HERE / "model"
TOPICS = ("predictions", "flags", "dead-letters")
#: Names of the cases of `edges.stream`, in the order of their partitions.
CASES = (
    "control", "clock_ahead", "one_event_id", "null_fields", "first_price", "seconds", "integer_ids",
    "long_names", "late_user",
)  # fmt: skip
#: Largest difference between a number of the model and the reference: processors round differently.
TOLERANCE = 1e-4

#: Answers of one topic by the place of their source record, such as `clicks-1-62`.
Answers = dict[str, dict[str, Any]]


def recording(name: str) -> Path:
    """Return the path of the recording `plain` or `edges`."""
    return HERE / f"{name}.stream"


def answers(recording: str, model: str, topic: str) -> Answers:
    """Return the answers of commit 3c99cd3. `model`: "model" or "none"."""
    return by_place(topic, _stored(f"run-{recording}-{model}-{topic}.jsonl").splitlines())


def by_place(topic: str, lines: Iterable[bytes]) -> Answers:
    """Return the lines of an output file of `run` by the place of the source record, which must be unique."""
    found: Answers = {}
    for line in lines:
        said = json.loads(line)
        if topic == "dead-letters":
            said = letter(said["key"], said["value"], said["headers"])
        place = said["id"]
        assert place not in found, f"{topic} has {place} twice"
        found[place] = said
    return found


def letter(key: Any, value: Any, headers: dict[str, str]) -> dict[str, Any]:
    """Return the compared parts of a dead letter: place, reason, key and value, but not the text of its message."""
    place = "-".join(headers[f"__streams.errors.{name}"] for name in ("topic", "partition", "offset"))
    return {"id": place, "reason": headers["foreclick.reason"], "key": key, "value": value}


@dataclass(frozen=True)
class Changelog:
    """A changelog topic that commit 3c99cd3 wrote, and its committed offsets."""

    guarantee: str
    model: str
    topic: str
    records: list[Record]
    committed: dict[str, list[int]]  #: by input topic, per partition

    def positions(self, partition: int) -> list[int]:
        """Return the committed offset of each input topic."""
        return [self.committed[topic][partition] for topic in INPUT_TOPICS]

    def of(self, partition: int) -> list[Record]:
        """Return the records of a partition."""
        return [r for r in self.records if r.partition == partition]


def changelog(guarantee: str, model: str) -> Changelog:
    """Return one of the four changelogs."""
    reader = RecordingReader(HERE / f"changelog-{guarantee}-{model}.stream")
    (topic,) = reader.topics
    return Changelog(guarantee, model, topic, list(reader), dict(reader.metadata["committed"]))


def look_ups(guarantee: str, model: str) -> dict[str, dict[str, Any]]:
    """Return what the pages showed of each user after the changelog was read back."""
    found: dict[str, dict[str, Any]] = msgspec.json.decode(_stored(f"users-{guarantee}-{model}.json"))
    return found


def behind(found: Answers, committed: dict[str, list[int]]) -> Answers:
    """Return the answers to the records from the committed offsets on."""
    kept = {}
    for place, said in found.items():
        topic, partition, offset = place.rsplit("-", 2)
        if int(offset) >= committed[topic][int(partition)]:
            kept[place] = said
    return kept


def differences(recording: str, topic: str, wanted: Answers, found: Answers) -> list[str]:
    """Return a sentence for each answer that differs and is not listed in `changes.py`."""
    problems = []
    for place in sorted(wanted.keys() | found.keys()):
        if on_purpose(recording, topic, place):
            continue
        if place not in found:
            problems.append(f"{topic} {place} is missing")
        elif place not in wanted:
            problems.append(f"{topic} {place} is new: {found[place]}")
        elif not same(wanted[place], found[place]):
            problems.append(f"{topic} {place} was {wanted[place]}, is {found[place]}")
    return problems


def on_purpose(recording: str, topic: str, place: str) -> bool:
    """Whether `changes.py` lists this answer."""
    if recording == "edges":
        return CASES[int(place.rsplit("-", 2)[1])] in EDGES
    return (topic, place) in PLAIN


def same(wanted: Any, found: Any) -> bool:
    """Whether two values are equal, except for new fields, and numbers of the model within `TOLERANCE`."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return False
        if "items" in wanted and not _same_items(wanted["items"], found.get("items")):
            return False
        names = wanted.keys() - FIELDS.keys() - {"items"}
        return all(name in found and same(wanted[name], found[name]) for name in names)
    if isinstance(wanted, list):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(same, wanted, found))
    if isinstance(wanted, float) and isinstance(found, float):
        return math.isclose(wanted, found, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(wanted == found)


def _same_items(wanted: list[dict[str, Any]], found: Any) -> bool:
    """Whether both lists have the same items in the same order, except where two scores are almost equal."""
    if not isinstance(found, list) or len(found) != len(wanted):
        return False
    return all(
        abs(w["score"] - f["score"]) <= TOLERANCE
        and (w["item_id"] == f["item_id"] or _tied(wanted, f["item_id"], w["score"]))
        for w, f in zip(wanted, found, strict=True)
    )


def _tied(wanted: list[dict[str, Any]], item: str, score: float) -> bool:
    """Whether the item had about this score. An item that was not in the list may tie with its last item."""
    scores = [w["score"] for w in wanted if w["item_id"] == item] or [wanted[-1]["score"]]
    return abs(scores[0] - score) <= 2 * TOLERANCE


def _stored(name: str) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader((HERE / f"{name}.zst").read_bytes()).read()
