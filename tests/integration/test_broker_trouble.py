"""Whatever happens to the broker and its topics, the worker answers all, or stops with a sentence that says why.

Restart and SIGKILL of the broker are in `test_trouble`.
"""

import asyncio
import contextlib
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from stream_app.broker import EmbeddedKafka
from stream_app.broker.nodes import KafkaNodes
from stream_app.records import Record
from stream_app.topics import ensure_topics
from tests.integration.harness import (
    Reader,
    Worker,
    clicks,
    committed,
    make_topics,
    produce,
    read_all,
    settings_for,
    wait_for,
)

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]

Start = Callable[..., Worker]

PARTITIONS = 4


def ids_of(records: list[Record], prefix: str) -> set[str]:
    """The prediction ids that the records must get."""
    return {f"{prefix}{r.topic}-{r.partition}-{r.offset}" for r in records}


def ids(messages: list[Any]) -> Counter[str]:
    """How often each prediction id is there."""
    return Counter(json.loads(m.value())["id"] for m in messages)


def idle(worker: Worker, events: int) -> None:
    """Returns once the worker has processed so many events, and nothing waits."""
    wait_for(
        f"{events} events",
        lambda: (
            worker.metric("foreclick_events_total") == events
            and worker.metric("foreclick_consumer_lag_records") == 0
        ),
    )


