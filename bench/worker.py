"""The worker on a real Kafka: rate from a backlog, latency at a steady rate, memory by users.

    python bench/worker.py backlog [--model] [--events 1000000] [--users 20000] [--compression lz4]
    python bench/worker.py latency [--model] [--rate 2000] [--seconds 60]
    python bench/worker.py memory  [--model] [--users 100000]

Broker, producer and worker share this machine. `backlog` runs a bare consume-and-produce loop of aiokafka on the
same records first (no decoding, no state), so that its figures have a floor from the same minutes. With `--model`
the worker has an untrained GRU of width 128 with 40,000 items (weights do not change the cost).

Users by Zipf 1.1 (the first makes 14 % of the events), 70 % clicks, 20 % browses, 10 % purchases, JSON of about
110 bytes, event time advancing 1 ms an event. Rates are taken from the broker's append times of the outputs.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient, NewTopic

from stream_app.broker import EmbeddedKafka
from stream_app.settings import load_settings
from stream_app.topics import ensure_topics

ITEMS = 40_000
TOPICS = ("clicks", "browses", "purchases")


def values(n: int, users: int, seed: int = 7) -> list[tuple[str, bytes, bytes]]:
    """(topic, key, value) of n events."""
    random = np.random.default_rng(seed)
    weight = 1.0 / np.arange(1, users + 1) ** 1.1
    user = random.choice(users, n, p=weight / weight.sum()).tolist()
    kind = random.choice(3, n, p=[0.7, 0.2, 0.1]).tolist()
    popularity = 1.0 / np.arange(1, ITEMS + 1)
    item = random.choice(ITEMS, n, p=popularity / popularity.sum()).tolist()
    nonce = random.integers(0, 2**40, n).tolist()
    start = int(time.time() * 1000) - n
    return [
        (
            TOPICS[kind[i]],
            b"u%d" % user[i],
            b'{"event_id":"%08d-%010x","user_id":"u%d","item_id":"%d","ts":%d}'
            % (i, nonce[i], user[i], item[i], start + i),
        )
        for i in range(n)
    ]


def send(bootstrap: str, prefix: str, events: list[tuple[str, bytes, bytes]]) -> None:
    """Produces events as fast as librdkafka does."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 20, "batch.size": 262_144, "enable.idempotence": True,
         "partitioner": "murmur2_random", "queue.buffering.max.messages": 2_000_000}
    )  # fmt: skip
    for i, (topic, key, value) in enumerate(events):
        producer.produce(prefix + topic, value, key)
        if not i % 5000:
            producer.poll(0)
    producer.flush(120)


class Run:
    """A worker process on topics of its own."""

    def __init__(
        self, broker: EmbeddedKafka, folder: Path, prefix: str, model: Path | None, **more: Any
    ) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        settings = {"brokers": broker.bootstrap, "topic_prefix": prefix, "group": f"{prefix}g", **more}
        self.settings = load_settings(env={}, options=settings)
        asyncio.run(ensure_topics(self.settings))
        self.folder, self.model, self.more, self.broker = folder, model, more, broker

    def start(self) -> None:
        """Starts the process."""
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
        command = [sys.executable, "-c", "from stream_app.cli import main; main()", "worker"]
        self.process = subprocess.Popen(command, env={**os.environ, **env}, stdout=log, stderr=log)
        self.stats = psutil.Process(self.process.pid)

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its full name, empty while the worker does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if self.process.poll() is not None:
                raise SystemExit((self.folder / "worker.log").read_text()[-3000:]) from None
            return {}
        return {n: float(v) for n, v in (x.rsplit(" ", 1) for x in lines if not x.startswith("#"))}

    def wait(self, n: int, limit_s: float = 300) -> None:
        """Until n predictions are acknowledged."""
        end = time.monotonic() + limit_s
        name = f'foreclick_outputs_total{{topic="{self.settings.outputs[0]}"}}'
        while self.metrics().get(name, 0) < n:
            if time.monotonic() > end:
                raise SystemExit(f"waited {limit_s} s for {n} predictions")
            time.sleep(0.5)

    def wait_ready(self, limit_s: float = 120) -> None:
        """Until the worker is ready."""
        end = time.monotonic() + limit_s
        while self.metrics().get("foreclick_ready") != 1:
            if time.monotonic() > end:
                raise SystemExit(f"waited {limit_s} s for the worker to be ready")
            time.sleep(0.2)

    def stop(self) -> None:
        """SIGTERM, and waits for the end."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def read_times(bootstrap: str, topic: str, keep_ids: bool = False) -> tuple[np.ndarray, list[str]]:
    """Append times (ms) of all records of a topic, and their ids."""
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


async def floor(bootstrap: str, prefix: str, n: int) -> dict[str, float]:
    """aiokafka alone: read all records, send each back in ready-made batches."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, max_batch_size=1 << 19
    )
    await consumer.start()
    await producer.start()
    tps = [TopicPartition(prefix + t, p) for t in TOPICS for p in range(4)]
    consumer.assign(tps)
    for tp in tps:
        consumer.seek(tp, 0)
    cpu, start, seen, futures = time.process_time(), time.perf_counter(), 0, []
    while seen < n:
        for tp, records in (await consumer.getmany(timeout_ms=500)).items():
            i = 0
            while i < len(records):
                batch = producer.create_batch()
                while i < len(records) and batch.append(
                    key=records[i].key, value=records[i].value, timestamp=None
                ):
                    i += 1
                futures.append(await producer.send_batch(batch, f"{prefix}floor", partition=tp.partition))
            seen += len(records)
    await asyncio.gather(*futures)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    await consumer.stop()
    await producer.stop()
    return {"events_s": n / seconds, "cpu_us": cpu / n * 1e6}


