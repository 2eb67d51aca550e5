"""The whole worker on a real Kafka: exactly one answer per event, whatever happens."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream_app.contract.outputs import Flag, Prediction
from stream_app.contract.records import Record
from stream_app.lab.broker import EmbeddedKafka
from stream_app.lab.generator import GeneratorSettings, write
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.recordings.offline.drive import drive
from stream_app.recordings.recording import RecordingReader
from stream_app.settings import load_settings
from stream_app.worker.watches.model_watch import load_model
from tests.integration.answered import ids
from tests.integration.harness import (
    Reader,
    Start,
    Worker,
    committed,
    make_topics,
    produce,
    read_all,
    wait_for,
)

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 20,000 records with invalid ones, duplicates, late events and bots."""
    path = tmp_path_factory.mktemp("traffic") / "traffic.stream"
    settings = GeneratorSettings(
        events=20_000, users=2_000, items=500, categories=20, seed=5,
        malformed_share=0.01, duplicate_share=0.02, late_share=0.02,
    )  # fmt: skip
    write(settings, path)
    return path


class Expected:
    """Return the outputs of `foreclick run` for a recording."""

    def __init__(self, path: Path, model: Path | None, partitions: int = 4) -> None:
        settings = load_settings(env={}, options={"model": model} if model else {})
        runtime = load_model(settings) if model else None
        self.processor = ShopProcessor(settings, runtime, partitions=partitions)
        self.predictions: dict[str, Prediction] = {}
        self.flags: dict[str, Flag] = {}
        self.bad: Counter[str] = Counter()
        for output in drive(self.processor, RecordingReader(path)):
            for letters in self.processor.dead_letters().values():
                self.bad.update(dict(headers)["foreclick.reason"].decode() for _, _, headers in letters)
            for (topic, _), messages in (output.outputs if output else {}).items():
                for _, value, _ in messages:
                    if topic == "predictions":
                        prediction = msgspec.json.decode(value, type=Prediction)
                        assert prediction.id not in self.predictions
                        self.predictions[prediction.id] = prediction
                    elif topic == "flags":
                        flag = msgspec.json.decode(value, type=Flag)
                        self.flags[flag.id] = flag


@pytest.fixture(scope="module")
def expected(traffic: Path, model: Path) -> Expected:
    """The golden outputs of the recording, made without a broker."""
    return Expected(traffic, model)


def unprefixed(prefix: str, id_: str) -> str:
    """Return the id without the test's topic prefix."""
    assert id_.startswith(prefix)
    return id_[len(prefix) :]


def same(a: Prediction, b: Prediction) -> bool:
    """Whether two predictions agree within 1e-4 (guarantee 3)."""
    if (a.user_id, a.ts, a.event_id, a.model) != (b.user_id, b.ts, b.event_id, b.model):
        return False
    assert a.next_event is not None
    assert b.next_event is not None
    numbers = zip(
        [*msgspec.structs.astuple(a.next_event), a.purchase_probability, *(i.score for i in a.items)],
        [*msgspec.structs.astuple(b.next_event), b.purchase_probability, *(i.score for i in b.items)],
        strict=True,
    )
    close = all(abs(x - y) <= 1e-4 for x, y in numbers)
    # Two items whose scores agree may change places.
    return close and (
        {i.item_id for i in a.items} == {i.item_id for i in b.items} or a.items[-1].score < 1e-3
        or abs(a.items[-1].score - b.items[-1].score) < 1e-4
    )  # fmt: skip


def check_predictions(prefix: str, messages: list[Any], expected: dict[str, Prediction]) -> int:
    """Check that all expected predictions exist and repeats equal the first; return the number of repeats."""
    seen: Counter[str] = Counter()
    for m in messages:
        prediction = msgspec.json.decode(m.value(), type=Prediction)
        id_ = unprefixed(prefix, prediction.id)
        assert m.key().decode() == prediction.user_id
        assert m.partition() == int(id_.split("-")[1])
        assert id_ in expected, f"{id_} was not expected"
        assert same(prediction, expected[id_]), f"{prediction} is not {expected[id_]}"
        seen[id_] += 1
    missing = set(expected) - set(seen)
    assert not missing, f"{len(missing)} of {len(expected)} predictions are missing: {sorted(missing)[:5]}"
    return sum(seen.values()) - len(seen)


