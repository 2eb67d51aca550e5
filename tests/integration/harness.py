"""A worker process, and a Kafka client that shares no code with it (librdkafka)."""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from stream_app.contract.records import Record
from stream_app.contract.topics import SHOP
from stream_app.kafka.topics import ensure_topics
from stream_app.settings import Settings, load_settings
from tests.integration.forked import ForkedProcess


def free_port() -> int:
    """Return a port of the loopback address that is free at this moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what: str, condition: Callable[[], Any], limit_s: float = 60.0, every_s: float = 0.05) -> Any:
    """Wait for a true value of `condition` and return it; after `limit_s` seconds, fail and name `what`."""
    end = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {limit_s:.0f} s for {what}")
        time.sleep(every_s)


#: A process with its exit code, signals and `wait`.
Process = subprocess.Popen[bytes] | ForkedProcess
#: Starts a process from the words after `foreclick`, its environment, and the file for its output.
Launch = Callable[[list[str], Mapping[str, str], Path], Process]


def from_scratch(words: list[str], env: Mapping[str, str], log: Path) -> Process:
    """Start a command of `foreclick` in its own Python, as a user does; loading takes seconds."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-c", "from stream_app.cli import main; main()", *words],
            env=env,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


class Worker:
    """`foreclick worker` in its own process."""

    def __init__(
        self, folder: Path, bootstrap: str, prefix: str, launch: Launch = ForkedProcess, **settings: Any
    ) -> None:
        self.port = free_port()
        env = {
            "FORECLICK_BROKERS": bootstrap,
            "FORECLICK_TOPIC_PREFIX": prefix,
            "FORECLICK_GROUP": f"{prefix}group",
            "FORECLICK_WEB": f"127.0.0.1:{self.port}",
            "FORECLICK_DATA_DIR": str(folder),
            "FORECLICK_LOG_FORMAT": "json",
            **{f"FORECLICK_{name.upper()}": str(value) for name, value in settings.items()},
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"worker-{self.port}.log"
        self.log.touch()
        self.process = launch(["worker"], {**os.environ, **env}, self.log)

    def get(self, path: str) -> tuple[int, Any]:
        """Return status and body of a page, JSON decoded."""
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                status, kind, body = answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, kind, body = error.code, error.headers["Content-Type"], error.read()
        return status, json.loads(body) if "json" in kind else body.decode()

    def ready(self) -> bool:
        """Whether the readiness probe succeeds."""
        self.check()
        try:
            return self.get("/health/ready")[0] == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def check(self) -> None:
        """Fail with the log if the worker has ended."""
        if self.process.poll() is not None:
            raise AssertionError(f"the worker ended with {self.process.returncode}:\n{self.text()[-4000:]}")

    def wait_ready(self, limit_s: float = 60.0) -> "Worker":
        """Return once the worker is ready."""
        wait_for("the worker to be ready", self.ready, limit_s)
        return self

    def wait_end(self, limit_s: float = 60.0) -> tuple[int, str]:
        """Wait until the worker ends by itself; return exit code and log."""
        try:
            return self.process.wait(limit_s), self.text()
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the worker still runs after {limit_s:.0f} s:\n{self.text()[-4000:]}"
            ) from None

    def metric(self, name: str, /, **labels: str) -> float:
        """Return the sum of a metric over the series with these labels; NaN if there are none."""
        values = []
        for line in self.get("/metrics")[1].splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(f'{k}="{v}"' in series for k, v in labels.items()):
                values.append(float(value))
        return sum(values) if values else math.nan

    def text(self) -> str:
        """Return the log so far."""
        return self.log.read_text()

    def kill(self) -> None:
        """Send SIGKILL, so that nothing is committed or logged."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"the worker did not stop in 30 s:\n{self.text()[-4000:]}") from None
        return self.process.returncode


#: Starts a worker with the arguments of `Worker`.
Start = Callable[..., Worker]


@contextlib.contextmanager
def workers(launch: Launch = ForkedProcess) -> Iterator[Start]:
    """Start workers; end the remaining ones after the block."""
    started: list[Worker] = []

    def start(*args: Any, **settings: Any) -> Worker:
        started.append(Worker(*args, launch=launch, **settings))
        return started[-1]

    try:
        yield start
    finally:
        for worker in started:
            if worker.process.poll() is None:
                worker.kill()


def settings_for(bootstrap: str, prefix: str, **more: Any) -> Settings:
    """Return the settings of `Worker`."""
    options = {"brokers": bootstrap, "topic_prefix": prefix, "group": f"{prefix}group", **more}
    return load_settings(env={}, options=options)


async def make_topics(bootstrap: str, prefix: str, partitions: int = 4) -> None:
    """Create all topics of a worker."""
    settings = settings_for(bootstrap, prefix, partitions=partitions)
    await ensure_topics(settings, SHOP.of(settings))


def produce(bootstrap: str, prefix: str, records: Iterable[Record]) -> int:
    """Send records to their partitions, in order; return how many. Fails if one is not acknowledged."""
    failed: list[str] = []
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "enable.idempotence": True})
    count = 0
    for count, r in enumerate(records, 1):
        producer.produce(
            prefix + r.topic,
            r.value,
            r.key,
            r.partition,
            headers=list(r.headers),
            on_delivery=lambda error, _: failed.append(str(error)) if error else None,
        )
        if count % 1000 == 0:
            producer.poll(0)
    assert producer.flush(60) == 0, "records were not acknowledged within 60 s"
    assert not failed, failed[:3]
    return count


def clicks(n: int, users: int = 40, partitions: int = 4, topic: str = "clicks") -> list[Record]:
    """Return valid events, one per second, of users in turn; the same number in each partition."""
    offsets = [0] * partitions
    records = []
    for i in range(n):
        partition = i % partitions
        user = f"u{partition}-{i // partitions % max(1, users // partitions)}"
        value = {"user_id": user, "ts": 1_700_000_000_000 + 1000 * i, "item_id": f"i{i % 97}"}
        body = json.dumps(value).encode()
        records.append(Record(topic, partition, offsets[partition], 0, user.encode(), body, ()))
        offsets[partition] += 1
    return records


class Reader:
    """Reads a topic from its beginning, outside any group."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "not-used",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "log_level": 0,
            }
        )
        found = self._consumer.list_topics(topic, timeout=20).topics[topic].partitions
        self._partitions = [TopicPartition(topic, p, 0) for p in found]
        self._consumer.assign(self._partitions)
        self.messages: list[Any] = []

    def poll(self) -> list[Any]:
        """Add all records that have arrived to `messages`, and return it."""
        for message in self._consumer.consume(5000, timeout=0.1):
            if message.error():
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                continue
            self.messages.append(message)
        return self.messages

    def read_until(self, what: str, enough: Callable[[list[Any]], bool], limit_s: float = 90.0) -> list[Any]:
        """Return the messages once `enough` accepts them."""
        wait_for(what, lambda: enough(self.poll()), limit_s, 0.0)
        return self.messages

    def read_to_end(self, limit_s: float = 60.0) -> list[Any]:
        """Return all messages up to the present end."""
        ends = {p.partition: self._consumer.get_watermark_offsets(p, timeout=20)[1] for p in self._partitions}

        def done(_: list[Any]) -> bool:
            at = {p.partition: p.offset for p in self._consumer.position(self._partitions)}
            return all(at[n] >= end or end == 0 for n, end in ends.items())

        return self.read_until("the end of the topic", done, limit_s)

    def close(self) -> None:
        """Disconnects."""
        self._consumer.close()


def read_all(bootstrap: str, topic: str) -> list[Any]:
    """Return all messages of a topic."""
    with contextlib.closing(Reader(bootstrap, topic)) as reader:
        return reader.read_to_end()


def committed(bootstrap: str, group: str, topics: Iterable[str], partitions: int = 4) -> dict[str, list[int]]:
    """Return the committed offsets of a group, -1001 if there is none."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
    try:
        asked = [TopicPartition(t, p) for t in topics for p in range(partitions)]
        found = consumer.committed(asked, timeout=20)
        result: dict[str, list[int]] = {}
        for tp in found:
            result.setdefault(tp.topic, []).append(tp.offset)
        return result
    finally:
        consumer.close()


__all__ = [
    "AdminClient", "Reader", "Worker", "clicks", "committed", "free_port", "make_topics", "produce", "read_all",
    "settings_for", "wait_for", "workers",
]  # fmt: skip
