"""Whatever happens to its topics, the worker answers all events, or stops with a clear message."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from stream_app.contract.records import Record
from stream_app.contract.topics import SHOP
from stream_app.kafka.topics import ensure_topics
from stream_app.lab.broker import EmbeddedKafka
from stream_app.state.users import META_KEY
from tests.integration.answered import (
    PARTITIONS,
    all_answered,
    counts,
    idle,
    ids,
    ids_of,
    last_words,
    sentence,
)
from tests.integration.forked import ForkedProcess
from tests.integration.harness import (
    Reader,
    Start,
    Worker,
    clicks,
    committed,
    make_topics,
    produce,
    read_all,
    settings_for,
    wait_for,
    workers,
)

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts workers that check their topics every second, so that three checks do not take nine seconds."""
    quick = partial(ForkedProcess, constants={"stream_app.worker.watches.topic_watch.LOOK_EVERY_S": 1.0})
    with workers(quick) as starter:
        yield starter


@pytest.fixture
def admin(kafka: EmbeddedKafka) -> AdminClient:
    """Changes topics like an operator."""
    return AdminClient({"bootstrap.servers": kafka.bootstrap})


def delete(admin: AdminClient, topic: str) -> None:
    """Delete a topic and wait until it no longer exists."""
    admin.delete_topics([topic])[topic].result(20)
    wait_for("the topic to be deleted", lambda: topic not in admin.list_topics(timeout=20).topics)


def make(admin: AdminClient, topic: str) -> None:
    """Create a topic with the settings of the worker's own."""
    config = {"message.timestamp.type": "LogAppendTime"}
    admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=config)])[topic].result(20)


async def at_rest(
    start: Start, folder: Path, kafka: EmbeddedKafka, prefix: str, records: list[Record]
) -> Worker:
    """A worker that has processed the first records of its new topics."""
    await make_topics(kafka.bootstrap, prefix)
    produce(kafka.bootstrap, prefix, records)
    worker = start(folder, kafka.bootstrap, prefix).wait_ready()
    idle(worker, len(records))
    return worker


async def stopped(
    start: Start, folder: Path, kafka: EmbeddedKafka, prefix: str, records: list[Record]
) -> None:
    """A worker processes the first records of its new topics and stops."""
    worker = await at_rest(start, folder, kafka, prefix, records)
    assert worker.stop() == 0


@pytest.mark.parametrize("name", ["browses", "flags"])
async def test_topic_deleted(
    name: str, kafka: EmbeddedKafka, prefix: str, admin: AdminClient, start: Start, tmp_path: Path
) -> None:
    """Deleting an input or an output stops a running worker; the next start names the missing topic."""
    worker = await at_rest(start, tmp_path, kafka, prefix, clicks(400))
    delete(admin, f"{prefix}{name}")
    assert f"topic {prefix}{name} was deleted: " in last_words(worker)
    assert f"topic {prefix}{name} is missing" in sentence(start(tmp_path, kafka.bootstrap, prefix))


async def test_input_made_anew(
    kafka: EmbeddedKafka, prefix: str, admin: AdminClient, start: Start, tmp_path: Path
) -> None:
    """The offsets of the old topic are wrong for a new one: the worker stops; another group answers all of it."""
    records = clicks(400)
    worker = await at_rest(start, tmp_path, kafka, prefix, records)
    delete(admin, f"{prefix}clicks")
    make(admin, f"{prefix}clicks")
    produce(kafka.bootstrap, prefix, records[:200])
    assert f"topic {prefix}clicks was deleted and made again" in last_words(worker)
    other = f"{prefix}second"
    settings = settings_for(kafka.bootstrap, prefix, group=other)
    await ensure_topics(settings, SHOP.of(settings))
    second = start(tmp_path, kafka.bootstrap, prefix, group=other).wait_ready()
    idle(second, 200)
    assert counts(second) == {5}
    assert second.stop() == 0


async def test_input_made_again_while_no_worker_runs(
    kafka: EmbeddedKafka, prefix: str, admin: AdminClient, start: Start, tmp_path: Path
) -> None:
    """The state knows the ids of its topics: the next start stops before it skips any new record."""
    records = clicks(400)
    await stopped(start, tmp_path, kafka, prefix, records)
    delete(admin, f"{prefix}clicks")
    make(admin, f"{prefix}clicks")
    produce(kafka.bootstrap, prefix, clicks(800))  # more than the state has seen
    second = start(tmp_path, kafka.bootstrap, prefix)
    assert f"topic {prefix}clicks was deleted and made again" in last_words(second)
    assert "partitions begin" not in second.text()


