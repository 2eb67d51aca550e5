"""A worker under attack: what is sent to it, and what must hold afterwards."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from stream_app.lab.broker import EmbeddedKafka
from tests.fuzz.produce import RawProducer
from tests.integration.harness import Reader, Start, Worker, make_topics, wait_for
from tests.stream_app.raw_batches import record, stored

#: Memory that a worker may take beside what it has idle, in bytes.
MEMORY_BYTES = 256 << 20
#: Address space that it gets beside what it has idle: more is a MemoryError.
ADDRESS_BYTES = 1 << 30


class Attacked:
    """A worker without a model, and the topics that it reads."""

    def __init__(self, kafka: EmbeddedKafka, worker: Worker, prefix: str) -> None:
        self.worker, self.prefix = worker, prefix
        self._kafka = kafka
        self._producer = RawProducer(kafka.bootstrap)
        self._good = 0
        #: Memory of the idle worker, in bytes.
        self.idle = 0

    def send(self, *batches: bytes, topic: str = "clicks", partition: int = 0) -> None:
        """Sends batches that the broker must acknowledge."""
        for batch in batches:
            ((error, _),) = self._producer.send(self.prefix + topic, {partition: batch}).values()
            assert not error, f"the broker refuses the batch: error {error}"

    def good(self, topic: str = "clicks", partition: int = 0, user: str = "good") -> None:
        """Sends a good event of its own id."""
        self._good += 1
        event = {
            "user_id": user,
            "ts": int(time.time() * 1000),
            "item_id": "i1",
            "event_id": f"good-{self._good}",
        }
        now = int(time.time() * 1000)
        self.send(
            stored(record(0, user.encode(), json.dumps(event).encode()), 1, first_ms=now),
            topic=topic, partition=partition,
        )  # fmt: skip

    def answers(self, what: str, limit_s: float = 120.0) -> None:
        """Sends a good event behind all that was sent, and waits for its answer."""
        before = self.worker.metric("foreclick_events_total")
        self.good()
        self.waits(f"a good event behind {what}", before + 1, limit_s)

    def waits(self, what: str, events: float, limit_s: float) -> None:
        """Waits until so many events were processed."""

        def there() -> bool:
            self.worker.check()
            return self.worker.metric("foreclick_events_total") >= events

        wait_for(what, there, limit_s)

    def events(self) -> float:
        """Events processed so far."""
        return self.worker.metric("foreclick_events_total")

    def peak(self) -> int:
        """The most memory that the worker ever had, in bytes."""
        return _memory(self.worker, "VmHWM")

    def within_memory(self) -> None:
        """Fails where the worker took more than it may."""
        more = self.peak() - self.idle
        assert more <= MEMORY_BYTES, f"{more >> 20} MB above the idle worker ({self.idle >> 20} MB)"

    def dead_letters(self, reason: str) -> list[bytes]:
        """Values of the dead letters of a reason."""
        return self.outputs("dead-letters", ("foreclick.reason", reason.encode()))

    def outputs(self, topic: str, header: tuple[str, bytes] | None = None) -> list[bytes]:
        """Values of the records of an output topic, or of those that have a header."""
        reader = Reader(self._kafka.bootstrap, f"{self.prefix}{topic}")
        try:
            return [
                message.value()
                for message in reader.read_to_end()
                if header is None or header in (message.headers() or ())
            ]
        finally:
            reader.close()

    def close(self) -> None:
        """Disconnects; the worker is its starter's affair."""
        self._producer.close()


async def attacked(
    kafka: EmbeddedKafka,
    start: Start,
    folder: Path,
    prefix: str,
    *,
    limited: bool = False,
    **settings: object,
) -> Attacked:
    """A worker that is ready and has answered; if `limited`, it gets little more address space from now on."""
    await make_topics(kafka.bootstrap, prefix, 2)
    worker = start(folder, kafka.bootstrap, prefix, **settings).wait_ready(120)
    found = Attacked(kafka, worker, prefix)
    for topic in ("clicks", "browses", "purchases"):
        found.good(topic)
    found.answers("nothing")
    found.idle = _memory(worker, "VmRSS")
    if limited:
        room = _memory(worker, "VmSize") + ADDRESS_BYTES
        psutil.Process(worker.process.pid).rlimit(psutil.RLIMIT_AS, (room, room))  # as `ulimit -v`
    return found


def _memory(worker: Worker, name: str) -> int:
    lines: Sequence[str] = Path(f"/proc/{worker.process.pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
