"""How the worker behaves when something grows, breaks or slows down, on a real Kafka.

    python bench/goals.py recovery [--users 1000000]   state read back after a kill, up to the first new output
    python bench/goals.py recovery --memory-held 4     the same, with memory that the host has already given
    python bench/goals.py growth                       CPU per event by resident users, by partitions, by workers
    python bench/goals.py skew                         one user with 15 % of all events against none
    python bench/goals.py slow                         the model ten times as slow for a while
    python bench/goals.py slow-broker                  a broker that is stopped nine tenths of the time for a while
    python bench/goals.py latency [--rate 50000] [--seconds 300]   job 2 at a steady rate: append to readable answer

All runs use an untrained GRU of width 128 and 40,000 items, with one prediction per event. Each run checks that there
are exactly as many distinct predictions as events.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from confluent_kafka.admin import AdminClient, NewTopic

from bench import steady
from bench.answers import delays, read
from bench.model_step import write_model
from bench.peers import generate
from bench.running import ITEMS, Drained, Run, cpu_s, read_times, send, values
from stream_app.lab.broker import EmbeddedKafka


def check(run: Run, n: int) -> None:
    """Raise an error unless there is exactly one prediction for each of n events."""
    _, ids = read_times(run.broker.bootstrap, run.topics.outputs["predictions"], True)
    assert len(set(ids)) == n, f"{len(set(ids))} different predictions for {n} events"


@contextmanager
def started(run: Run) -> Iterator[Run]:
    """Provide a worker that is ready, and end it after the block."""
    run.start()
    try:
        run.wait_ready()
        yield run
    finally:
        run.kill()


def backlog(run: Run, events: list[tuple[str, bytes, bytes]], already: int = 0) -> Drained:
    """Send events and return how fast a waiting worker processes them; `already` events were sent before."""
    send(run.broker.bootstrap, run.settings.topic_prefix, events)
    with started(run):
        drained = run.wait(len(events))
        run.stop()
    check(run, already + len(events))
    return drained


@contextmanager
def held(gib: int) -> Iterator[None]:
    """Hold so many GiB of memory until the block ends, so that this machine has them afterwards.

    A virtual machine may return free memory to its host, and must then request each page again.
    """
    fill = f"import numpy, sys; kept = numpy.ones({gib << 30}, 'u1'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", fill], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        holder.stdout.readline()
        yield  # the block closes the input of the process, which then ends


def recovery(broker: EmbeddedKafka, folder: Path, model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure changelog records per second, and seconds from the start to the first new prediction."""
    run = Run(broker, folder, "r-", model)
    send(broker.bootstrap, "r-", values(args.users, args.users))
    run.start()
    run.wait(args.users, 600)
    time.sleep(3 * run.settings.commit_interval_ms / 1000)  # the last checkpoint
    run.kill()
    more = values(10_000, 10_000, first=args.users)
    send(broker.bootstrap, "r-", more)
    with held(args.memory_held):
        begin = time.monotonic()
        run.start()
        run.wait_metric("foreclick_rebalances_total", 1)  # it has its partitions
    run.wait(1)
    first = time.monotonic() - begin
    run.wait(len(more))
    m = run.metrics()
    run.stop()
    check(run, args.users + len(more))
    records, seconds = m["foreclick_recovered_records_total"], m["foreclick_recovery_seconds_total"]
    return {
        "users": args.users, "records": round(records), "recovery_s": round(seconds, 2),
        "records_s": round(records / seconds), "restart_to_first_output_s": round(first, 2),
    }  # fmt: skip