async def test_a_log_that_ends_before_the_state(
    kafka: EmbeddedKafka, prefix: str, admin: AdminClient, start: Start, tmp_path: Path
) -> None:
    """With a state without ids, as an earlier version wrote it, the end of the log shows that the topic is new."""
    await stopped(start, tmp_path, kafka, prefix, clicks(400))
    without_ids(kafka.bootstrap, f"{prefix}{prefix}group-users-changelog")
    second = start(tmp_path, kafka.bootstrap, prefix).wait_ready()
    assert second.stop() == 0
    delete(admin, f"{prefix}clicks")
    make(admin, f"{prefix}clicks")
    produce(kafka.bootstrap, prefix, clicks(200))
    said = last_words(start(tmp_path, kafka.bootstrap, prefix))
    assert (
        f"{prefix}clicks-" in said
        and "ends at offset 50, but the state includes its records up to 100" in said
    )


def without_ids(bootstrap: str, changelog: str) -> None:
    """Write the record of each partition again, like a version without topic ids."""
    last = {m.partition(): m for m in read_all(bootstrap, changelog) if m.key() == META_KEY}
    producer = Producer({"bootstrap.servers": bootstrap})
    for partition, message in last.items():
        meta = msgspec.msgpack.decode(message.value())
        assert len(meta.pop("topic_ids")) == 3
        producer.produce(changelog, msgspec.msgpack.encode(meta), META_KEY, partition)
    assert producer.flush(20) == 0


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
async def test_offsets_put_back(
    guarantee: str, kafka: EmbeddedKafka, prefix: str, admin: AdminClient, start: Start, tmp_path: Path
) -> None:
    """Events already in the state are skipped with a log line, and their offsets are committed again."""
    await make_topics(kafka.bootstrap, prefix)
    produce(kafka.bootstrap, prefix, clicks(400))
    first = start(tmp_path, kafka.bootstrap, prefix, guarantee=guarantee).wait_ready()
    idle(first, 400)
    assert first.stop() == 0
    topic, group = f"{prefix}clicks", f"{prefix}group"
    assert committed(kafka.bootstrap, group, [topic])[topic] == [100] * PARTITIONS
    back = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    admin.alter_consumer_group_offsets([back])[group].result(20)
    second = start(tmp_path, kafka.bootstrap, prefix, guarantee=guarantee).wait_ready()
    wait_for(
        "the commits",
        lambda: committed(kafka.bootstrap, group, [topic])[topic] == [100] * PARTITIONS,
        every_s=0.5,
    )
    assert second.metric("foreclick_events_total") == 0
    assert second.stop() == 0
    for p in range(PARTITIONS):
        assert f"offsets 0 to 99 of {topic}-{p} are in the state already and are passed over" in second.text()
    third = start(tmp_path, kafka.bootstrap, prefix, guarantee=guarantee).wait_ready()
    assert third.stop() == 0
    assert "in the state already" not in third.text()


async def test_offsets_put_forward(
    kafka: EmbeddedKafka, prefix: str, admin: AdminClient, start: Start, tmp_path: Path
) -> None:
    """Records that an operator lets the group skip are skipped, and a log line names them."""
    records = clicks(400)
    await stopped(start, tmp_path, kafka, prefix, records[:200])
    produce(kafka.bootstrap, prefix, records[200:])
    topic, group = f"{prefix}clicks", f"{prefix}group"
    forward = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 80)])
    admin.alter_consumer_group_offsets([forward])[group].result(20)
    second = start(tmp_path, kafka.bootstrap, prefix).wait_ready()
    idle(second, 170)
    assert f"offsets 50 to 79 of {topic}-0 are not in the state and are skipped" in second.text()
    assert second.stop() == 0


async def test_changelog_made_again_while_no_worker_runs(
    kafka: EmbeddedKafka, prefix: str, admin: AdminClient, start: Start, tmp_path: Path
) -> None:
    """A group with offsets but without a state continues after its offsets, and a log line explains the effect."""
    await stopped(start, tmp_path, kafka, prefix, clicks(400))
    delete(admin, f"{prefix}{prefix}group-users-changelog")
    await make_topics(kafka.bootstrap, prefix)
    second = start(tmp_path, kafka.bootstrap, prefix).wait_ready()
    wait_for("the line", lambda: "there is no state of partition 3" in second.text())
    assert f"though the group has committed offset 100 of {prefix}clicks-3" in second.text()
    assert second.stop() == 0


async def test_output_made_anew(
    kafka: EmbeddedKafka, prefix: str, admin: AdminClient, start: Start, tmp_path: Path
) -> None:
    """An output that was deleted and created again gets all later records, without a restart."""
    records = clicks(800)
    worker = await at_rest(start, tmp_path, kafka, prefix, records[:400])
    delete(admin, f"{prefix}predictions")
    make(admin, f"{prefix}predictions")
    produce(kafka.bootstrap, prefix, records[400:])
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    all_answered(reader, records[400:], prefix)
    idle(worker, 800)
    assert worker.stop() == 0
    reader.close()