def backlog(
    broker: EmbeddedKafka, folder: Path, args: argparse.Namespace, model: Path | None
) -> dict[str, Any]:
    run = Run(broker, folder, "b-", model, compression=args.compression, commit_interval_ms=args.commit_ms)
    send(broker.bootstrap, "b-", values(args.events, args.users))
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for future in admin.create_topics([NewTopic("b-floor", 4, 1)]).values():
        future.result(20)
    bare = asyncio.run(floor(broker.bootstrap, "b-", args.events))
    run.start()
    run.wait_ready()
    begin = run.stats.cpu_times()
    run.wait(args.events)
    used = run.stats.cpu_times()
    rss = run.stats.memory_info().rss
    stages = {k: v for k, v in run.metrics().items() if k.startswith("foreclick_stage_seconds_sum")}
    done = float(run.metrics()["foreclick_batch_events_sum"])
    run.stop()
    times, _ = read_times(broker.bootstrap, "b-predictions")
    assert len(times) == args.events, f"{len(times)} predictions for {args.events} events"
    times.sort()
    # The first and the last tenth are left out: warming up, and waiting for the end of the topics.
    inner = times[len(times) // 10 : -len(times) // 10]
    rate = len(inner) / max((inner[-1] - inner[0]) / 1000, 1e-3)
    total = sum(used[:2]) - sum(begin[:2])
    return {
        "events_s": round(rate), "floor_events_s": round(bare["events_s"]),
        "of_floor": round(rate / bare["events_s"], 2),
        "cpu_us_whole_run": round(sum(used[:2]) / args.events * 1e6, 1),
        "cpu_us_after_ready": round(total / args.events * 1e6, 1),
        "floor_cpu_us": round(bare["cpu_us"], 1), "rss_mb": round(rss / 1e6),
        "us_an_event": {k.split('"')[1]: round(v / done * 1e6, 2) for k, v in stages.items()},
    }  # fmt: skip


def latency(
    broker: EmbeddedKafka, folder: Path, args: argparse.Namespace, model: Path | None
) -> dict[str, Any]:
    run = Run(broker, folder, "l-", model, compression=args.compression)
    run.start()
    run.wait_ready()
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap, "linger.ms": 0, "partitioner": "murmur2_random"}
    )
    events = values(int(args.rate * args.seconds), args.users)
    start = time.perf_counter()
    for i, (topic, key, value) in enumerate(events):
        due = start + i / args.rate
        while (left := due - time.perf_counter()) > 0:
            producer.poll(0)
            time.sleep(min(left, 0.002))
        producer.produce(f"l-{topic}", value, key)
    producer.flush(60)
    run.wait(len(events))
    run.stop()
    source: dict[str, int] = {}
    for topic in TOPICS:
        times, ids = read_times(broker.bootstrap, f"l-{topic}", "place")
        source.update(zip(ids, times.tolist(), strict=True))
    times, ids = read_times(broker.bootstrap, "l-predictions", True)
    ms = np.array([t - source[i] for t, i in zip(times.tolist(), ids, strict=True)])
    ms = ms[len(ms) // 10 :]
    q = np.percentile(ms, [50, 99, 99.9])
    return {"rate": args.rate, "p50_ms": q[0], "p99_ms": q[1], "p99_9_ms": q[2], "max_ms": int(ms.max())}


def memory(
    broker: EmbeddedKafka, folder: Path, args: argparse.Namespace, model: Path | None
) -> dict[str, Any]:
    run = Run(broker, folder, "m-", model)
    run.start()
    run.wait_ready()
    empty = run.stats.memory_info().rss
    now = int(time.time() * 1000) - 200_000
    events = [
        (
            "clicks",
            b"u%d" % u,
            b'{"user_id":"u%d","item_id":"%d","ts":%d}' % (u, (u * 7 + j) % ITEMS, now + j),
        )
        for j in range(2)
        for u in range(args.users)
    ]
    send(broker.bootstrap, "m-", events)
    run.wait(len(events))
    time.sleep(2)
    full = run.stats.memory_info().rss
    run.stop()
    return {
        "users": args.users, "rss_mb": round(full / 1e6), "rss_mb_empty": round(empty / 1e6),
        "bytes_a_user": round((full - empty) / args.users),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("backlog", "latency", "memory"))
    parser.add_argument("--model", action="store_true", help="with a GRU of width 128 and 40,000 items")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=2000.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--compression", default="none")
    parser.add_argument("--commit-ms", type=int, default=500)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = None
        if args.model:
            from bench.model_step import write_model

            model = write_model(ITEMS, folder / "model")
        with EmbeddedKafka(folder / "kafka") as broker:
            result = {"backlog": backlog, "latency": latency, "memory": memory}[args.what](
                broker, folder, args, model
            )
    print(json.dumps({"what": args.what, "model": bool(model), **result}, default=float))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
