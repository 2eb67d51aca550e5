"""Clocks that are ahead, on a real Kafka: one affects no other user, and forwarded records get the same answers."""

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream_app.contract.outputs import Prediction
from stream_app.contract.partitioner import partitions_of
from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.lab.broker import EmbeddedKafka
from stream_app.recordings.capture import record
from stream_app.recordings.publish import replay
from stream_app.recordings.recording import RecordingReader
from tests.integration.answered import ids
from tests.integration.harness import (
    Reader,
    Start,
    Worker,
    make_topics,
    produce,
    read_all,
    wait_for,
)
from tests.integration.test_worker import Expected, check_predictions, unprefixed

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(400)]

PARTITIONS, USERS, EVENTS = 2, 60, 6000
#: The merge waits for topics, so that the live order is that of the times, however slow the machine is.
PATIENT = {"max_idle_ms": 60_000, "commit_interval_ms": 100}


def event(user: str, topic: str, ts: int, partition: int = -1, **more: Any) -> Record:
    """Return an event as a producer sends it; by default in the partition of its key."""
    key = user.encode()
    if partition < 0:
        partition = int(partitions_of([key], PARTITIONS)[0])
    body = {"user_id": user, "ts": ts, "item_id": f"i{ts % 40}", **more}
    return Record(topic, partition, 0, 0, key, json.dumps(body).encode())


def now_ms() -> int:
    return int(time.time() * 1000)


