"""How long answers stop when a worker dies, joins or leaves, at a steady rate, with many users in the state.

    python -m bench.takeover [--users 100000] [--rate 2000] [--guarantee exactly_once] [--only restart,join]

Measures, for each scene, the seconds from the change to the first answer after it in the affected partitions, and the
longest time without an answer in one of them. Other settings have their defaults. Every run checks that each event
has its answer.
"""

import argparse
import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import steady
from bench.answers import delays, read
from bench.model_step import write_model
from bench.running import ITEMS, Run, send, values
from stream_app.lab.broker import EmbeddedKafka

PARTITIONS = 4
BEFORE_S, AFTER_S = 6.0, 22.0
LIMIT_S = 120.0


class Scene:
    """Some workers of one group that process clicks at a steady rate."""

    def __init__(self, broker: EmbeddedKafka, folder: Path, model: Path, prefix: str, args: Any) -> None:
        self.broker, self.folder, self.model, self.prefix, self.args = broker, folder, model, prefix, args
        self.runs: list[Run] = []

    def add(self, **settings: Any) -> Run:
        """Start a worker."""
        folder = self.folder / f"{self.prefix}{len(self.runs)}"
        folder.mkdir()
        run = Run(self.broker, folder, self.prefix, self.model, guarantee=self.args.guarantee, **settings)
        run.start()
        self.runs.append(run)
        return run

    def play(self, workers: int, act: Callable[["Scene"], None], **settings: Any) -> dict[str, float]:
        """Play the scene: `workers` workers read all users; then traffic starts, and `act` is called."""
        for i in range(workers):
            self.add(**_named(settings, i))
        for run in self.runs:
            run.wait_ready()
        everybody = [("clicks", key, value) for _, key, value in values(self.args.users, self.args.users)]
        send(self.broker.bootstrap, self.prefix, everybody)
        self._until(lambda: sum(run.done() for run in self.runs) >= self.args.users, "the users to be known")
        n = int(self.args.rate * (BEFORE_S + AFTER_S))
        flow = values(n, self.args.users - 1, share=0.0, first=self.args.users)
        chunks = steady.by_partition([(key, value, 0) for _, key, value in flow], PARTITIONS)
        topic = f"{self.prefix}clicks"
        sender = threading.Thread(
            target=lambda: asyncio.run(steady.send(self.broker.bootstrap, topic, chunks, self.args.rate))
        )
        sender.start()
        time.sleep(BEFORE_S)
        at_ms = time.time() * 1000
        act(self)
        sender.join(AFTER_S + LIMIT_S)
        return self._judge(at_ms, self.args.users + n)

    def _judge(self, at_ms: float, events: int) -> dict[str, float]:
        end = time.monotonic() + LIMIT_S
        while True:
            outputs = read(self.broker.bootstrap, f"{self.prefix}predictions", PARTITIONS)
            _, ms = delays(
                read(self.broker.bootstrap, f"{self.prefix}clicks", PARTITIONS), outputs, PARTITIONS
            )
            if len(ms) == events and (ms >= 0).all():
                break
            assert time.monotonic() < end, f"{int((ms < 0).sum())} of {events} events have no answer"
            time.sleep(0.5)
        for run in self.runs:
            if run.process.poll() is None:
                run.stop()
        stops, firsts = [], []
        for partition in range(PARTITIONS):
            times = np.concatenate([o.spans["timestamp"] for o in outputs if o.partition == partition])
            times = np.sort(times[times > at_ms - 1000.0 * BEFORE_S / 2])
            gaps = np.diff(times)
            longest = int(np.argmax(gaps))
            stops.append(float(gaps[longest]) / 1000)
            firsts.append((float(times[longest + 1]) - at_ms) / 1000)
        worst = int(np.argmax(stops))
        return {"first_answer_s": round(firsts[worst], 2), "longest_stop_s": round(stops[worst], 2)}

    def _until(self, done: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + LIMIT_S
        while not done():
            assert time.monotonic() < end, f"waited {LIMIT_S:g} s for {what}"
            time.sleep(0.1)


def _named(settings: dict[str, Any], number: int) -> dict[str, Any]:
    return {**settings, "instance_id": f"w{number}"} if settings.get("instance_id") else settings


def restart(scene: Scene, **settings: Any) -> None:
    """Send SIGKILL and start another worker at once."""
    scene.runs[0].kill()
    scene.add(**_named(settings, 0))


def kill(scene: Scene) -> None:
    """Send SIGKILL to one of two workers."""
    scene.runs[0].kill()


def leave(scene: Scene) -> None:
    """Send SIGTERM to one of two workers."""
    scene.runs[0].stop()


def join(scene: Scene) -> None:
    """Start a second worker."""
    scene.add()


NAMED = {"instance_id": "w"}
COPIES = {"standby_replicas": 1}
SCENES: dict[str, tuple[int, Callable[[Scene], None], dict[str, Any]]] = {
    "restart": (1, restart, {}),
    "restart, instance_id": (1, lambda scene: restart(scene, **NAMED), NAMED),
    "kill": (2, kill, {}),
    "kill, standby_replicas 1": (2, kill, COPIES),
    "join": (1, join, {}),
    "leave": (2, leave, {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=2000)
    parser.add_argument("--guarantee", default="at_least_once")
    parser.add_argument(
        "--only", default=",".join(name for name in SCENES if "," not in name) + ",named,copies"
    )
    args = parser.parse_args()
    short = {"named": "restart, instance_id", "copies": "kill, standby_replicas 1"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(ITEMS, folder / "model")
        with EmbeddedKafka(folder / "kafka") as broker:
            for i, wanted in enumerate(args.only.split(",")):
                scene = short.get(wanted, wanted)
                workers, act, settings = SCENES[scene]
                found = Scene(broker, folder, model, f"t{i}-", args).play(workers, act, **settings)
                print(json.dumps({"scene": scene, "guarantee": args.guarantee, **found}), flush=True)


if __name__ == "__main__":
    main()