async def test_golden_with_one_worker(
    kafka: EmbeddedKafka,
    prefix: str,
    start_from_scratch: Start,
    traffic: Path,
    model: Path,
    expected: Expected,
    tmp_path: Path,
) -> None:
    """A worker gives the same answers as `run`: predictions, flags and dead letters, each exactly once."""
    await make_topics(kafka.bootstrap, prefix)
    records = list(RecordingReader(traffic))
    produce(kafka.bootstrap, prefix, records)
    worker = start_from_scratch(tmp_path, kafka.bootstrap, prefix, model=model)
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    reader.read_until("all predictions", lambda m: len(m) >= len(expected.predictions))
    assert worker.stop() == 0
    assert check_predictions(prefix, reader.read_to_end(), expected.predictions) == 0
    reader.close()
    flags = [json.loads(m.value()) for m in read_all(kafka.bootstrap, f"{prefix}flags")]
    assert sorted(unprefixed(prefix, f["id"]) for f in flags) == sorted(expected.flags)
    for flag in flags:
        known = expected.flags[unprefixed(prefix, flag["id"])]
        assert [r["code"] for r in flag["reasons"]] == [r.code for r in known.reasons]
        assert abs(flag["score"] - known.score) <= 1e-3
    letters = read_all(kafka.bootstrap, f"{prefix}dead-letters")
    found = Counter(dict(m.headers())["foreclick.reason"].decode() for m in letters)
    assert found == expected.bad
    by_place = {(r.topic, r.partition, r.offset): r for r in records}
    for m in letters:
        headers = dict(m.headers())
        topic = headers["__streams.errors.topic"].decode()
        place = int(headers["__streams.errors.partition"]), int(headers["__streams.errors.offset"])
        source = by_place[unprefixed(prefix, topic), *place]
        assert (m.key(), m.value(), m.partition()) == (source.key, source.value, source.partition)
    ends = Counter((r.topic, r.partition) for r in records)
    offsets = committed(kafka.bootstrap, f"{prefix}group", [f"{prefix}clicks"])[f"{prefix}clicks"]
    assert offsets == [ends["clicks", p] for p in range(4)], "everything is committed on SIGTERM"


async def test_golden_with_a_second_worker_that_comes_and_goes(
    kafka: EmbeddedKafka,
    prefix: str,
    start: Start,
    traffic: Path,
    model: Path,
    expected: Expected,
    tmp_path: Path,
) -> None:
    """A worker that joins during traffic and leaves again changes no answer and loses none."""
    await make_topics(kafka.bootstrap, prefix)
    records = list(RecordingReader(traffic))
    produce(kafka.bootstrap, prefix, records)
    slow = {"model": model, "max_batch": 64, "session_timeout_ms": 6000}
    first = start(tmp_path, kafka.bootstrap, prefix, **slow)
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    total = len(expected.predictions)
    reader.read_until("a first part", lambda m: len(m) > total * 0.1)
    second = start(tmp_path, kafka.bootstrap, prefix, **slow).wait_ready()
    wait_for("the first worker to continue with fewer partitions", first.ready)
    assert second.stop() == 0
    reader.read_until("all predictions", lambda m: len(ids(m)) >= total)
    assert first.stop() == 0
    check_predictions(prefix, reader.read_to_end(), expected.predictions)
    reader.close()


async def test_two_workers_from_the_start(
    kafka: EmbeddedKafka,
    prefix: str,
    start: Start,
    traffic: Path,
    model: Path,
    expected: Expected,
    tmp_path: Path,
) -> None:
    """Two workers share the partitions and together give the same answers as one, once per event."""
    await make_topics(kafka.bootstrap, prefix)
    both = [start(tmp_path, kafka.bootstrap, prefix, model=model).wait_ready()]
    both.append(start(tmp_path, kafka.bootstrap, prefix, model=model).wait_ready())
    wait_for("both workers to be ready", lambda: all(w.ready() for w in both))
    # Sent topic by topic, so that waiting for a topic without records would matter: it must not be
    # idle for longer than the workers wait.
    produce(kafka.bootstrap, prefix, RecordingReader(traffic))
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    total = len(expected.predictions)
    reader.read_until("all predictions", lambda m: len(ids(m)) >= total)
    shares = [_metric(w, "foreclick_events_total") for w in both]
    assert all(share > 0 for share in shares), f"one worker did nothing: {shares}"
    assert [w.stop() for w in both] == [0, 0]
    found = ids(reader.read_to_end())
    reader.close()
    assert {unprefixed(prefix, i) for i in found} == set(expected.predictions)
    assert set(found.values()) == {1}