def traffic(seed: int) -> Iterator[list[Record]]:
    """Yield groups of current events, each slightly delayed; 1 % are ahead, some too far, some a day late."""
    draw = random.Random(seed)
    for _ in range(EVENTS // 100):
        portion = []
        for _ in range(100):
            user, topic = f"u{draw.randrange(USERS)}", draw.choices(INPUT_TOPICS, (5, 4, 1))[0]
            off = -draw.randrange(200)
            rare = draw.random()
            if rare < 0.01:
                off = draw.randrange(1, 29_000)
            elif rare < 0.012:
                off = 40_000 + draw.randrange(10**7)
            elif rare < 0.02:
                off = -draw.randrange(10**8)
            price = {"price": draw.choice((5.0, 9.5, 400.0))} if topic == "purchases" else {}
            portion.append(event(user, topic, now_ms() + off, event_id=f"e{draw.randrange(3000)}", **price))
        yield portion


def close(bootstrap: str, prefix: str) -> None:
    """Return an event at the end of each topic, so that none of the others waits for a topic any longer."""
    ends = [event(f"end{p}", topic, now_ms(), p) for topic in INPUT_TOPICS for p in range(PARTITIONS)]
    produce(bootstrap, prefix, ends)


def flags_of(bootstrap: str, prefix: str) -> dict[str, tuple[str, ...]]:
    """Return the reasons of each flag by its id."""
    found = [json.loads(m.value()) for m in read_all(bootstrap, f"{prefix}flags")]
    return {unprefixed(prefix, f["id"]): tuple(r["code"] for r in f["reasons"]) for f in found}


def letters_of(bootstrap: str, prefix: str) -> Counter[str]:
    """Return the reasons of the dead letters."""
    letters = read_all(bootstrap, f"{prefix}dead-letters")
    return Counter(dict(m.headers())["foreclick.reason"].decode() for m in letters)


class Answers:
    """Return the predictions of a worker on some topics, once all expected ones exist."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self._prefix = prefix
        self._reader = Reader(bootstrap, f"{prefix}predictions")

    def wait(self, enough: Callable[[set[str]], bool], what: str) -> None:
        """Return once `enough` accepts the answered ids, without prefix."""
        self._reader.read_until(what, lambda m: enough({unprefixed(self._prefix, i) for i in ids(m)}), 120)

    def check(self, expected: dict[str, Prediction]) -> None:
        """Fail if a prediction is missing or differs from the expected one; those at the end may be missing."""
        messages = [
            m
            for m in self._reader.read_to_end()
            if not msgspec.json.decode(m.value())["user_id"].startswith("end")
        ]
        check_predictions(self._prefix, messages, expected)
        self._reader.close()


async def test_live_recorded_and_replayed_answers_are_equal(
    kafka: EmbeddedKafka, prefix: str, start: Start, model: Path, tmp_path: Path
) -> None:
    """With 1 % of the events ahead, a live worker, `run` on the recording, and a worker that is stopped in the
    middle of a replay of it into new topics give the same answers."""
    await make_topics(kafka.bootstrap, prefix, PARTITIONS)
    live = start(tmp_path / "live", kafka.bootstrap, prefix, model=model, **PATIENT).wait_ready(120)
    for portion in traffic(1):
        produce(kafka.bootstrap, prefix, portion)
        await asyncio.sleep(0.03)  # the pace of the traffic: the broker's times should differ
    close(kafka.bootstrap, prefix)
    path = tmp_path / "live.stream"
    await record([kafka.bootstrap], path, prefix=prefix)
    expected = Expected(path, model, PARTITIONS)
    assert expected.bad["future"] > 3
    wanted = {i: p for i, p in expected.predictions.items() if not p.user_id.startswith("end")}
    assert sum(p.ts > r.timestamp for p, r in _with_records(path, wanted)) > EVENTS // 200, "they were ahead"
    answers = Answers(kafka.bootstrap, prefix)
    answers.wait(lambda found: wanted.keys() <= found, "all answers of the live worker")
    assert live.stop() == 0
    answers.check(wanted)
    assert flags_of(kafka.bootstrap, prefix) == {i: _codes(f) for i, f in expected.flags.items()}
    assert letters_of(kafka.bootstrap, prefix) == expected.bad

    again = f"again-{prefix}"
    await make_topics(kafka.bootstrap, again, PARTITIONS)
    await replay(path, [kafka.bootstrap], prefix=again)
    answers = Answers(kafka.bootstrap, again)
    slow = {**PATIENT, "max_batch": 16, "model": model}
    first = start(tmp_path / "first", kafka.bootstrap, again, **slow)
    answers.wait(lambda found: len(found) > EVENTS // 5, "a fifth of the answers")
    assert first.stop() == 0
    second = start(tmp_path / "second", kafka.bootstrap, again, model=model, **PATIENT)
    answers.wait(lambda found: wanted.keys() <= found, "all answers of the second worker")
    assert second.stop() == 0
    answers.check(wanted)
    assert flags_of(kafka.bootstrap, again) == {i: _codes(f) for i, f in expected.flags.items()}
    assert letters_of(kafka.bootstrap, again) == expected.bad


def _codes(flag: Any) -> tuple[str, ...]:
    return tuple(r.code for r in flag.reasons)


def _with_records(path: Path, predictions: dict[str, Prediction]) -> Iterator[tuple[Prediction, Record]]:
    for r in RecordingReader(path):
        found = predictions.get(f"{r.topic}-{r.partition}-{r.offset}")
        if found is not None:
            yield found, r


# --- one sender with others


@contextmanager
def browsing(bootstrap: str, prefix: str, every_s: float = 0.005) -> Iterator[None]:
    """Send other users' browses, 50 ms old, until the end: their topic is never silent."""
    stop = threading.Event()

    def go() -> None:
        n = 0
        while not stop.wait(every_s):
            produce(bootstrap, prefix, [event(f"b{n % 30}", "browses", now_ms() - 50, 0)])
            n += 1

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


def lag(worker: Worker) -> float:
    return worker.metric("foreclick_consumer_lag_records")


async def test_one_event_ahead_does_not_stop_its_topic(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """With steady browses, clicks after one that is 4 minutes ahead are answered long before its time."""
    await make_topics(kafka.bootstrap, prefix, PARTITIONS)
    ahead = {"max_future_ms": 250_000, "lateness_ms": 2_500_000}
    worker = start(tmp_path, kafka.bootstrap, prefix, **ahead).wait_ready(120)
    with (
        browsing(kafka.bootstrap, prefix),
        closing(Reader(kafka.bootstrap, f"{prefix}predictions")) as reader,
    ):
        produce(kafka.bootstrap, prefix, [event("mallory", "clicks", now_ms() + 240_000, 0)])
        began = time.monotonic()
        for n in range(100):
            produce(kafka.bootstrap, prefix, [event(f"c{n}", "clicks", now_ms() - 50, 0)])
        wait_for("the clicks after it", lambda: len(_of(reader.poll(), "clicks")) >= 101, 90)
        assert time.monotonic() - began < 100
        wait_for("no lag to be left", lambda: lag(worker) < 20, 30)
        assert worker.ready()
    assert worker.stop() == 0


async def test_a_clock_ahead_hides_no_bot(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """If another sender is as far ahead as allowed, a bot's clicks still count, although they arrive 700 ms late."""
    await make_topics(kafka.bootstrap, prefix, PARTITIONS)
    ahead = {"max_future_ms": 300_000, "lateness_ms": 3_000_000}
    worker = start(tmp_path, kafka.bootstrap, prefix, **ahead).wait_ready(120)
    begin = now_ms()
    for n in range(100):
        if n % 10 == 0:
            produce(kafka.bootstrap, prefix, [event("mallory", "clicks", now_ms() + 299_000, 0)])
        produce(kafka.bootstrap, prefix, [event("bot", "clicks", begin - 700 + n, 0)])
    with closing(Reader(kafka.bootstrap, f"{prefix}predictions")) as reader:
        reader.read_until("all answers", lambda m: len(m) == 110)
    assert worker.metric("foreclick_late_events_total") == 0
    shown = worker.get("/users/bot/")[1]
    assert (shown["events"], shown["late"], shown["windows"]["10m"]["click"]) == (100, 0, 100)
    assert worker.stop() == 0
    assert ("click_rate",) in flags_of(kafka.bootstrap, prefix).values()


def _of(messages: list[Any], topic: str) -> list[Any]:
    return [m for m in messages if f"{topic}-" in json.loads(m.value())["id"]]