async def test_partitions_added(
    kafka: EmbeddedKafka, prefix: str, admin: AdminClient, start: Start, tmp_path: Path
) -> None:
    """New partitions would separate users from their state: the worker stops before it reads them."""
    await make_topics(kafka.bootstrap, prefix)
    worker = start(tmp_path, kafka.bootstrap, prefix).wait_ready()
    for name in ("clicks", "browses", "purchases"):
        admin.create_partitions([NewPartitions(f"{prefix}{name}", 6)])[f"{prefix}{name}"].result(20)
    assert f"topic {prefix}clicks has 6 partitions now, 4 when the worker started" in last_words(worker)
    assert f"topic {prefix}predictions has 4 partitions but {prefix}clicks has 6" in sentence(
        start(tmp_path, kafka.bootstrap, prefix)
    )


async def test_retention_has_taken_the_committed_offset(
    kafka: EmbeddedKafka, prefix: str, admin: AdminClient, start: Start, tmp_path: Path
) -> None:
    """Records deleted before they were read are lost; the worker continues with the first remaining record."""
    records = clicks(4000)
    await stopped(start, tmp_path, kafka, prefix, records[:2000])
    produce(kafka.bootstrap, prefix, records[2000:])
    gone = [TopicPartition(f"{prefix}clicks", p, 600) for p in range(PARTITIONS)]
    for deleted in admin.delete_records(gone).values():
        deleted.result(20)
    second = start(tmp_path, kafka.bootstrap, prefix).wait_ready()
    idle(second, 1600)
    left = [r for r in records if not 500 <= r.offset < 600]
    assert ids(read_all(kafka.bootstrap, f"{prefix}predictions")) == Counter(ids_of(left, prefix))
    assert counts(second) == {90}
    assert second.stop() == 0


def limit(admin: AdminClient, topic: str, size: int) -> None:
    """Sets the largest batch of a topic."""
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(20)


async def test_output_larger_than_its_topic_takes(
    kafka: EmbeddedKafka, prefix: str, admin: AdminClient, start: Start, tmp_path: Path
) -> None:
    """A topic with a too small limit stops the worker, even at its start; after a correction, nothing is lost."""
    records = clicks(800)
    worker = await at_rest(start, tmp_path, kafka, prefix, records[:400])
    limit(admin, f"{prefix}predictions", 200)
    produce(kafka.bootstrap, prefix, records[400:])
    assert "larger than its topic accepts" in last_words(worker)
    assert f"topic {prefix}predictions takes batches of at most 200 bytes" in sentence(
        start(tmp_path, kafka.bootstrap, prefix)
    )
    limit(admin, f"{prefix}predictions", 1_048_588)
    third = start(tmp_path, kafka.bootstrap, prefix).wait_ready()
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    all_answered(reader, records, prefix)
    assert counts(third) == {20}
    assert third.stop() == 0
    reader.close()


async def test_transactions_of_other_producers(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """Aborted events are never answered; an open transaction holds back the records after it until it ends.

    Meanwhile a metric counts the waiting records, and readiness reports them.
    """
    await make_topics(kafka.bootstrap, prefix)
    records = clicks(1200)
    worker = start(tmp_path, kafka.bootstrap, prefix, max_idle_ms=20, ready_max_age_ms=1500).wait_ready()
    sender = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{prefix}sender"})
    sender.init_transactions(30)

    def write(some: list[Record]) -> None:
        sender.begin_transaction()
        for r in some:
            sender.produce(prefix + r.topic, r.value, r.key, r.partition)
        assert sender.flush(30) == 0

    write(records[:400])
    sender.abort_transaction(30)
    write(records[400:800])
    sender.commit_transaction(30)
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    reader.read_until("the committed ones", lambda m: len(m) >= 400)
    write(records[800:1000])
    produce(kafka.bootstrap, prefix, records[1000:])
    held = time.monotonic() + 2
    while time.monotonic() < held:
        assert len(reader.poll()) == 400, "a record after an open transaction was answered"
        await asyncio.sleep(0.05)
    assert worker.metric("foreclick_behind_open_transaction_records") == 400
    check = "an open transaction of another producer holds back 100 records of"
    wait_for("readiness to report it", lambda: worker.get("/health/ready")[0] == 503)
    assert check in worker.get("/health/ready")[1]["checks"]["transactions"]
    sender.commit_transaction(30)
    answers = reader.read_until("the rest", lambda m: len(m) >= 800)
    idle(worker, 800)
    ts = Counter(json.loads(m.value())["ts"] for m in answers)
    assert ts == Counter(json.loads(r.value or b"")["ts"] for r in records[400:])
    assert counts(worker) == {20}
    wait_for("readiness", worker.ready)
    assert worker.metric("foreclick_behind_open_transaction_records") == 0
    assert worker.stop() == 0
    reader.close()
