"""Shared parts of the worker's benchmarks: traffic, a worker process with its own topics, times of its outputs."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as Place

from stream_app.contract.topics import SHOP
from stream_app.kafka.topics import ensure_topics
from stream_app.lab.broker import EmbeddedKafka
from stream_app.settings import load_settings

ITEMS = 40_000
TOPICS = ("clicks", "browses", "purchases")


def values(
    n: int, users: int, seed: int = 7, share: float | None = None, first: int = 0
) -> list[tuple[str, bytes, bytes]]:
    """Return (topic, key, value) of n events of users by Zipf 1.1 (the first of 20,000 makes 14 %).

    With `share`, one user makes that share of all events and the other users are equally active; with `users` equal
    to n, each event has another user. Event time advances 1 ms per event up to now.
    """
    random = np.random.default_rng(seed)
    if users == n:
        user = np.arange(n)
    elif share is not None:
        user = np.where(random.random(n) < share, 0, random.integers(1, users, n))
    else:
        weight = 1.0 / np.arange(1, users + 1) ** 1.1
        user = random.choice(users, n, p=weight / weight.sum())
    kind = random.choice(3, n, p=[0.7, 0.2, 0.1]).tolist()
    popularity = 1.0 / np.arange(1, ITEMS + 1)
    item = random.choice(ITEMS, n, p=popularity / popularity.sum()).tolist()
    nonce = random.integers(0, 2**40, n).tolist()
    start = int(time.time() * 1000) - n
    return [
        (
            TOPICS[kind[i]],
            b"u%d" % u,
            b'{"event_id":"%08d-%010x","user_id":"u%d","item_id":"%d","ts":%d}'
            % (first + i, nonce[i], u, item[i], start + i),
        )
        for i, u in enumerate(user.tolist())
    ]


def send(bootstrap: str, prefix: str, events: list[tuple[str, bytes, bytes]]) -> None:
    """Send events as fast as librdkafka can."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 20, "batch.size": 262_144, "enable.idempotence": True,
         "partitioner": "murmur2_random", "queue.buffering.max.messages": 2_000_000}
    )  # fmt: skip
    for i, (topic, key, value) in enumerate(events):
        producer.produce(prefix + topic, value, key)
        if not i % 5000:
            producer.poll(0)
    producer.flush(120)


def cpu_s(process: psutil.Process) -> float:
    """Return the seconds of CPU that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


class Drained:
    """The figures of a worker between the first and the last tenth of its outputs."""

    def __init__(self, samples: np.ndarray, n: int) -> None:
        at = np.array([0.1, 0.9]) * n
        times, worker, broker = (np.interp(at, samples[:, 1], samples[:, c]) for c in (0, 2, 3))
        self.events_s = float(0.8 * n / max(np.diff(times)[0], 1e-3))
        self.cpu_us = float(np.diff(worker)[0] / (0.8 * n) * 1e6)
        self.broker_us = float(np.diff(broker)[0] / (0.8 * n) * 1e6)

    def figures(self) -> dict[str, float]:
        """Return the figures as they are printed."""
        return {
            "events_s": round(self.events_s),
            "cpu_us": round(self.cpu_us, 2),
            "broker_us": round(self.broker_us, 2),
        }


class Run:
    """A worker process with its own topics."""

    #: The code that Python runs as the `foreclick` command.
    program: tuple[str, ...] = ("-c", "from stream_app.cli import main; main()")

    def __init__(
        self, broker: EmbeddedKafka, folder: Path, prefix: str, model: Path | None, **more: Any
    ) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        settings = {"brokers": broker.bootstrap, "topic_prefix": prefix, "group": f"{prefix}g", **more}
        self.settings = load_settings(env={}, options=settings)
        self.topics = SHOP.of(self.settings)
        asyncio.run(ensure_topics(self.settings, self.topics))
        self.folder, self.model, self.more, self.broker = folder, model, more, broker
        self.broker_stats = psutil.Process(broker.pid)

    def start(self) -> None:
        """Start the process."""
        env = {
            "FORECLICK_BROKERS": self.broker.bootstrap,
            "FORECLICK_TOPIC_PREFIX": self.settings.topic_prefix,
            "FORECLICK_GROUP": self.settings.group,
            "FORECLICK_WEB": f"127.0.0.1:{self.port}",
            "FORECLICK_DATA_DIR": str(self.folder),
            **({"FORECLICK_MODEL": str(self.model)} if self.model else {}),
            **{f"FORECLICK_{k.upper()}": str(v) for k, v in self.more.items()},
        }
        log = (self.folder / "worker.log").open("wb")
        command = [sys.executable, *self.program, "worker"]
        self.process = subprocess.Popen(command, env={**os.environ, **env}, stdout=log, stderr=log)
        self.stats = psutil.Process(self.process.pid)

    def metrics(self) -> dict[str, float]:
        """Return every sample of /metrics by its full name; empty while the worker does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if self.process.poll() is not None:
                raise SystemExit((self.folder / "worker.log").read_text()[-3000:]) from None
            return {}
        return {n: float(v) for n, v in (x.rsplit(" ", 1) for x in lines if not x.startswith("#"))}

    def done(self) -> float:
        """Return the number of predictions acknowledged so far."""
        return self.metrics().get(
            f'foreclick_outputs_total{{topic="{self.topics.outputs["predictions"]}"}}', 0
        )

    def wait(self, n: int, limit_s: float = 300) -> "Drained":
        """Wait until n predictions are acknowledged; return the figures."""
        end = time.monotonic() + limit_s
        samples: list[tuple[float, float, float, float]] = []  # time, predictions, CPU of worker and broker
        while not samples or samples[-1][1] < n:
            if time.monotonic() > end:
                raise SystemExit(f"waited {limit_s} s for {n} predictions")
            done = self.done()
            samples.append((time.monotonic(), done, cpu_s(self.stats), cpu_s(self.broker_stats)))
            time.sleep(0.1)
        return Drained(np.array(samples), n)

    def wait_metric(self, name: str, value: float, limit_s: float = 120) -> None:
        """Wait until a metric of the worker has this value."""
        end = time.monotonic() + limit_s
        while self.metrics().get(name) != value:
            if time.monotonic() > end:
                raise SystemExit(f"waited {limit_s} s for {name} to be {value:g}")
            time.sleep(0.2)

    def wait_ready(self) -> None:
        """Wait until the worker is ready."""
        self.wait_metric("foreclick_ready", 1)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self.process.kill()
        self.process.wait(60)

    def stop(self) -> None:
        """Send SIGTERM and wait for the end."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def read_times(bootstrap: str, topic: str, keep_ids: bool | str = False) -> tuple[np.ndarray, list[str]]:
    """Return the append times (ms) of all records of a topic, and their ids."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "x", "enable.auto.commit": False})
    parts = consumer.list_topics(topic, timeout=20).topics[topic].partitions
    ends = {p: consumer.get_watermark_offsets(Place(topic, p), timeout=20)[1] for p in parts}
    consumer.assign([Place(topic, p, 0) for p in parts])
    times: list[int] = []
    ids: list[str] = []
    while len(times) < sum(ends.values()):
        for m in consumer.consume(10_000, timeout=1.0):
            times.append(m.timestamp()[1])
            if keep_ids:
                ids.append(
                    f"{topic}-{m.partition()}-{m.offset()}"
                    if keep_ids == "place"
                    else json.loads(m.value())["id"]
                )
    consumer.close()
    return np.array(times), ids
