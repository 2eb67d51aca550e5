"""Whatever happens to the broker, the worker answers all events, or stops with a clear message.

Restart and SIGKILL of the broker are in `test_start_and_stop`, what happens to its topics in `test_topic_trouble`.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from stream_app.contract.records import INPUT_TOPICS
from stream_app.contract.topics import SHOP
from stream_app.kafka.topics import ensure_topics
from stream_app.lab.broker import EmbeddedKafka
from stream_app.lab.broker.nodes import KafkaNodes
from stream_app.recordings.recording import RecordingWriter
from tests.integration.answered import PARTITIONS, all_answered, counts, idle, last_words
from tests.integration.harness import (
    Reader,
    Start,
    clicks,
    committed,
    free_port,
    make_topics,
    produce,
    settings_for,
    wait_for,
)

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]


@contextlib.contextmanager
def frozen(broker: EmbeddedKafka) -> Iterator[None]:
    """Freeze the broker's process: connections stay open, and no request is answered."""
    process = psutil.Process(broker.pid)
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


async def test_unreachable_longer_than_the_session(start: Start, tmp_path: Path) -> None:
    """If the broker answers nothing for more than twice the session timeout, the worker waits, then continues."""
    prefix, records = "p-", clicks(8000)
    short = {"session_timeout_ms": 2000, "heartbeat_ms": 500}
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        await make_topics(broker.bootstrap, prefix)
        worker = start(tmp_path / "w", broker.bootstrap, prefix, max_batch=64, **short).wait_ready()
        produce(broker.bootstrap, prefix, records[:4000])
        reader = Reader(broker.bootstrap, f"{prefix}predictions")
        reader.read_until("a first part", lambda m: len(m) > 1000)
        with frozen(broker):
            await asyncio.sleep(5)  # the duration itself is tested
            worker.check()
        produce(broker.bootstrap, prefix, records[4000:])
        all_answered(reader, records, prefix)
        wait_for("the worker to be ready", worker.ready)
        wait_for("the last commit", lambda: worker.metric("foreclick_consumer_lag_records") == 0)
        assert counts(worker) == {200}, "an event was lost or applied twice"
        assert worker.stop() == 0
        reader.close()


async def test_a_signal_is_heard_while_the_start_waits_for_the_broker(
    start_from_scratch: Start, tmp_path: Path
) -> None:
    """If the broker fails while the worker joins its group for the first time, SIGTERM still ends the worker."""
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        await make_topics(broker.bootstrap, "p-")
        worker = start_from_scratch(tmp_path / "w", broker.bootstrap, "p-")
        wait_for("the worker to begin", lambda: "worker starts" in worker.text(), every_s=0.01)
        broker.kill()
        worker.process.terminate()
        code, text = worker.wait_end(45)
        assert code in {0, 1}, text[-2000:]


async def test_the_broker_goes_while_the_worker_starts(start_from_scratch: Start, tmp_path: Path) -> None:
    """If the broker fails at any moment of the start, the worker waits for it, or ends with a message."""
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        await make_topics(broker.bootstrap, "p-")
        for i, delay_s in enumerate((0.0, 0.3)):
            worker = start_from_scratch(tmp_path / f"w{i}", broker.bootstrap, "p-")
            wait_for("the worker to begin", lambda w=worker: "worker starts" in w.text(), every_s=0.01)
            await asyncio.sleep(delay_s)
            broker.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(6)
            broker.start()
            if worker.process.returncode is None:
                worker.wait_ready()
                assert worker.stop() == 0
            else:
                last_words(worker)


async def test_slow_broker(start: Start, tmp_path: Path) -> None:
    """With a broker that is frozen three quarters of the time there is no rebalance; each record is answered once."""
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
    """Of three brokers one dies during traffic and restarts, then another stops: nothing is lost."""
    prefix, records = "p-", clicks(9000)
    with KafkaNodes(tmp_path / "kafka") as nodes:
        settings = settings_for(nodes.bootstrap, prefix, partitions=PARTITIONS, replication=3)
        await ensure_topics(settings, SHOP.of(settings))
        worker = start(tmp_path / "w", nodes.bootstrap, prefix, max_batch=64).wait_ready()
        produce(nodes.bootstrap, prefix, records[:3000])
        nodes[2].kill()
        produce(nodes.bootstrap, prefix, records[3000:6000])
        nodes[2].start()
        wait_for("all replicas to be in sync", lambda: in_step(nodes, f"{prefix}clicks") == {3})
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
    """Return the number of in-sync replicas of the topic's partitions."""
    described = AdminClient({"bootstrap.servers": nodes.bootstrap}).list_topics(topic, timeout=20)
    return {len(p.isrs) for p in described.topics[topic].partitions.values()}


async def test_damaged_log(start: Start, tmp_path: Path) -> None:
    """A flipped bit on the broker's disk stops the worker; once that batch is skipped, all others are answered."""
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


@pytest.mark.parametrize(
    ("advertised", "why"),
    [("kafka-internal.invalid:9092", "its name does not resolve"), ("127.0.0.1:1", "connection refused")],
)
def test_an_advertised_address_that_cannot_be_reached(advertised: str, why: str, tmp_path: Path) -> None:
    """Each command names the address that the broker advertises, and does not claim to have waited."""
    small = tmp_path / "small.stream"
    with RecordingWriter(small, dict.fromkeys(INPUT_TOPICS, 1)) as out:
        out.extend(clicks(4, partitions=1))
    port = free_port()
    broker = EmbeddedKafka(
        tmp_path / "kafka", port=port, properties={"advertised.listeners": f"PLAINTEXT://{advertised}"}
    )
    with broker:
        for command in (
            ["topics"],
            ["topics", "--create"],
            ["worker"],
            ["tail", "predictions"],
            ["record", str(tmp_path / "new.stream")],
            ["replay", str(small)],
        ):
            done = subprocess.run(
                [sys.executable, "-c", "from stream_app.cli import main; main()", *command],
                env={
                    **os.environ,
                    "FORECLICK_BROKERS": broker.bootstrap,
                    "FORECLICK_DATA_DIR": str(tmp_path),
                },
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            said = done.stderr.strip().splitlines()[-1]
            assert done.returncode == 1, command
            wanted = (
                f"foreclick: the broker at {broker.bootstrap} answers but names itself {advertised}, which"
            )
            assert said.startswith(wanted), (command, said)
            assert f"({why})" in said and "advertised.listeners" in said and "tried for" not in said
