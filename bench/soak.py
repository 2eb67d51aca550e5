"""Runs a worker for hours at a steady rate; checks that memory and descriptors stay flat and every event is answered.

    python -m bench.soak [--minutes 60] [--rate 5000] [--guarantee at_least_once] [--plot docs/soak.png]

A worker with an untrained GRU of width 128 and 40,000 items, 20,000 users by Zipf 1.1, three topics of four
partitions; broker and sender on the same machine. Each user and each item occurs once before the measurement starts,
so later growth does not come from a table that fills. A sample is taken every 5 s: memory, descriptors, threads, lag,
predictions per second, p99 from append to acknowledged prediction. All topics except the changelog keep records for
a few minutes; a reader follows the predictions and counts those of each event.

The exit code is 1 if an event does not have exactly one prediction, or if a line through the last three quarters of
the samples rises: memory by 2 % of its mean per hour, descriptors by one. A rise of memory by 0.5 % in all is
always allowed; in runs shorter than 20 minutes that is more than the limit, so they show little.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from bench import running
from bench.model_step import write_model
from bench.peers.environments import python_of
from bench.running import ITEMS, TOPICS, Run
from bench.soak_traffic import PARTITIONS, PREFIX, USERS, Follower, Sender, value
from stream_app.errors import ForeclickError
from stream_app.lab.broker import EmbeddedKafka

EVERY_S = 5.0
KEPT = {"retention.ms": "180000", "segment.ms": "30000", "file.delete.delay.ms": "1000"}
LAST_S = 120.0  # time limit for the last predictions
RISE_AN_HOUR, WAVER, ROOT = 0.02, 0.005, Path(__file__).parents[1]
FIELDS = ("seconds", "rss_mb", "fds", "threads", "lag", "predictions_s", "p99_ms")


def ends_of(bootstrap: str) -> dict[tuple[int, int], int]:
    """Return the end offset of each partition of the inputs."""
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "soak-ends"})
    try:
        places = {(k, p): Place(PREFIX + t, p) for k, t in enumerate(TOPICS) for p in range(PARTITIONS)}
        return {at: reader.get_watermark_offsets(place, timeout=20)[1] for at, place in places.items()}
    finally:
        reader.close()


def p99_ms(before: dict[str, float], after: dict[str, float]) -> float:
    """Return the 99th percentile of the latencies between two readings of the metrics, NaN if there are none."""
    name = 'foreclick_latency_seconds_bucket{le="'
    bounds = sorted((float(k[len(name) : -2]), k) for k in after if k.startswith(name))
    counts = np.array([after[k] - before.get(k, 0.0) for _, k in bounds])
    if not len(counts) or counts[-1] <= 0:
        return float("nan")
    upper = np.minimum([bound for bound, _ in bounds], bounds[-2][0])
    return float(np.interp(0.99 * counts[-1], [0.0, *counts], [0.0, *upper])) * 1000


class Sampler:
    """Takes samples of a worker, to a list and a file."""

    def __init__(self, run: Run, path: Path) -> None:
        self._run, self._path = run, path
        self._start = self._at = time.monotonic()
        self._last = run.metrics()
        self.rows: list[dict[str, float]] = []

    def take(self) -> dict[str, float]:
        """Take one sample."""
        now, metrics, stats = time.monotonic(), self._run.metrics(), self._run.stats
        done = f'foreclick_outputs_total{{topic="{self._run.topics.outputs["predictions"]}"}}'
        row = {
            "seconds": round(now - self._start, 1),
            "rss_mb": round(stats.memory_info().rss / 1e6, 2),
            "fds": stats.num_fds(),
            "threads": stats.num_threads(),
            "lag": sum(v for k, v in metrics.items() if k.startswith("foreclick_consumer_lag_records")),
            "predictions_s": round((metrics.get(done, 0) - self._last.get(done, 0)) / (now - self._at)),
            "p99_ms": round(p99_ms(self._last, metrics), 1),
        }
        self._at, self._last = now, metrics
        self.rows.append(row)
        with self._path.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(self.rows)
        return row


def judge(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Return the slopes over the last three quarters, and whether memory and descriptors are flat."""
    late = [row for row in rows if row["seconds"] >= rows[-1]["seconds"] / 4]
    hours = np.array([row["seconds"] for row in late]) / 3600
    slope = {f: float(np.polyfit(hours, [r[f] for r in late], 1)[0]) for f in ("rss_mb", "fds", "threads")}
    mean = float(np.mean([row["rss_mb"] for row in late]))
    span = float(hours[-1] - hours[0])
    return {
        "rss_mb": round(mean), "rss_percent_an_hour": round(100 * slope["rss_mb"] / mean, 2),
        "memory_flat": slope["rss_mb"] * span < mean * max(RISE_AN_HOUR * span, WAVER),
        "fds_an_hour": round(slope["fds"], 2), "fds_flat": slope["fds"] * span < 1,
        "threads_an_hour": round(slope["threads"], 2),
        "predictions_s": round(float(np.mean([row["predictions_s"] for row in late]))),
        "p99_ms": round(float(np.nanmedian([row["p99_ms"] for row in late])), 1),
        "lag_most": max(row["lag"] for row in late),
    }  # fmt: skip


