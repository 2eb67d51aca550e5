"""A broker, and slots for workers that reach it only through a proxy of their own."""

import contextlib
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stream_app.lab.broker import EmbeddedKafka, Listener
from stream_app.lab.broker.ports import free_port
from tests.faults.proxy import Gate
from tests.integration.harness import Worker

SESSION_S = 3.0
#: Settings of all workers. The merge waits so long for a silent topic that no fault changes the order of events:
#: with it, every answer and all state are functions of the input alone.
SETTINGS: dict[str, Any] = {
    "session_timeout_ms": int(SESSION_S * 1000),
    "heartbeat_ms": 500,
    "commit_interval_ms": 200,
    "max_idle_ms": 60_000,
    "max_delay_ms": 10,
    "max_batch": 256,
    "resident_users": 20_000,
    "rules_purchases_1h": 3,
}
LOG_TAIL = 6000


class Slot:
    """A place for one worker at a time, and its proxy."""

    def __init__(self, number: int, gate: Gate) -> None:
        self.number, self.gate = number, gate
        self.worker: Worker | None = None
        self.frozen = False
        self.ending = False  # it was asked to stop

    def __str__(self) -> str:
        return f"worker {self.number}"

    @property
    def alive(self) -> bool:
        """Whether a worker's process exists, frozen or not."""
        return self.worker is not None and self.worker.process.poll() is None

    @property
    def at_work(self) -> bool:
        """Whether the worker has sent outputs that no commit covers yet."""
        return self.alive and not self.frozen and self.gate.progress.sent

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process if it still runs; the proxy's thread calls this too."""
        if self.worker is not None:
            self.worker.process.send_signal(number)


class Cluster:
    """The broker and all slots."""

    def __init__(self, folder: Path, prefix: str, guarantee: str, slots: int) -> None:
        self.folder, self.prefix, self.guarantee = folder, prefix, guarantee
        self.group = f"{prefix}group"
        ports = _free_ports(2 * slots)
        self._gate_ports = ports[:slots]
        listeners = [Listener(f"SLOT{i}", ports[slots + i], ports[i]) for i in range(slots)]
        self.broker = EmbeddedKafka(folder / "kafka", listeners=listeners)
        output, changelog = f"{prefix}predictions", f"{prefix}{self.group}-users-changelog"
        self.slots = [
            Slot(i, Gate(guarantee, output, changelog, each.port)) for i, each in enumerate(listeners)
        ]
        self.exits: Counter[str] = Counter()  # reasons of the workers that ended by themselves

    @contextlib.contextmanager
    def running(self) -> Iterator["Cluster"]:
        """Run broker and proxies within the block; end everything after it."""
        with self.broker, contextlib.ExitStack() as stack:
            for slot, port in zip(self.slots, self._gate_ports, strict=True):
                stack.callback(slot.gate.start(port).stop)
            try:
                yield self
            finally:
                for slot in self.slots:
                    if slot.alive:
                        assert slot.worker is not None
                        slot.worker.kill()

    def start(self, slot: Slot) -> None:
        """Start a worker in an empty slot."""
        assert not slot.alive
        slot.gate.release()
        slot.gate.renew()
        slot.frozen = slot.ending = False
        bootstrap = f"127.0.0.1:{slot.gate.port}"
        settings = {**SETTINGS, "guarantee": self.guarantee}
        slot.worker = Worker(self.folder / f"slot-{slot.number}", bootstrap, self.prefix, **settings)

    def alive(self) -> list[Slot]:
        """Return the slots whose worker runs and was not asked to stop."""
        return [slot for slot in self.slots if slot.alive and not slot.ending]

    def thawed(self) -> list[Slot]:
        """Return those that are alive and not frozen."""
        return [slot for slot in self.alive() if not slot.frozen]

    def empty(self) -> list[Slot]:
        """Return the slots without a worker; record why workers ended that were not asked to."""
        for slot in self.slots:
            if slot.worker is not None and not slot.alive:
                code = slot.worker.process.returncode
                if code != -signal.SIGKILL and not (slot.ending and code == 0):
                    self.exits[f"{code}: {_last_words(slot.worker)}"] += 1
                slot.worker = None
        return [slot for slot in self.slots if slot.worker is None]

    def logs(self) -> str:
        """Return the ends of the logs of all slots."""
        texts = [(slot, slot.worker.text()) for slot in self.slots if slot.worker is not None]
        return "\n".join(f"--- {slot}\n{text[-LOG_TAIL:]}" for slot, text in texts)


def _last_words(worker: Worker) -> str:
    lines = worker.text().strip().splitlines()
    return re.sub(r"\d+", "N", lines[-1][:300]) if lines else "nothing"  # so that equal messages count as one


def _free_ports(n: int) -> list[int]:
    found: list[int] = []
    while len(found) < n:
        port = free_port()
        if port not in found:
            found.append(port)
    return found
