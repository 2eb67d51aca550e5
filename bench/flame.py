"""Flame graphs of the jobs: they show where a worker spends its time while it drains a backlog.

    python bench/flame.py [--jobs j1,j2] [--events 3000000] [--out bench/profiles]

py-spy takes samples of Python and compiled frames for some seconds in the middle of the run. The script writes one
SVG per job, and prints the shares of the samples by thread and by innermost function.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from bench.peers import generate
from stream_app.lab.broker import EmbeddedKafka

PARTITIONS = 4
LIMIT_S = 120.0
RATE = 250  # samples per second
#: Innermost functions of threads that wait.
IDLE = ("_worker (concurrent/futures/thread.py", "EpollSelector.select", "wait (threading.py")


def outputs(admin: AdminClient, topic: str) -> int:
    """Return the number of records in a topic."""
    wanted = {TopicPartition(topic, p): OffsetSpec.latest() for p in range(PARTITIONS)}
    try:
        return sum(f.result().offset for f in admin.list_offsets(wanted).values())
    except KafkaException:  # a new topic has no leader yet
        return 0


def sample(job: str, broker: EmbeddedKafka, folder: Path, out: Path, seconds: int) -> dict[str, object]:
    """Profile one job; return the shares of the samples."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for made in admin.create_topics([NewTopic(f"out-{job}", PARTITIONS, 1)]).values():
        made.result(30)
    env = {
        **os.environ, "BROKER": broker.bootstrap, "IN": "in", "OUT": f"out-{job}", "RID": f"flame-{job}",
        "STATE": str(folder / job), "PYTHONPATH": str(Path(__file__).parents[1]),
    }  # fmt: skip
    worker = subprocess.Popen([sys.executable, "-m", f"bench.jobs.{job}"], env=env, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + LIMIT_S
        while outputs(admin, f"out-{job}") == 0:
            if time.monotonic() > end or worker.poll() is not None:
                raise SystemExit(f"waited {LIMIT_S} s for the first output of {job}")
            time.sleep(0.05)
        raw, svg = folder / f"{job}.raw", out / f"{job}.svg"
        spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(worker.pid), "--threads",
               "--native", "--rate", str(RATE), "--duration", str(seconds)]  # fmt: skip
        both = [
            subprocess.Popen([*spy, "--format", form, "--output", str(path)], stdout=subprocess.DEVNULL)
            for form, path in (("raw", raw), ("flamegraph", svg))
        ]
        for each in both:
            if each.wait(seconds + 60):
                raise SystemExit("py-spy failed")
    finally:
        worker.terminate()
        worker.wait(60)
    # The title is py-spy's command line, which names places on this machine.
    svg.write_text(re.sub(r">[^<]*py-spy record[^<]*<", f">foreclick bench job {job}<", svg.read_text()))
    return shares(raw.read_text().splitlines())


def shares(lines: list[str]) -> dict[str, object]:
    """Return the shares of the samples by thread, and by the innermost Python function of each thread."""
    threads: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        own = [f for f in frames if ".py" in f]
        if not own or own[-1].startswith(IDLE):
            continue
        threads[frames[0]] += int(count)
        places[own[-1]] += int(count)
    total = sum(threads.values())
    return {
        "threads": {name: round(n / total, 3) for name, n in threads.most_common(6)},
        "functions": {name: round(n / total, 3) for name, n in places.most_common(20)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", default="j1,j2")
    parser.add_argument("--events", type=int, default=4_000_000)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "profiles")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, EmbeddedKafka(Path(name) / "kafka") as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        for made in admin.create_topics([NewTopic("in", PARTITIONS, 1)]).values():
            made.result(30)
        generate.produce(
            broker.bootstrap, "in", generate.traffic(args.events, generate.recent_start(args.events))
        )
        for job in args.jobs.split(","):
            print(
                json.dumps({"job": job, **sample(job, broker, Path(name), args.out, args.seconds)}),
                flush=True,
            )


if __name__ == "__main__":
    main()
