"""The worker on a real Kafka: rate from a backlog, latency at a steady rate, memory by users.

    python bench/worker.py backlog [--model] [--events 1000000] [--users 20000] [--compression lz4]
    python bench/worker.py latency [--model] [--rate 2000] [--seconds 60]
    python bench/worker.py memory  [--model] [--users 100000]

Broker, producer and worker share this machine. `backlog` runs a bare consume-and-produce loop of aiokafka on the
same records first (no decoding, no state), to get a lower limit of the cost from the same minutes. With `--model`
the worker has an untrained GRU of width 128 with 40,000 items (weights do not change the cost).

Users by Zipf 1.1 (the first makes 14 % of the events), 70 % clicks, 20 % browses, 10 % purchases, JSON of about
110 bytes, event time advancing 1 ms per event. Rates are taken from the broker's append times of the outputs.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from bench.running import ITEMS, TOPICS, Run, read_times, send, values
from stream_app.lab.broker import EmbeddedKafka


async def floor(bootstrap: str, prefix: str, n: int) -> dict[str, float]:
    """Measure aiokafka alone: read all records, send each back in batches that this loop fills itself."""
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
    drained = run.wait(args.events)
    rss = run.stats.memory_info().rss
    stages = {k: v for k, v in run.metrics().items() if k.startswith("foreclick_stage_seconds_sum")}
    done = float(run.metrics()["foreclick_batch_events_sum"])
    run.stop()
    _, ids = read_times(broker.bootstrap, "b-predictions", True)
    assert len(ids) == len(set(ids)) == args.events, f"{len(set(ids))} predictions for {args.events} events"
    return {
        **drained.figures(), "floor_events_s": round(bare["events_s"]), "floor_cpu_us": round(bare["cpu_us"], 1),
        "of_floor": round(drained.events_s / bare["events_s"], 2), "rss_mb": round(rss / 1e6),
        "us_an_event": {k.split('"')[1]: round(v / done * 1e6, 2) for k, v in stages.items()},
    }  # fmt: skip


def latency(
    broker: EmbeddedKafka, folder: Path, args: argparse.Namespace, model: Path | None
) -> dict[str, Any]:
    run = Run(broker, folder, "l-", model, compression=args.compression)
    run.start()
    run.wait_ready()
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap, "linger.ms": 5, "partitioner": "murmur2_random"}
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
    main()