def keep_little(bootstrap: str, topics: list[str]) -> None:
    """Set a retention of minutes for topics."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    entries = [ConfigEntry(n, v, incremental_operation=AlterConfigOpType.SET) for n, v in KEPT.items()]
    asked = [ConfigResource(ResourceType.TOPIC, t, incremental_configs=entries) for t in topics]
    for done in admin.incremental_alter_configs(asked).values():
        done.result(30)


def soak(broker: EmbeddedKafka, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run the whole measurement."""
    model = write_model(ITEMS, folder / "model")
    run = Run(broker, folder, PREFIX, model, partitions=PARTITIONS, guarantee=args.guarantee)
    keep_little(broker.bootstrap, [*run.topics.inputs, *run.topics.outputs.values()])
    isolation = "read_committed" if args.guarantee == "exactly_once" else "read_uncommitted"
    follower = Follower(broker.bootstrap, run.topics.outputs["predictions"], isolation)
    sender = Sender(broker.bootstrap, args.rate)
    run.start()
    try:
        run.wait_ready()
        follower.start()
        now = int(time.time() * 1000) - ITEMS
        everyone = ((i % USERS, i, now + i, b"first-%d" % i) for i in range(ITEMS))
        running.send(broker.bootstrap, PREFIX, [(TOPICS[0], b"u%d" % e[0], value(*e)) for e in everyone])
        run.wait(ITEMS)
        sender.start()
        sampler = Sampler(run, args.csv)
        end = time.monotonic() + args.minutes * 60
        while (left := end - time.monotonic()) > 0 and not (sender.error or follower.error):
            time.sleep(min(EVERY_S, left))
            row = sampler.take()
            if len(sampler.rows) % 12 == 0:
                print(" ".join(f"{name}={n:g}" for name, n in row.items()), file=sys.stderr, flush=True)
        sender.stopped.set()
        sender.join(60)
        ends = ends_of(broker.bootstrap)
        give_up = time.monotonic() + LAST_S
        while follower.seen < sum(ends.values()) and time.monotonic() < give_up and not follower.error:
            time.sleep(0.2)
        run.stop()
        time.sleep(1)  # so that repeats written while the worker stopped are counted too
    finally:
        sender.stopped.set()
        follower.stopped.set()
        if run.process.poll() is None:
            run.kill()
    follower.join(30)
    for thread in (sender, follower):
        if thread.error is not None:
            raise SystemExit(f"the {thread.name} failed: {thread.error!r}")
    return {**judge(sampler.rows), **follower.verdict(ends)}


def draw(args: argparse.Namespace) -> None:
    """Draw the picture in an environment that has matplotlib."""
    title = f"{args.minutes:g} minutes at {args.rate:,.0f} events/s, {args.guarantee}"
    script = Path(__file__).with_name("soak_plot.py")
    try:
        command = [str(python_of("plot")), str(script), str(args.csv), str(args.plot), title]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        trouble = done.stderr.strip()[-500:] if done.returncode else ""
    except (ForeclickError, OSError, subprocess.TimeoutExpired) as error:
        trouble = str(error)
    if trouble:
        print(f"no picture: {trouble}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=5000.0, help="events per second")
    parser.add_argument("--guarantee", choices=("at_least_once", "exactly_once"), default="at_least_once")
    parser.add_argument("--csv", type=Path, default=ROOT / ".foreclick" / "bench" / "soak.csv")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "soak.png")
    args = parser.parse_args()
    for path in (args.csv, args.plot):
        path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        properties = {"log.retention.check.interval.ms": "10000"}
        with EmbeddedKafka(folder / "kafka", properties=properties) as broker:
            result = soak(broker, folder, args)
    draw(args)
    print(json.dumps({"what": "soak", "minutes": args.minutes, "rate": args.rate, **result}, default=float))
    wrong = result["missing"] + result["repeated"] + result["unasked"]
    if wrong or not (result["memory_flat"] and result["fds_flat"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
