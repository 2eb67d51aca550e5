"""A worker under attack: sends batches to it and checks it afterwards."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from stream_app.lab.broker import EmbeddedKafka
from tests.fuzz.produce import RawProducer
from tests.integration.harness import Reader, Start, Worker, make_topics, wait_for
from tests.stream_app.raw_batches import record, stored

#: Memory in bytes that a worker may use beyond that of an idle one.
MEMORY_BYTES = 256 << 20
#: Address space in bytes that it gets beyond that of an idle one; any more raises MemoryError.
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
        """Send batches, which the broker must acknowledge."""
        for batch in batches:
            ((error, _),) = self._producer.send(self.prefix + topic, {partition: batch}).values()
            assert not error, f"the broker refused the batch: error {error}"

    def good(self, topic: str = "clicks", partition: int = 0, user: str = "good") -> None:
        """Send a valid event with a new id."""
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
        """Send a valid event after everything else and wait for its answer."""
        before = self.worker.metric("foreclick_events_total")
        self.good()
        self.waits(f"a valid event after {what}", before + 1, limit_s)

    def waits(self, what: str, events: float, limit_s: float) -> None:
        """Wait until the worker has processed so many events."""

        def there() -> bool:
            self.worker.check()
            return self.worker.metric("foreclick_events_total") >= events

        wait_for(what, there, limit_s)

    def events(self) -> float:
        """Return the number of events processed so far."""
        return self.worker.metric("foreclick_events_total")

    def peak(self) -> int:
        """Return the worker's peak memory in bytes."""
        return _memory(self.worker, "VmHWM")

    def within_memory(self) -> None:
        """Fail if the worker used more memory than allowed."""
        more = self.peak() - self.idle
        assert more <= MEMORY_BYTES, f"{more >> 20} MB above the idle worker ({self.idle >> 20} MB)"

    def dead_letters(self, reason: str) -> list[bytes]:
        """Return the values of the dead letters with a reason."""
        return self.outputs("dead-letters", ("foreclick.reason", reason.encode()))

    def outputs(self, topic: str, header: tuple[str, bytes] | None = None) -> list[bytes]:
        """Return the values of an output topic's records, or of those with a header."""
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
        """Disconnect; the caller who started the worker ends it."""
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
    """Return a worker that is ready and has answered; if `limited`, its address space is limited from now on."""
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
