"""Trouble of every kind: the error is one clear sentence, and nothing is lost."""

import asyncio
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from model.serving.runtime import ModelError, Runtime
from stream_app.contract.topics import SHOP
from stream_app.kafka.topics import ensure_topics
from stream_app.lab.broker import EmbeddedKafka
from stream_app.state.users import META_KEY
from tests.integration.answered import ids, ids_of, sentence
from tests.integration.harness import (
    Reader,
    Start,
    clicks,
    committed,
    free_port,
    make_topics,
    produce,
    read_all,
    settings_for,
    wait_for,
)
from tests.model.tiny import tiny_model

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]


# --- it cannot start


def test_no_broker(start_from_scratch: Start, tmp_path: Path) -> None:
    """Without a broker, the worker gives up in bounded time and names the address."""
    address = f"127.0.0.1:{free_port()}"
    said = sentence(start_from_scratch(tmp_path, address, "p-"), 40)
    assert f"no Kafka broker answers at {address}" in said


async def test_missing_and_unequal_topics(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """Topics that are missing or have another number of partitions are named."""
    said = sentence(start(tmp_path, kafka.bootstrap, prefix))
    assert f"topics {prefix}clicks, {prefix}browses, {prefix}purchases, {prefix}predictions" in said
    assert "are missing: run `foreclick topics --create`" in said
    other = f"b{prefix}"
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([NewTopic(f"{other}browses", 3, 1)])[f"{other}browses"].result(20)
    counts = {"clicks": 4, "purchases": 4, "predictions": 4, "flags": 4, "dead-letters": 4}
    made = admin.create_topics([NewTopic(f"{other}{name}", n, 1) for name, n in counts.items()])
    for future in made.values():
        future.result(20)
    said = sentence(start(tmp_path, kafka.bootstrap, other))
    assert f"topic {other}browses has 3 partitions but {other}clicks has 4" in said


def test_model_folder_missing_or_damaged(tmp_path: Path) -> None:
    """A missing model folder and a flipped byte in any of its files are reported with the folder's name.

    `test_model_trouble` tests what a worker does then.
    """
    with pytest.raises(ModelError, match=str(tmp_path / "nothing")):
        Runtime.load(tmp_path / "nothing", "cpu")
    good = tiny_model(tmp_path / "good")
    bad = tmp_path / "bad"
    files = sorted(f.relative_to(good) for f in good.rglob("*") if f.is_file())
    assert len(files) > 2
    for file in files:
        shutil.copytree(good, bad, dirs_exist_ok=True)
        content = bytearray((bad / file).read_bytes())
        content[len(content) // 2] ^= 1
        (bad / file).write_bytes(content)
        with pytest.raises(ModelError) as caught:
            Runtime.load(bad, "cpu")
        assert str(bad) in str(caught.value), file
        assert "\n" not in str(caught.value)


def test_all_wrong_settings_are_listed(start_from_scratch: Start, tmp_path: Path) -> None:
    """Three mistakes are reported at once, each with the name of its variable."""
    worker = start_from_scratch(tmp_path, "nonsense", "p-", max_batch="many", guarantee="twice")
    code, text = worker.wait_end()
    assert code == 1
    assert "3 settings are wrong" in text
    for name in ("FORECLICK_BROKERS", "FORECLICK_MAX_BATCH", "FORECLICK_GUARANTEE"):
        assert name in text
    assert "Traceback" not in text


async def test_web_port_taken(kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path) -> None:
    """A web port in use is reported with its address, and the worker does not run without its health pages."""
    await make_topics(kafka.bootstrap, prefix)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = sentence(start(tmp_path, kafka.bootstrap, prefix, web=address))
    assert f"cannot serve metrics and health at {address}: Address already in use" in said


async def test_changelog_of_another_format(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """The worker stops with an error at a state in an unknown format."""
    await make_topics(kafka.bootstrap, prefix)
    settings = settings_for(kafka.bootstrap, prefix)
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    meta = {
        "format": 999, "row_bytes": 1, "hidden": 0, "model": "none", "watermark": 0, "sequence": 0,
        "positions": [0, 0, 0], "generation": 1,
    }  # fmt: skip
    producer.produce(SHOP.of(settings).changelog, msgspec.msgpack.encode(meta), META_KEY, 0)
    assert producer.flush(20) == 0
    code, text = start(tmp_path, kafka.bootstrap, prefix).wait_end()
    assert code == 1
    last = text.strip().splitlines()[-1]
    assert "the changelog has state format 999" in last
    assert "FORECLICK_GROUP" in last
    assert "start it again" not in last, "it would fail in the same way"


# --- the worker or other processes stop


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_broker_restarted(how: str, start: Start, tmp_path: Path) -> None:
    """The broker stops and restarts during traffic: the worker keeps running and answers all events."""
    prefix, records = "p-", clicks(12_000)
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        await make_topics(broker.bootstrap, prefix)
        produce(broker.bootstrap, prefix, records[:6000])
        worker = start(tmp_path / "w", broker.bootstrap, prefix, max_batch=64)
        reader = Reader(broker.bootstrap, f"{prefix}predictions")
        reader.read_until("a first part", lambda m: len(m) > 1000)
        reader.close()
        getattr(broker, how)()
        await asyncio.sleep(2.0)  # long enough for requests to fail
        broker.start()
        produce(broker.bootstrap, prefix, records[6000:])
        reader = Reader(broker.bootstrap, f"{prefix}predictions")
        wanted = ids_of(records, prefix)
        reader.read_until("all predictions", lambda m: len(ids(m)) >= len(wanted))
        wait_for("the worker to be ready", worker.ready)
        wait_for("the last commit", lambda: worker.metric("foreclick_consumer_lag_records") == 0)
        assert worker.stop() == 0, worker.text()[-3000:]
        assert set(ids(reader.read_to_end())) == wanted
        reader.close()
        ends = committed(broker.bootstrap, f"{prefix}group", [f"{prefix}clicks"])[f"{prefix}clicks"]
        assert ends == [3000] * 4


async def test_sigterm_under_load(
    kafka: EmbeddedKafka, prefix: str, start_from_scratch: Start, tmp_path: Path
) -> None:
    """SIGTERM during traffic: exit code 0, all answers are committed, the next worker continues without repeats."""
    records, stopped = clicks(200_000), threading.Event()
    await make_topics(kafka.bootstrap, prefix)
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    first = start_from_scratch(tmp_path, kafka.bootstrap, prefix, max_batch=64).wait_ready()

    def write() -> int:
        """Send records until the worker has ended, however fast the machine is; return how many."""
        count = 0
        while count < len(records) and not stopped.is_set():
            count += produce(kafka.bootstrap, prefix, records[count : count + 1000])
        return count

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write)
        try:
            reader.read_until("a first part", lambda m: len(m) > 2000)
            assert first.stop() == 0
        finally:
            stopped.set()
    records = records[: writing.result() + 1000]
    produce(kafka.bootstrap, prefix, records[-1000:])
    answered = len(reader.read_to_end())
    assert answered < len(records), "the signal came too late for this test"
    done = committed(kafka.bootstrap, f"{prefix}group", [f"{prefix}clicks"])[f"{prefix}clicks"]
    assert sum(done) == answered, "exactly the published answers must be committed"
    began = time.monotonic()
    second = start_from_scratch(tmp_path, kafka.bootstrap, prefix).wait_ready()
    assert time.monotonic() - began < 30
    found = ids(reader.read_until("all predictions", lambda m: len(m) >= len(records)))
    assert second.stop() == 0
    assert set(found) == ids_of(records, prefix)
    assert set(found.values()) == {1}
    reader.close()


async def test_more_data_than_buffers(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """With small buffers, fetching pauses and continues: each event is answered once, with bounded memory."""
    records = clicks(20_000)
    await make_topics(kafka.bootstrap, prefix)
    worker = start(tmp_path, kafka.bootstrap, prefix, buffered_records=200, max_batch=64).wait_ready()
    before = worker.metric("process_resident_memory_bytes")
    produce(kafka.bootstrap, prefix, records)
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    found = ids(reader.read_until("all predictions", lambda m: len(m) >= len(records)))
    assert set(found) == ids_of(records, prefix)
    assert set(found.values()) == {1}
    assert worker.metric("foreclick_rebalances_total") == 1, "a heartbeat was missed"
    assert worker.metric("process_resident_memory_bytes") - before < 150e6
    assert worker.stop() == 0
    reader.close()


async def test_prefix_and_group_keep_apart(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """Another prefix does not see these topics; another group answers everything again from its own state."""
    records, other = clicks(400), f"other-{prefix}"
    for each in (prefix, other):
        await make_topics(kafka.bootstrap, each)
    stranger = start(tmp_path, kafka.bootstrap, other).wait_ready()
    first = start(tmp_path, kafka.bootstrap, prefix).wait_ready()
    produce(kafka.bootstrap, prefix, records)
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    reader.read_until("all predictions", lambda m: len(m) >= 400)
    second = settings_for(kafka.bootstrap, prefix, group=f"{prefix}second")
    await ensure_topics(second, SHOP.of(second))
    second = start(tmp_path, kafka.bootstrap, prefix, group=f"{prefix}second")
    found = ids(reader.read_until("the predictions of both groups", lambda m: len(m) >= 800))
    assert set(found) == ids_of(records, prefix)
    assert set(found.values()) == {2}
    assert second.get("/users/u1-1/")[1] == first.get("/users/u1-1/")[1]
    assert stranger.metric("foreclick_events_total") == 0
    assert stranger.get("/users/u1-1/")[0] == 404
    assert read_all(kafka.bootstrap, f"{other}predictions") == []
    assert [w.stop() for w in (stranger, first, second)] == [0, 0, 0]
    reader.close()