def counts(worker: Worker, users: int = 40) -> set[int]:
    """Events of each user in the state, as `clicks` names them."""
    names = [f"u{p}-{n}" for p in range(PARTITIONS) for n in range(users // PARTITIONS)]
    return {worker.get(f"/users/{name}/")[1]["events"] for name in names}


def last_words(worker: Worker) -> str:
    """The sentence of a worker that stops by itself, with exit code 1."""
    code, text = worker.wait_end()
    assert code == 1, text[-3000:]
    last = text.strip().splitlines()[-1]
    assert last.startswith("foreclick: the worker stopped: "), text[-3000:]
    return last


@contextlib.contextmanager
def frozen(broker: EmbeddedKafka) -> Iterator[None]:
    """The broker's process stands still: connections stay open, and nothing is answered."""
    process = psutil.Process(broker.pid)
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def all_answered(reader: Reader, records: list[Record], prefix: str) -> Counter[str]:
    """Waits until every record has its prediction; returns how often each came."""
    wanted = ids_of(records, prefix)
    found = ids(reader.read_until("all predictions", lambda m: len(ids(m)) >= len(wanted)))
    assert set(found) == wanted
    return found


# --- the broker


async def test_unreachable_longer_than_the_session(start: Start, tmp_path: Path) -> None:
    """A broker that answers nothing for 15 s, twice the session timeout: the worker waits, then all goes on."""
    prefix, records = "p-", clicks(8000)
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        await make_topics(broker.bootstrap, prefix)
        worker = start(tmp_path / "w", broker.bootstrap, prefix, max_batch=64).wait_ready()
        produce(broker.bootstrap, prefix, records[:4000])
        reader = Reader(broker.bootstrap, f"{prefix}predictions")
        reader.read_until("a first part", lambda m: len(m) > 1000)
        with frozen(broker):
            await asyncio.sleep(15)
            worker.check()
        produce(broker.bootstrap, prefix, records[4000:])
        all_answered(reader, records, prefix)
        wait_for("the worker to be ready", worker.ready)
        wait_for("the last commit", lambda: worker.metric("foreclick_consumer_lag_records") == 0)
        assert counts(worker) == {200}, "an event was lost or applied twice"
        assert worker.stop() == 0
        reader.close()


async def test_a_signal_is_heard_while_the_start_waits_for_the_broker(start: Start, tmp_path: Path) -> None:
    """The broker goes while the worker joins its group for the first time: SIGTERM ends it all the same."""
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        await make_topics(broker.bootstrap, "p-")
        worker = start(tmp_path / "w", broker.bootstrap, "p-")
        wait_for("the worker to begin", lambda: "worker starts" in worker.text(), every_s=0.01)
        broker.kill()
        worker.process.terminate()
        code, text = worker.wait_end(45)
        assert code in {0, 1}, text[-2000:]


async def test_slow_broker(start: Start, tmp_path: Path) -> None:
    """A broker that stands still three quarters of the time: no rebalance, each record answered once."""
    prefix, records = "p-", clicks(8000)
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        await make_topics(broker.bootstrap, prefix)
        worker = start(tmp_path / "w", broker.bootstrap, prefix, max_batch=64).wait_ready()
        writing = asyncio.create_task(asyncio.to_thread(produce, broker.bootstrap, prefix, records))
        pulses = 0
        while not writing.done() or pulses < 25:
            with frozen(broker):
                await asyncio.sleep(0.3)
            await asyncio.sleep(0.1)
            pulses += 1
            assert pulses < 120, "waited for the records to be written"
        await writing
        reader = Reader(broker.bootstrap, f"{prefix}predictions")
        assert set(all_answered(reader, records, prefix).values()) == {1}
        idle(worker, len(records))
        assert worker.metric("foreclick_rebalances_total") == 1
        assert counts(worker) == {200}
        assert worker.stop() == 0
        reader.close()


async def test_leader_change(start: Start, tmp_path: Path) -> None:
    """Of three brokers one dies in mid-stream and comes back, then another stops: nothing is lost."""
    prefix, records = "p-", clicks(9000)
    with KafkaNodes(tmp_path / "kafka") as nodes:
        await ensure_topics(settings_for(nodes.bootstrap, prefix, partitions=PARTITIONS, replication=3))
        worker = start(tmp_path / "w", nodes.bootstrap, prefix, max_batch=64).wait_ready()
        produce(nodes.bootstrap, prefix, records[:3000])
        nodes[2].kill()
        produce(nodes.bootstrap, prefix, records[3000:6000])
        nodes[2].start()
        wait_for("all replicas to be in step", lambda: in_step(nodes, f"{prefix}clicks") == {3})
        nodes[3].stop()
        produce(nodes.bootstrap, prefix, records[6000:])
        reader = Reader(nodes.bootstrap, f"{prefix}predictions")
        all_answered(reader, records, prefix)
        wait_for("the last commit", lambda: worker.metric("foreclick_consumer_lag_records") == 0)
        assert counts(worker) == {225}, "an event was lost or applied twice"
        assert worker.stop() == 0
        ends = committed(nodes.bootstrap, f"{prefix}group", [f"{prefix}clicks"])[f"{prefix}clicks"]
        assert ends == [2250] * PARTITIONS
        reader.close()


def in_step(nodes: KafkaNodes, topic: str) -> set[int]:
    """How many replicas of the topic's partitions are in step."""
    described = AdminClient({"bootstrap.servers": nodes.bootstrap}).list_topics(topic, timeout=20)
    return {len(p.isrs) for p in described.topics[topic].partitions.values()}


async def test_damaged_log(start: Start, tmp_path: Path) -> None:
    """A bit that the broker's disk turned stops the worker; once that batch is given up, all others are answered."""
    prefix, records = "p-", clicks(800)
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        await make_topics(broker.bootstrap, prefix)
        produce(broker.bootstrap, prefix, records[:400])
        first = start(tmp_path / "w", broker.bootstrap, prefix).wait_ready()
        idle(first, 400)
        assert first.stop() == 0
        produce(broker.bootstrap, prefix, records[400:])
        broker.stop()
        log = broker.data_dir / "data" / f"{prefix}clicks-0" / f"{0:020}.log"
        content = bytearray(log.read_bytes())
        content[content.index(records[400].value or b"")] ^= 1
        log.write_bytes(content)
        broker.start()
        assert "Invalid CRC" in last_words(start(tmp_path / "w", broker.bootstrap, prefix))
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        for deleted in admin.delete_records([TopicPartition(f"{prefix}clicks", 0, 200)]).values():
            deleted.result(20)
        second = start(tmp_path / "w", broker.bootstrap, prefix).wait_ready()
        reader = Reader(broker.bootstrap, f"{prefix}predictions")
        all_answered(reader, [r for r in records if r.partition or r.offset < 100], prefix)
        wait_for("300 events", lambda: second.metric("foreclick_events_total") == 300)
        assert second.stop() == 0
        reader.close()


# --- topics


@pytest.fixture
def admin(kafka: EmbeddedKafka) -> AdminClient:
    """Does to topics what an operator does."""
    return AdminClient({"bootstrap.servers": kafka.bootstrap})


def delete(admin: AdminClient, topic: str) -> None:
    """Deletes a topic and waits until it is gone."""
    admin.delete_topics([topic])[topic].result(20)
    wait_for("the topic to be gone", lambda: topic not in admin.list_topics(timeout=20).topics)


def make(admin: AdminClient, topic: str) -> None:
    """Makes a topic as the worker's own are."""
    config = {"message.timestamp.type": "LogAppendTime"}
    admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=config)])[topic].result(20)


