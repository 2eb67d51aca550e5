"""The consumers of docs/subscribe.md, run against the embedded broker: each prediction is used once."""

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from stream_app.lab.broker import EmbeddedKafka
from tests.integration.harness import Reader, Start, clicks, committed, make_topics, produce, wait_for
from tests.integration.java import compile_java, run_java

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
EVENTS, REPEATS = 200, 60


@pytest.fixture
async def predictions(kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path) -> list[str]:
    """Return the ids in a topic with the predictions of a worker, some of them repeated."""
    await make_topics(kafka.bootstrap, prefix)
    start(tmp_path / "worker", kafka.bootstrap, prefix).wait_ready()
    produce(kafka.bootstrap, prefix, clicks(EVENTS))
    with contextlib.closing(Reader(kafka.bootstrap, f"{prefix}predictions")) as reader:
        found = reader.read_until("all predictions", lambda m: len(m) == EVENTS)
    repeat(kafka.bootstrap, found[:REPEATS])
    return sorted(json.loads(m.value())["id"] for m in found)


def repeat(bootstrap: str, messages: list) -> None:  # type: ignore[type-arg]
    """Write records again, unchanged, like a worker after a fault."""
    producer = Producer({"bootstrap.servers": bootstrap})
    for m in messages:
        producer.produce(m.topic(), m.value(), m.key(), m.partition())
    assert producer.flush(30) == 0


def consumed(bootstrap: str, group: str, topic: str) -> int:
    """Return how many records the committed offsets of a group cover."""
    return sum(max(0, offset) for offset in committed(bootstrap, group, [topic])[topic])


def run_until(process: "subprocess.Popen[bytes]", what: str, condition: Callable[[], bool]) -> None:
    """Wait for a condition, then end the process with SIGTERM."""
    try:
        wait_for(what, lambda: process.poll() is not None or condition())
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        process.kill()
        process.wait(10)


def test_the_python_subscriber(
    kafka: EmbeddedKafka, prefix: str, predictions: list[str], tmp_path: Path
) -> None:
    """The consumer's table has each prediction once; repeats are dropped, even those after a restart."""
    topic, file, log = f"{prefix}predictions", tmp_path / "predictions.db", tmp_path / "log"

    def rows() -> list[str]:
        with contextlib.closing(sqlite3.connect(file)) as database:
            return sorted(id_ for (id_,) in database.execute("SELECT id FROM predictions"))

    def run(total: int) -> str:
        with log.open("wb") as out:
            command = [sys.executable, str(EXAMPLES / "subscribe.py"), kafka.bootstrap, topic, str(file)]
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        run_until(
            process,
            "the consumer's offsets",
            lambda: consumed(kafka.bootstrap, f"{topic}-to-sqlite", topic) == total,
        )
        assert process.returncode == 0, log.read_text()
        return log.read_text().splitlines()[-1]

    assert run(EVENTS + REPEATS) == f"{EVENTS} new predictions, {REPEATS} repeats dropped"
    assert rows() == predictions
    with contextlib.closing(Reader(kafka.bootstrap, topic)) as reader:
        repeat(kafka.bootstrap, reader.read_to_end()[:10])
    assert run(EVENTS + REPEATS + 10) == "0 new predictions, 10 repeats dropped"
    assert rows() == predictions


def test_the_java_subscriber(
    kafka: EmbeddedKafka, prefix: str, predictions: list[str], tmp_path: Path
) -> None:
    """The consumer prints each prediction once."""
    topic, out, err = f"{prefix}predictions", tmp_path / "out", tmp_path / "err"
    compile_java(EXAMPLES / "Subscribe.java", tmp_path)
    process = run_java(tmp_path, "Subscribe", kafka.bootstrap, topic, stdout=out, stderr=err)
    wanted = EVENTS + REPEATS
    run_until(
        process, "its offsets", lambda: consumed(kafka.bootstrap, f"{topic}-to-stdout", topic) == wanted
    )
    assert sorted(line.split()[0] for line in out.read_text().splitlines()) == predictions, err.read_text()
    assert err.read_text().splitlines()[-1] == f"{REPEATS} repeats dropped"
