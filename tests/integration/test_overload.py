"""Overload and bad neighbours: no crash, bounded memory, lag recovers, and every count is exact."""

import json
import resource
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_app.contract.events import MAX_VALUE_BYTES
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import Record
from stream_app.lab.broker import EmbeddedKafka
from stream_app.ops.bad_records import EXAMPLE_EVERY_S
from stream_app.processing.shop_processor import EVICT_EVERY, ShopProcessor
from stream_app.settings import Settings
from tests.integration.harness import (
    Reader,
    Start,
    Worker,
    committed,
    make_topics,
    produce,
    read_all,
    wait_for,
)

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]

PARTITIONS = 4
YEAR_MS = 365 * 86_400_000
#: Allowed growth of a worker besides its state: buffers of fetches and outputs, and the allocator's reserves.
ROOM = 250e6


@pytest.fixture
def start(start_from_scratch: Start) -> Start:
    """Workers that share no memory with another process, since these tests measure it."""
    return start_from_scratch


class Memory:
    """Samples the resident memory of a process during a test."""

    def __init__(self, worker: Worker) -> None:
        self._statm = Path(f"/proc/{worker.process.pid}/statm")
        self._pool = ThreadPoolExecutor(1)
        self.before = self.peak = self.now()
        self._sampling: Future[None] | None = None
        self._stop = False

    def now(self) -> int:
        """Return the bytes in use now."""
        return int(self._statm.read_text().split()[1]) * resource.getpagesize()

    def __enter__(self) -> "Memory":
        self._sampling = self._pool.submit(self._sample)
        return self

    def _sample(self) -> None:
        while not self._stop:
            self.peak = max(self.peak, self.now())
            time.sleep(0.05)  # between two samples; nothing is waited for

    def __exit__(self, *_: Any) -> None:
        self._stop = True
        assert self._sampling is not None
        self._sampling.result(10)
        self._pool.shutdown()

    @property
    def growth(self) -> int:
        """The peak minus the initial value, in bytes."""
        return self.peak - self.before


def events(users: Iterable[str], ts: int, **more: Any) -> Iterator[Record]:
    """Return a click of each user, a millisecond apart, in the user's partition."""
    offsets = [0] * PARTITIONS
    for n, user in enumerate(users):
        partition = sum(user.encode()) % PARTITIONS
        body = json.dumps({"user_id": user, "ts": ts + n, "item_id": f"i{n % 97}", **more}).encode()
        yield Record("clicks", partition, offsets[partition], 0, user.encode(), body, ())
        offsets[partition] += 1


def now_ms() -> int:
    return int(time.time() * 1000)


def lag_gone(worker: Worker, records: int, limit_s: float = 90.0) -> None:
    """Wait until so many records are processed and none is left on the broker; check that the worker is healthy."""

    def done() -> bool:
        worker.check()
        passed = sum(
            worker.metric(f"foreclick_{name}_total")
            for name in ("events", "dead_letters")
            if not np.isnan(worker.metric(f"foreclick_{name}_total"))
        )
        return passed >= records and worker.metric("foreclick_consumer_lag_records") == 0

    wait_for(f"{records} records to be processed", done, limit_s, 0.25)
    worker.wait_ready(30)
    assert worker.metric("foreclick_rebalances_total") == 1, "a heartbeat was missed"


def answers(kafka: EmbeddedKafka, prefix: str, count: int) -> list[Any]:
    """Return all predictions: there must be `count`, with different ids."""
    messages = read_all(kafka.bootstrap, f"{prefix}predictions")
    assert len(messages) == len({json.loads(m.value())["id"] for m in messages}) == count
    return messages