def growth(broker: EmbeddedKafka, folder: Path, model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure CPU per event for growing numbers of users, partitions and workers."""
    out: dict[str, Any] = {}
    for users in (10_000, 1_000_000):
        run = Run(broker, folder, f"u{users}-", model)
        residents = values(users, users)
        send(broker.bootstrap, run.settings.topic_prefix, residents)
        with started(run):
            run.wait(users, 600)
            events = values(args.events, users - 1, share=0.0, first=users)
            before = run.done()
            samples: list[tuple[float, ...]] = []
            sender = threading.Thread(target=send, args=(broker.bootstrap, run.settings.topic_prefix, events))
            sender.start()
            sender.join()
            while not samples or samples[-1][1] < len(events):
                samples.append((time.monotonic(), run.done() - before, cpu_s(run.stats), 0.0))
                time.sleep(0.1)
            run.stop()
        check(run, users + len(events))
        out[f"{users}_users"] = Drained(np.array(samples), len(events)).figures()
    for partitions in (4, 64):
        run = Run(broker, folder, f"p{partitions}-", model, partitions=partitions)
        out[f"{partitions}_partitions"] = backlog(run, values(args.events, 20_000)).figures()
    return out | workers(broker, folder, model, args)


def workers(broker: EmbeddedKafka, folder: Path, model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Compare two workers of one group with one worker, on the same cores."""
    out = {}
    for count in (1, 2):
        (folder / f"w{count}").mkdir()
        runs = []
        for i in range(count):
            place = folder / f"w{count}" / str(i)
            place.mkdir()
            runs.append(Run(broker, place, f"w{count}-", model))
        for run in runs:
            run.start()
        for run in runs:
            run.wait_ready()
        events = values(args.events, 20_000)
        begin_cpu = [cpu_s(run.stats) for run in runs]
        begin_broker = cpu_s(runs[0].broker_stats)
        send(broker.bootstrap, f"w{count}-", events)
        end = time.monotonic() + 300
        while sum(run.done() for run in runs) < len(events):
            if time.monotonic() > end:
                raise SystemExit("waited 300 s for the workers")
            time.sleep(0.1)
        cpu = sum(cpu_s(run.stats) for run in runs) - sum(begin_cpu)
        broker_cpu = cpu_s(runs[0].broker_stats) - begin_broker
        for run in runs:
            run.stop()
        check(runs[0], len(events))
        times, _ = read_times(broker.bootstrap, f"w{count}-predictions")
        times = np.sort(times)[len(times) // 10 : -len(times) // 10]
        out[f"{count}_workers"] = {
            "events_s": round(len(times) / (times[-1] - times[0]) * 1000),
            "cpu_us": round(cpu / len(events) * 1e6, 2),
            "broker_us": round(broker_cpu / len(events) * 1e6, 2),
        }
    return out


def skew(broker: EmbeddedKafka, folder: Path, model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Compare the rate with one user who makes 15 % of all events with that without such a user, two rounds each."""
    rates: dict[float, list[float]] = {0.0: [], 0.15: []}
    for round_ in range(2):
        for share, found in rates.items():
            run = Run(broker, folder, f"s{round_}-{share}-", model)
            found.append(backlog(run, values(args.events, 20_000, share=share)).events_s)
    even, heavy = (float(np.median(found)) for found in rates.values())
    return {"even_events_s": round(even), "heavy_events_s": round(heavy), "ratio": round(heavy / even, 2)}


def slow(broker: EmbeddedKafka, folder: Path, model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a worker whose model is ten times as slow for a while."""
    flag = folder / "slow"
    os.environ["SLOW_WHILE"] = str(flag)
    Run.program = (str(Path(__file__).parent / "slow_worker.py"),)

    @contextmanager
    def slowness() -> Iterator[None]:
        flag.touch()
        try:
            yield
        finally:
            flag.unlink()

    return disturbed(Run(broker, folder, "x-", model), args.events, slowness())


def slow_broker(broker: EmbeddedKafka, folder: Path, model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a worker whose broker is stopped nine tenths of the time for a while."""

    @contextmanager
    def slowness() -> Iterator[None]:
        over, process = threading.Event(), psutil.Process(broker.pid)

        def pulses() -> None:
            while not over.is_set():
                process.suspend()
                over.wait(0.27)
                process.resume()
                over.wait(0.03)

        pulsing = threading.Thread(target=pulses)
        pulsing.start()
        try:
            yield
        finally:
            over.set()
            pulsing.join()

    return disturbed(Run(broker, folder, "x-", model), args.events, slowness())


def disturbed(run: Run, events: int, slowness: AbstractContextManager[None]) -> dict[str, Any]:
    """Return rates and memory before, while and after something is slow, rebalances, and seconds to full speed."""
    records = values(4 * events, 20_000)
    send(run.broker.bootstrap, run.settings.topic_prefix, records)
    samples: list[tuple[float, float, float]] = []  # seconds, predictions, MB

    def watch(until_s: float) -> None:
        while (now := time.monotonic() - begin) < until_s and run.done() < len(records):
            samples.append((now, run.done(), run.stats.memory_info().rss / 1e6))
            time.sleep(0.1)

    with started(run):
        while run.done() < len(records) // 20:
            time.sleep(0.05)
        begin = time.monotonic()
        watch(4)
        with slowness:
            watch(24)
        watch(60)
        rebalances = run.metrics()["foreclick_rebalances_total"]
        run.wait(len(records))
        run.stop()
    check(run, len(records))
    t, done, mb = np.array(samples).T

    def rate(a: float, b: float) -> float:
        return float(np.diff(np.interp([a, b], t, done))[0] / (b - a))

    before, during = rate(0.5, 3.5), rate(8, 22)
    back = next((a for a in np.arange(24, t[-1] - 1, 0.1) if rate(a, a + 1) > 0.8 * before), float("nan"))
    return {
        "before_events_s": round(before), "slow_events_s": round(during), "factor": round(before / during, 1),
        "full_speed_after_s": round(float(back) - 24, 1), "rebalances": round(rebalances),
        "mb_before": round(float(mb[t < 4].max())), "mb_slow": round(float(mb[(t > 4) & (t < 24)].max())),
    }  # fmt: skip


def latency(broker: EmbeddedKafka, folder: Path, model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the ms from the append of an event to the append of its prediction, both by the broker's clock."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    own_time = {"message.timestamp.type": "LogAppendTime"}
    for made in admin.create_topics([NewTopic(t, 4, 1, config=own_time) for t in ("in", "out")]).values():
        made.result(30)
    env = {
        **os.environ, "BROKER": broker.bootstrap, "IN": "in", "OUT": "out", "RID": "latency", "MODEL": str(model),
        "STATE": str(folder / "state"),
    }  # fmt: skip
    worker = subprocess.Popen([sys.executable, "-m", "bench.jobs.j2"], env=env, stderr=subprocess.DEVNULL)
    n = int(args.rate * args.seconds)
    traffic = steady.by_partition(generate.records(generate.traffic(n, generate.recent_start(n))), 4)
    try:
        time.sleep(15)  # start-up; its events fall into the first tenth, which is not measured
        processes = {
            "": psutil.Process(worker.pid),
            "broker_": psutil.Process(broker.pid),
            "sender_": psutil.Process(),
        }
        cpu = {name: cpu_s(process) for name, process in processes.items()}
        spent = asyncio.run(steady.send(broker.bootstrap, "in", traffic, args.rate))
        cpu = {name: cpu_s(process) - cpu[name] for name, process in processes.items()}
        time.sleep(3)
    finally:
        worker.terminate()
        worker.wait(60)
    appended, ms = delays(read(broker.bootstrap, "in", 4), read(broker.bootstrap, "out", 4), 4)
    assert len(ms) == n and (ms >= 0).all(), f"{int((ms >= 0).sum())} of {n} events have a prediction"
    ms = ms[appended > np.quantile(appended, 0.1)]
    p50, p99, p999 = np.percentile(ms, [50, 99, 99.9]).tolist()
    return {
        "rate": round(n / spent), "seconds": round(spent), "p50_ms": p50, "p99_ms": p99, "p99_9_ms": p999,
        "max_ms": int(ms.max()), **{f"{name}cpu_us": round(used / n * 1e6, 1) for name, used in cpu.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = {
        "recovery": recovery,
        "growth": growth,
        "workers": workers,
        "skew": skew,
        "slow": slow,
        "slow-broker": slow_broker,
        "latency": latency,
    }
    parser.add_argument("what", choices=kinds)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--memory-held", type=int, default=0, metavar="GIB")
    parser.add_argument("--rate", type=float, default=50_000)
    parser.add_argument("--seconds", type=float, default=300)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(ITEMS, folder / "model")
        with EmbeddedKafka(folder / "kafka") as broker:
            result = kinds[args.what](broker, folder, model, args)
    print(json.dumps({"what": args.what, **result}))


if __name__ == "__main__":
    main()