async def test_killed_and_restarted(
    kafka: EmbeddedKafka,
    prefix: str,
    start: Start,
    traffic: Path,
    model: Path,
    expected: Expected,
    tmp_path: Path,
) -> None:
    """Two SIGKILLs during traffic lose no event and apply none twice; repeats have the same id and content."""
    await make_topics(kafka.bootstrap, prefix)
    produce(kafka.bootstrap, prefix, RecordingReader(traffic))
    total = len(expected.predictions)
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    slow = {"model": model, "max_batch": 32, "commit_interval_ms": 50}
    for share in (0.1, 0.4):
        worker = start(tmp_path, kafka.bootstrap, prefix, **slow)
        reader.read_until(f"{share:.0%} of the predictions", lambda m, s=share: len(ids(m)) > total * s)
        worker.kill()
        assert len(ids(reader.messages)) < total, "the kill came too late for this test"
    last = start(tmp_path, kafka.bootstrap, prefix, model=model)
    reader.read_until("all predictions", lambda m: len(ids(m)) >= total)
    wait_for("the worker to be ready", last.ready)
    # The state of every user equals that of a run without interruption.
    held = expected.processor.users
    users = [user for partition in held.count for user in held.mapping(partition)][::20]
    for user in users:
        status, shown = last.get(f"/users/{user}/")
        assert status == 200
        slot = held.find_anywhere(user)
        row = held.rows[slot]
        assert shown["events"] == int(row["events"])
        assert shown["source_offsets"] == row["source"].tolist()
        assert shown["clock"] == int(row["clock"])
    assert last.stop() == 0
    repeated = check_predictions(prefix, reader.read_to_end(), expected.predictions)
    assert repeated < total
    reader.close()


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
async def test_saved_by_two_continued_by_three(
    kafka: EmbeddedKafka,
    prefix: str,
    start: Start,
    traffic: Path,
    model: Path,
    expected: Expected,
    tmp_path: Path,
    guarantee: str,
) -> None:
    """Three workers with other micro-batches continue the state of two without any difference."""
    await make_topics(kafka.bootstrap, prefix)
    produce(kafka.bootstrap, prefix, RecordingReader(traffic))
    total = len(expected.predictions)
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    common = {"model": model, "guarantee": guarantee}
    two = [
        start(tmp_path / f"two-{i}", kafka.bootstrap, prefix, **common, max_batch=4, commit_interval_ms=50)
        for i in range(2)
    ]
    wait_for("both workers to be ready", lambda: all(worker.ready() for worker in two))
    reader.read_until("a part of the predictions", lambda m: len(ids(m)) > 0.1 * total)
    for worker in two:  # both at once: one alone would take over everything
        worker.process.terminate()
    assert [worker.wait_end()[0] for worker in two] == [0, 0]
    assert len(ids(reader.read_to_end())) < total, "they stopped too late for this test"
    three = [
        start(tmp_path / f"three-{i}", kafka.bootstrap, prefix, **common, max_batch=1500) for i in range(3)
    ]
    reader.read_until("all predictions", lambda m: len(ids(m)) >= total)
    for worker in three:
        worker.wait_ready()
    assert [worker.stop() for worker in three] == [0, 0, 0]
    assert check_predictions(prefix, reader.read_to_end(), expected.predictions) == 0
    reader.close()


def _metric(worker: Worker, name: str) -> float:
    """Return the sum of a metric over its labels."""
    text = worker.get("/metrics")[1]
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{"))


async def test_poison_in_the_middle_of_each_topic(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """An invalid record becomes a dead letter and stops nothing; the others get their predictions."""
    poison = [b"\xff\x00 not an event", b"{", b"[" * 5000, None, b'{"user_id": "u1"}', b"x" * 70_000]
    records: list[Record] = []
    for topic in ("clicks", "browses", "purchases"):
        for i in range(60):
            user = f"u{i % 7}"
            key = user.encode()
            value: bytes | None = json.dumps(
                {"user_id": user, "ts": 1_700_000_000_000 + i, "item_id": "a"}
            ).encode()
            if 20 <= i < 20 + len(poison):
                value = poison[i - 20]
            records.append(Record(topic, i % 2, i // 2, 0, key, value, (("trace", b"7"),)))
    await make_topics(kafka.bootstrap, prefix, partitions=2)
    produce(kafka.bootstrap, prefix, records)
    worker = start(tmp_path, kafka.bootstrap, prefix)
    good = 3 * (60 - len(poison))
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    reader.read_until("predictions of the valid events", lambda m: len(m) >= good)
    assert worker.stop() == 0
    assert len(reader.read_to_end()) == good
    reader.close()
    letters = read_all(kafka.bootstrap, f"{prefix}dead-letters")
    assert Counter(m.value() for m in letters) == Counter(poison * 3)
    assert all(dict(m.headers())["trace"] == b"7" for m in letters)