async def test_a_hundred_times_the_steady_rate(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """A burst of some seconds is answered once, in bounded memory, and the lag disappears."""
    await make_topics(kafka.bootstrap, prefix)
    worker = start(tmp_path, kafka.bootstrap, prefix, buffered_records=5000).wait_ready(90)
    steady, burst = 200, 80_000  # records per second for two seconds; then at 100 times the rate for four
    stream = events((f"u{n % 3000}" for n in range(2 * steady + burst)), now_ms() - 200_000)
    for _ in range(20):
        produce(kafka.bootstrap, prefix, islice(stream, steady // 10))
    lag_gone(worker, 2 * steady)
    with Memory(worker) as memory:
        began = time.monotonic()
        produce(kafka.bootstrap, prefix, stream)
        rate = burst / (time.monotonic() - began)
        lag_gone(worker, 2 * steady + burst)
    assert rate > 20 * steady, f"the burst had only {rate:.0f} records per second"
    assert memory.growth < ROOM, f"{memory.growth / 1e6:.0f} MB"
    assert worker.metric("foreclick_events_total") == 2 * steady + burst
    assert worker.stop() == 0
    answers(kafka, prefix, 2 * steady + burst)


async def test_one_user_makes_half_of_the_traffic(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """All events of a very active user are counted in order, and the other users are still answered."""
    await make_topics(kafka.bootstrap, prefix)
    worker = start(tmp_path, kafka.bootstrap, prefix).wait_ready(90)
    n = 60_000
    ts = now_ms() - 200_000
    with Memory(worker) as memory:
        produce(kafka.bootstrap, prefix, events(("hot" if i % 2 else f"u{i % 5000}" for i in range(n)), ts))
        lag_gone(worker, n)
    assert memory.growth < ROOM
    shown = worker.get("/users/hot/")[1]
    assert shown["events"] == n // 2
    assert shown["windows"]["24h"]["click"] == n // 2
    assert worker.get("/users/u2/")[1]["events"] == n // 5000
    assert worker.stop() == 0
    hot = [json.loads(m.value())["ts"] for m in answers(kafka, prefix, n) if m.key() == b"hot"]
    assert hot == [ts + i for i in range(n) if i % 2]


async def test_large_records(kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path) -> None:
    """Events of 64 KiB are valid, larger ones become dead letters byte for byte; small ones are not affected."""
    await make_topics(kafka.bootstrap, prefix)
    worker = start(tmp_path, kafka.bootstrap, prefix).wait_ready(90)
    sizes = [MAX_VALUE_BYTES, 200, MAX_VALUE_BYTES + 1, 200] * 300 + [900_000]
    records = []
    for plain, size in zip(
        events((f"u{n % 50}" for n in range(len(sizes))), now_ms() - 200_000), sizes, strict=True
    ):
        body = plain.value[:-1] + b',"padding":"' if plain.value else b""
        records.append(plain._replace(value=body + b"x" * (size - len(body) - 2) + b'"}'))
        assert len(records[-1].value or b"") == size
    with Memory(worker) as memory:
        produce(kafka.bootstrap, prefix, records)
        lag_gone(worker, len(records))
    assert memory.growth < 2 * ROOM, f"{memory.growth / 1e6:.0f} MB"
    assert worker.metric("foreclick_dead_letters_total", reason="too_large") == 301
    assert worker.stop() == 0
    answers(kafka, prefix, 900)
    letters = read_all(kafka.bootstrap, f"{prefix}dead-letters")
    large = Counter(r.value for r in records if len(r.value or b"") > MAX_VALUE_BYTES)
    assert Counter(m.value() for m in letters) == large


async def test_more_users_than_may_stay(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """With 200,000 users and room for 20,000, memory is that of the resident ones; the others count as forgotten."""
    await make_topics(kafka.bootstrap, prefix)
    worker = start(tmp_path, kafka.bootstrap, prefix, resident_users=20_000).wait_ready(90)
    n = 200_000
    with Memory(worker) as memory:
        produce(kafka.bootstrap, prefix, events((f"u{i}" for i in range(n)), now_ms() - 250_000))
        lag_gone(worker, n, 120)
    assert memory.growth < ROOM, f"{memory.growth / 1e6:.0f} MB"

    def resident() -> float:
        return worker.metric("foreclick_resident_users")

    evicted = worker.metric("foreclick_evictions_total", reason="count")
    wait_for("the gauges", lambda: resident() + evicted == n, 10)
    assert 20_000 <= resident() <= 20_000 + PARTITIONS * EVICT_EVERY
    assert worker.get("/users/u0/")[0] == 404
    assert worker.get(f"/users/u{n - 1}/")[1]["events"] == 1
    assert worker.stop() == 0
    with closing(Reader(kafka.bootstrap, f"{prefix}predictions")) as reader:
        assert len(reader.read_to_end()) == n


def test_a_million_users_through_one_processor() -> None:
    """With fifty times as many users as there is room for, the processor's memory does not depend on their number."""
    processor = ShopProcessor(Settings(resident_users=20_000, max_idle_ms=0), partitions=1)
    processor.assign(0, [0, 0, 0])
    processor.restored(0)
    for topic_index in (1, 2):
        processor.merge(0).finish(topic_index)
    taken = evicted = 0
    sizes = []
    statm = Path("/proc/self/statm")
    for start in range(0, 1_000_000, 20_000):
        records = [
            Record(
                "clicks",
                0,
                n,
                2_000_000_000_000,
                b"u%d" % n,
                b'{"user_id":"u%d","ts":%d,"item_id":"i"}' % (n, 1_900_000_000_000 + n),
            )
            for n in range(start, start + 20_000)
        ]
        processor.ingest(0, 0, RecordColumns.of(records), start + 20_000)
        while (out := processor.step(0.0)) is not None:
            taken += out.events
            evicted += out.evicted
        made = processor.checkpoint(0, 1)
        assert made is not None
        sizes.append(int(statm.read_text().split()[1]) * resource.getpagesize())
    assert taken == 1_000_000
    assert len(processor.users) == taken - evicted <= 20_000 + EVICT_EVERY
    assert max(sizes[10:]) - sizes[9] < 50e6, "the first fifth needs as much memory as all"


async def test_clocks_a_year_off(kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path) -> None:
    """An event a year ahead is a dead letter and moves no watermark; one a year behind is late; others are fine."""
    await make_topics(kafka.bootstrap, prefix)
    worker = start(tmp_path, kafka.bootstrap, prefix, max_batch=512).wait_ready(90)
    now, records = now_ms() - 250_000, []
    plain = list(events((f"u{n % 400}" for n in range(20_000)), now))
    for n, r in enumerate(plain):
        off = {7: YEAR_MS, 8: -YEAR_MS}.get(n % 10, 0) if n >= 400 else 0
        body = json.loads(r.value or b"") | ({"ts": now + n + off} if off else {})
        records.append(r._replace(value=json.dumps(body).encode()))
    produce(kafka.bootstrap, prefix, records)
    lag_gone(worker, len(records))
    assert worker.metric("foreclick_dead_letters_total", reason="future") == 1960
    assert worker.metric("foreclick_late_events_total") == 1960
    assert worker.metric("foreclick_evictions_total") == 0, "a wrong clock made the worker forget a user"
    delay = "foreclick_watermark_delay_seconds"
    wait_for("the gauges, which are set once per second", lambda: not np.isnan(worker.metric(delay)), 10)
    assert worker.metric(delay) / PARTITIONS > 0
    shown = worker.get("/users/u0/")[1]
    assert shown["events"] == 50
    assert shown["windows"]["24h"]["click"] == 50
    assert shown["late"] == 0
    assert worker.stop() == 0
    answers(kafka, prefix, 20_000 - 1960)


async def test_nothing_but_malformed_records(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """Each invalid record is a dead letter and counted; the log shows a few; the next valid event is answered."""
    await make_topics(kafka.bootstrap, prefix)
    worker = start(tmp_path, kafka.bootstrap, prefix).wait_ready(90)
    n, kinds = 40_000, (b"{", b"\xff\x00", b'{"user_id":"u1"}', b'{"user_id":"u1","ts":"now"}')
    with Memory(worker) as memory:
        records = [
            Record("clicks", i % 4, i // 4, 0, b"u1", kinds[i // 4 % 4] + b" " * (i % 7), ())
            for i in range(n)
        ]
        began = time.monotonic()
        produce(kafka.bootstrap, prefix, records)
        lag_gone(worker, n)
    assert memory.growth < ROOM, f"{memory.growth / 1e6:.0f} MB"
    found = {
        reason: worker.metric("foreclick_dead_letters_total", reason=reason)
        for reason in ("malformed", "missing_field", "invalid_field")
    }
    assert found == {"malformed": n / 2, "missing_field": n / 4, "invalid_field": n / 4}
    said = [
        json.loads(line)
        for line in worker.text().splitlines()
        if "bad records moved to the dead-letter topic" in line
    ]
    assert {line["reason"] for line in said} == set(found)
    assert len(said) <= 3 * (1 + (time.monotonic() - began) // EXAMPLE_EVERY_S)
    produce(kafka.bootstrap, prefix, events(["u9"], now_ms()))
    lag_gone(worker, n + 1)
    assert worker.stop() == 0
    answers(kafka, prefix, 1)
    letters = read_all(kafka.bootstrap, f"{prefix}dead-letters")
    assert Counter(m.value() for m in letters) == Counter(r.value for r in records)
    ends = committed(kafka.bootstrap, f"{prefix}group", [f"{prefix}clicks"])[f"{prefix}clicks"]
    assert sum(ends) == n + 1
