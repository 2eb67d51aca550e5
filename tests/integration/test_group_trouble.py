"""Whatever the consumer group does, the worker works, or gives the reason in one sentence."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest

from stream_app.lab.broker import EmbeddedKafka
from stream_app.worker.transport.assignor import CopartitionedAssignor
from stream_app.worker.transport.group import GroupWatch
from tests.integration.answered import last_words
from tests.integration.harness import Start, Worker, clicks, make_topics, produce, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]


@contextlib.asynccontextmanager
async def consumer(bootstrap: str, group: str, topic: str, assignor: object) -> AsyncIterator[None]:
    """A member of a group that is not a worker."""
    other = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        partition_assignment_strategy=[assignor],
        session_timeout_ms=6000,
        heartbeat_interval_ms=500,
    )
    await other.start()
    try:
        yield
    finally:
        await other.stop()


async def test_topics_that_the_broker_did_not_know(kafka: EmbeddedKafka, prefix: str) -> None:
    """A member that joined while its topic was unknown, as just after a broker's start, gets its partitions quickly.

    Without the watch aiokafka asks again after `metadata_max_age_ms`, five minutes.
    """
    member = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap, group_id=f"{prefix}group", heartbeat_interval_ms=500,
        partition_assignment_strategy=[CopartitionedAssignor()],
    )  # fmt: skip
    await member.start()
    watch = asyncio.create_task(GroupWatch(member, trouble=lambda _: None, ended=lambda _: None).run())
    try:
        member.subscribe([f"{prefix}clicks"])
        await asyncio.to_thread(wait_for, "the join", lambda: member._coordinator.generation > 0, 30)
        assert not member.assignment()
        await make_topics(kafka.bootstrap, prefix)
        await asyncio.to_thread(wait_for, "partitions", member.assignment, 30)
    finally:
        watch.cancel()
        await member.stop()


def assigned(worker: Worker) -> str:
    """Return the readiness check of the group."""
    try:
        return worker.get("/health/ready")[1]["checks"]["assigned"]
    except OSError:
        return ""


async def test_the_name_is_in_use(kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path) -> None:
    """While another application uses the group's name, the worker reports it; afterwards it works."""
    await make_topics(kafka.bootstrap, prefix)
    async with consumer(kafka.bootstrap, f"{prefix}group", f"{prefix}clicks", RangePartitionAssignor):
        worker = start(tmp_path, kafka.bootstrap, prefix)
        await asyncio.to_thread(wait_for, "the reason", lambda: "of another kind" in assigned(worker))
        assert worker.get("/health/live")[0] == 200, "a restart would not help"
        assert worker.get("/health/ready")[0] == 503
    worker.wait_ready(40)
    assert "of another kind" not in assigned(worker)
    assert worker.stop() == 0
    assert worker.text().count("the group refuses this worker") == 1


async def test_the_group_is_full(start: Start, tmp_path: Path) -> None:
    """With a `group.max.size` of one, a second worker reports why it waits, and takes over when the first ends."""
    with EmbeddedKafka(tmp_path / "kafka", properties={"group.max.size": "1"}) as broker:
        await make_topics(broker.bootstrap, "p-")
        first = start(tmp_path / "a", broker.bootstrap, "p-").wait_ready()
        second = start(tmp_path / "b", broker.bootstrap, "p-")
        wait_for("the reason", lambda: "is full" in assigned(second))
        assert first.ready()
        assert first.stop() == 0
        second.wait_ready(40)
        assert second.stop() == 0


async def test_a_session_timeout_that_the_broker_refuses(start: Start, tmp_path: Path) -> None:
    """A wrong setting ends the worker, since waiting would not help: exit code 1 and the setting's name."""
    with EmbeddedKafka(tmp_path / "kafka", properties={"group.min.session.timeout.ms": "30000"}) as broker:
        await make_topics(broker.bootstrap, "p-")
        worker = start(tmp_path / "w", broker.bootstrap, "p-")
        assert "FORECLICK_SESSION_TIMEOUT_MS" in last_words(worker)


async def join_and_say(bootstrap: str, group: str, said: bytes) -> None:
    """Join like a worker, with member data that no worker would send, and disappear without leaving."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        node = await client.coordinator_lookup(CoordinationType.GROUP, group)
        member_id, code = "", 79  # the first answer gives an id
        while code == 79:
            request = JoinGroupRequest(
                group, 6000, 6000, member_id, None, "consumer", [(CopartitionedAssignor.name, said)]
            )
            answer = await client.send(node, request, group=ConnectionGroup.COORDINATION)
            member_id, code = answer.member_id, answer.error_code
        assert code == 0
        request = SyncGroupRequest(group, answer.generation_id, member_id, None, [])
        assert (await client.send(node, request, group=ConnectionGroup.COORDINATION)).error_code == 0
    finally:
        await client.close()


#: With other bytes the broker itself fails: it refuses all members until it removes that one.
HOSTILE = {
    "null user data": ConsumerProtocolMemberMetadata(0, [], None).encode(),
    "nested deeply": ConsumerProtocolMemberMetadata(0, [], b"\x93\x90\x90" + b"\x91" * 100_000).encode(),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_what_another_member_says(
    what: str, kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """Whatever data a member of the group sends, the worker that leads the group continues."""
    await make_topics(kafka.bootstrap, prefix)
    worker = start(tmp_path, kafka.bootstrap, prefix).wait_ready()
    before = worker.metric("foreclick_rebalances_total")
    await join_and_say(kafka.bootstrap, f"{prefix}group", HOSTILE[what])
    wait_for(
        "the rebalances", lambda: worker.metric("foreclick_rebalances_total") > before + 1
    )  # it joined and left
    records = clicks(200)
    produce(kafka.bootstrap, prefix, records)
    wait_for("all events", lambda: worker.metric("foreclick_events_total") == len(records))
    assert worker.stop() == 0


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
async def test_two_workers_of_one_instance(
    guarantee: str, kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """The older of two workers with one `instance_id` stops within 10 s and gives the reason; the newer one works."""
    await make_topics(kafka.bootstrap, prefix)
    records = clicks(400)
    settings = {"instance_id": "pod-0", "guarantee": guarantee}
    older = start(tmp_path / "a", kafka.bootstrap, prefix, **settings).wait_ready()
    produce(kafka.bootstrap, prefix, records[:200])
    wait_for("its events", lambda: older.metric("foreclick_events_total") == 200)
    newer = start(tmp_path / "b", kafka.bootstrap, prefix, **settings)
    wait_for("the newer one to join", lambda: "partitions assigned" in newer.text(), every_s=0.01)
    joined = time.monotonic()
    produce(kafka.bootstrap, prefix, records[200:])
    code, text = older.wait_end(20)
    assert time.monotonic() - joined < 10
    assert code == 1, text[-2000:]
    assert "another worker runs as instance pod-0 of group" in text.splitlines()[-1]
    newer.wait_ready()
    wait_for("the other events", lambda: newer.metric("foreclick_consumer_lag_records") == 0)
    assert newer.metric("foreclick_rebalances_total") == 1
    assert newer.stop() == 0