@pytest.mark.parametrize("name", ["browses", "flags"])
async def test_topic_deleted(
    name: str, kafka: EmbeddedKafka, prefix: str, admin: AdminClient, start: Start, tmp_path: Path
) -> None:
    """An input or an output that is deleted under a worker stops it; the next start says what is missing."""
    await make_topics(kafka.bootstrap, prefix)
    produce(kafka.bootstrap, prefix, clicks(400))
    worker = start(tmp_path, kafka.bootstrap, prefix).wait_ready()
    idle(worker, 400)
    delete(admin, f"{prefix}{name}")
    assert f"topic {prefix}{name} was deleted: " in last_words(worker)
    code, text = start(tmp_path, kafka.bootstrap, prefix).wait_end()
    assert code == 1
    assert f"topic {prefix}{name} is missing" in text


async def test_input_made_anew(
    kafka: EmbeddedKafka, prefix: str, admin: AdminClient, start: Start, tmp_path: Path
) -> None:
    """Offsets of a new topic say nothing about the old one: the worker stops; another group answers all of it."""
    await make_topics(kafka.bootstrap, prefix)
    records = clicks(400)
    produce(kafka.bootstrap, prefix, records)
    worker = start(tmp_path, kafka.bootstrap, prefix).wait_ready()
    idle(worker, 400)
    delete(admin, f"{prefix}clicks")
    make(admin, f"{prefix}clicks")
    produce(kafka.bootstrap, prefix, records[:200])
    assert f"topic {prefix}clicks was deleted and made anew" in last_words(worker)
    other = f"{prefix}second"
    await ensure_topics(settings_for(kafka.bootstrap, prefix, group=other))
    second = start(tmp_path, kafka.bootstrap, prefix, group=other).wait_ready()
    idle(second, 200)
    assert counts(second) == {5}
    assert second.stop() == 0


async def test_output_made_anew(
    kafka: EmbeddedKafka, prefix: str, admin: AdminClient, start: Start, tmp_path: Path
) -> None:
    """An output that was emptied by making it anew gets what comes from then on, without a restart."""
    await make_topics(kafka.bootstrap, prefix)
    records = clicks(800)
    produce(kafka.bootstrap, prefix, records[:400])
    worker = start(tmp_path, kafka.bootstrap, prefix).wait_ready()
    idle(worker, 400)
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
    """More partitions would send users where their state is not: the worker stops before it reads them."""
    await make_topics(kafka.bootstrap, prefix)
    worker = start(tmp_path, kafka.bootstrap, prefix).wait_ready()
    for name in ("clicks", "browses", "purchases"):
        admin.create_partitions([NewPartitions(f"{prefix}{name}", 6)])[f"{prefix}{name}"].result(20)
    assert f"topic {prefix}clicks has 6 partitions now, 4 when the worker started" in last_words(worker)
    code, text = start(tmp_path, kafka.bootstrap, prefix).wait_end()
    assert code == 1
    assert f"topic {prefix}predictions has 4 partitions but {prefix}clicks has 6" in text


async def test_retention_has_taken_the_committed_offset(
    kafka: EmbeddedKafka, prefix: str, admin: AdminClient, start: Start, tmp_path: Path
) -> None:
    """What was deleted before it was read is lost; the worker goes on with the first record that is left, once."""
    await make_topics(kafka.bootstrap, prefix)
    records = clicks(4000)
    produce(kafka.bootstrap, prefix, records[:2000])
    first = start(tmp_path, kafka.bootstrap, prefix).wait_ready()
    idle(first, 2000)
    assert first.stop() == 0
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
    """A topic that takes too little stops the worker, also at its start; once that is mended, nothing is lost."""
    await make_topics(kafka.bootstrap, prefix)
    records = clicks(800)
    produce(kafka.bootstrap, prefix, records[:400])
    worker = start(tmp_path, kafka.bootstrap, prefix).wait_ready()
    idle(worker, 400)
    limit(admin, f"{prefix}predictions", 200)
    produce(kafka.bootstrap, prefix, records[400:])
    assert "larger than the topic takes" in last_words(worker)
    code, text = start(tmp_path, kafka.bootstrap, prefix).wait_end()
    assert code == 1
    assert f"topic {prefix}predictions takes batches of at most 200 bytes" in text
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
    """Aborted events are never answered; an open transaction holds back what follows on it, until it ends."""
    await make_topics(kafka.bootstrap, prefix)
    records = clicks(1200)
    worker = start(tmp_path, kafka.bootstrap, prefix, max_idle_ms=20).wait_ready()
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
        assert len(reader.poll()) == 400, "something behind an open transaction was answered"
        await asyncio.sleep(0.05)
    sender.commit_transaction(30)
    answers = reader.read_until("the rest", lambda m: len(m) >= 800)
    idle(worker, 800)
    ts = Counter(json.loads(m.value())["ts"] for m in answers)
    assert ts == Counter(json.loads(r.value or b"")["ts"] for r in records[400:])
    assert counts(worker) == {20}
    assert worker.stop() == 0
    reader.close()
