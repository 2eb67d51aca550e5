"""Leaving a group while it rebalances: immediately, with exit code 0, and with all connections closed."""

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import RequestTimedOutError
from aiokafka.protocol.fetch import FetchRequest

from stream_app.lab.broker import EmbeddedKafka
from stream_app.worker.transport.aiokafka_internals import stop_consumer
from tests.integration.faust_member import Join, Member, make, until
from tests.integration.harness import Start, clicks, make_topics, produce, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

#: Seconds that a stop may take; the rebalance that it meets would take longer.
PROMPT_S = 4.0


def open_connections(consumer: AIOKafkaConsumer) -> list[Any]:
    return [each for each in consumer._client._conns.values() if each._reader is not None]


async def stopped(member: Member) -> float:
    """Stop a member and return how long that took."""
    began = time.monotonic()
    await asyncio.wait_for(member.app.stop(), 20)
    assert member.app.crash_reason is None
    return time.monotonic() - began


async def test_a_rebalance_that_begins_during_the_stop(kafka: EmbeddedKafka, prefix: str, join: Join) -> None:
    """An error that Faust gets then must not leave connections half closed."""
    topic, group = f"{prefix}in", f"{prefix}group"
    make(kafka.bootstrap, topic, partitions=2)
    leaving = await join(group, topic)
    await until("the assignment", leaving.settled)
    consumer = leaving.consumer._thread._ensure_consumer()
    others: list[asyncio.Task[Member]] = []

    async def another_joins(*_: Any, **__: Any) -> None:
        others.append(asyncio.create_task(join(group, topic)))
        await until("the rebalance", lambda: leaving.app.rebalancing)
        await asyncio.sleep(0.2)

    leaving.app.on_before_shutdown.connect(another_joins, weak=False)
    await stopped(leaving)
    assert not open_connections(consumer)
    other = await others[0]
    await until("the other to have all", lambda: len(other.consumer.assignment()) == 2, 5)


async def test_it_does_not_wait_for_the_others_to_join(kafka: EmbeddedKafka, prefix: str, join: Join) -> None:
    """While one member is slow to give up its partitions, another one leaves, and the group notices it."""
    topic, group = f"{prefix}in", f"{prefix}group"
    make(kafka.bootstrap, topic, partitions=3)
    leaving, slow = await join(group, topic), await join(group, topic)
    await until("both to have a share", lambda: all(m.consumer.assignment() for m in (leaving, slow)))
    await until("the group to settle", lambda: leaving.settled() and slow.settled())
    goes_on = asyncio.Event()

    async def hold(*_: Any, **__: Any) -> None:
        await goes_on.wait()

    slow.app.on_partitions_revoked.connect(hold, weak=False)
    third = asyncio.create_task(join(group, topic))
    await until("the rebalance", lambda: leaving.app.rebalancing and slow.app.rebalancing)
    await asyncio.sleep(0.5)
    consumer = leaving.consumer._thread._ensure_consumer()
    assert await stopped(leaving) < PROMPT_S
    assert not open_connections(consumer)
    goes_on.set()
    members = [slow, await third]
    await until(
        "the others to have all", lambda: sum(len(m.consumer.assignment()) for m in members) == 3, PROMPT_S
    )


async def test_a_consumer_that_waits_after_a_failed_fetch(kafka: EmbeddedKafka, prefix: str) -> None:
    """aiokafka's own stop is cancelled by that fetch and leaves the connections open."""
    topic = f"{prefix}in"
    make(kafka.bootstrap, topic)
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, retry_backoff_ms=60_000)
    await consumer.start()
    send, failed = consumer._client.send, asyncio.Event()

    async def fail(node: int, request: Any, **options: Any) -> Any:
        if isinstance(request, FetchRequest):
            failed.set()
            raise RequestTimedOutError
        return await send(node, request, **options)

    consumer._client.send = fail
    consumer.assign([TopicPartition(topic, 0)])
    consumer.seek(TopicPartition(topic, 0), 0)
    await asyncio.wait_for(failed.wait(), 10)
    await asyncio.sleep(0.05)
    await asyncio.wait_for(stop_consumer(consumer), PROMPT_S)
    assert not open_connections(consumer)


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
async def test_workers_that_are_told_to_stop_in_a_rebalance(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path, guarantee: str
) -> None:
    """One of two workers leaves at a random moment of the rebalance that a third one causes."""
    await make_topics(kafka.bootstrap, prefix)
    settings = {"guarantee": guarantee, "session_timeout_ms": 10_000}
    staying, leaving = (start(tmp_path / name, kafka.bootstrap, prefix, **settings) for name in ("a", "b"))
    staying.wait_ready()
    leaving.wait_ready()
    produce(kafka.bootstrap, prefix, clicks(2000))
    for turn in range(4):
        told = leaving.text().count("partitions revoked")
        coming = start(tmp_path / f"{turn}", kafka.bootstrap, prefix, **settings)
        wait_for(
            "the rebalance", lambda worker=leaving, n=told: worker.text().count("partitions revoked") > n
        )
        time.sleep(random.Random(turn).random() * 0.4)  # to any moment of the rebalance: no event marks them
        began = time.monotonic()
        assert leaving.stop() == 0, leaving.text()[-3000:]
        took_s = time.monotonic() - began
        assert "stopped cleanly" in leaving.text()
        assert took_s < 8, f"turn {turn}: the stop took {took_s:.1f} s\n{leaving.text()[-3000:]}"
        leaving = coming.wait_ready()
    assert staying.stop() == leaving.stop() == 0
