"""Partitions that move while their owner still processes them: no event is lost or applied twice."""

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from confluent_kafka import Producer

from stream_app.agents.shop import create_app
from stream_app.contract.outputs import NO_HEADERS
from stream_app.contract.records import Record
from stream_app.contract.topics import SHOP
from stream_app.lab.broker import EmbeddedKafka
from stream_app.worker.producers.fenced_producer import FencedProducer
from stream_app.worker.producers.partition_producers import FENCE_KEY
from tests.integration.answered import ids
from tests.integration.faust_member import Member, until
from tests.integration.harness import (
    Reader,
    Start,
    clicks,
    make_topics,
    produce,
    settings_for,
    wait_for,
)

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(180)]


async def test_records_that_come_while_partitions_are_taken_on(
    kafka: EmbeddedKafka, prefix: str, tmp_path: Path
) -> None:
    """A slow read of the changelog during a rebalance, while Faust already delivers again, loses nothing."""
    await make_topics(kafka.bootstrap, prefix)
    settings = settings_for(kafka.bootstrap, prefix, web="", data_dir=str(tmp_path / "data"))
    app = create_app(settings, None, partitions=4)
    ends = app.pipeline._ownership._reader.ends

    async def slow_ends(partitions: Any) -> Any:
        await asyncio.sleep(0.5)
        return await ends(partitions)

    app.pipeline._ownership._reader.ends = slow_ends
    records = clicks(4000)
    await app.start()
    guest = Member(kafka.bootstrap, tmp_path, settings.group, SHOP.of(settings).inputs, moves=False)
    try:
        writer = asyncio.create_task(asyncio.to_thread(_produce_slowly, kafka.bootstrap, prefix, records))
        await until("the first commit", lambda: app.pipeline._checkpoints.log_end)
        await guest.app.start()
        await until("the guest to have its share", lambda: guest.settled() and guest.consumer.assignment())
        await guest.app.stop()
        await writer
        reader = Reader(kafka.bootstrap, f"{prefix}predictions")
        await asyncio.to_thread(
            reader.read_until, "all predictions", lambda m: len(ids(m)) >= len(records), 30.0
        )
        reader.close()
    finally:
        await app.stop()
        if not guest.app.should_stop:
            await guest.app.stop()


def _produce_slowly(bootstrap: str, prefix: str, records: list[Record]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    for i, r in enumerate(records):
        producer.produce(prefix + r.topic, r.value, r.key, r.partition)
        if i % 20 == 0:
            producer.flush(30)
            time.sleep(0.03)  # so that records keep coming during the rebalances
    assert producer.flush(30) == 0


async def test_a_rival_that_fences_a_lane_as_it_opens(
    kafka: EmbeddedKafka, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is fenced between its first request and its first record gets a new epoch, and works."""
    await make_topics(kafka.bootstrap, prefix)
    settings = settings_for(kafka.bootstrap, prefix, web="", data_dir=str(tmp_path / "data"))
    app = create_app(settings, None, partitions=4)
    initialise, producers = FencedProducer.initialise, app.pipeline._producers
    begun: Counter[str] = Counter()

    async def late_rival(self: FencedProducer) -> None:
        await initialise(self)
        begun[self.id] += 1
        if begun.total() == 1:
            rival = FencedProducer(self._cluster, self.id, 5000)
            await initialise(rival)
            (fence,) = producers.build([(FENCE_KEY, None, NO_HEADERS)])
            await rival.queue(
                TopicPartition(SHOP.of(settings).changelog, int(self.id.rsplit("-", 1)[1])), fence.batch
            )
            await rival.close()

    monkeypatch.setattr(FencedProducer, "initialise", late_rival)
    await app.start()
    try:
        records = clicks(400)
        produce(kafka.bootstrap, prefix, records)
        reader = Reader(kafka.bootstrap, f"{prefix}predictions")
        await asyncio.to_thread(reader.read_until, "all predictions", lambda m: len(m) >= len(records), 60.0)
        reader.close()
        await until("a commit", lambda: app.pipeline._checkpoints.log_end)
    finally:
        await app.stop()
    assert max(begun.values()) > 1
    assert app.crash_reason is None


async def test_a_worker_that_was_thought_dead(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """A worker that froze and lost its partitions ends afterwards, and does not damage its successor's state."""
    await make_topics(kafka.bootstrap, prefix)
    produce(kafka.bootstrap, prefix, clicks(20_000))
    short = {"session_timeout_ms": 2000, "heartbeat_ms": 500}
    frozen = start(tmp_path / "a", kafka.bootstrap, prefix, max_batch=64, commit_interval_ms=3000, **short)
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    reader.read_until("a first part", lambda m: len(m) > 3000)
    frozen.process.send_signal(signal.SIGSTOP)
    second = start(tmp_path / "b", kafka.bootstrap, prefix, **short)
    reader.read_until("all predictions", lambda m: len(ids(m)) >= 20_000)
    reader.close()
    wait_for("the last commit", lambda: second.metric("foreclick_consumer_lag_records") == 0)
    frozen.process.send_signal(signal.SIGCONT)
    wait_for("the frozen worker to end", lambda: frozen.process.poll() is not None)
    assert frozen.process.returncode == 1
    assert "it stood still for" in frozen.text()
    second.kill()
    third = start(tmp_path / "c", kafka.bootstrap, prefix).wait_ready()
    counts = {u: third.get(f"/users/u{u}-{n}/")[1]["events"] for u in range(4) for n in range(10)}
    assert set(counts.values()) == {500}, counts
