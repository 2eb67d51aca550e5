"""Health over HTTP with a real broker: commits that hang, a processing thread that is stuck."""

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream_app.agents.shop import create_app
from stream_app.contract.records import Record
from stream_app.lab.broker import EmbeddedKafka
from stream_app.processing.shop_processor import ShopProcessor
from tests.integration.faust_member import until
from tests.integration.harness import (
    Reader,
    Start,
    clicks,
    free_port,
    make_topics,
    produce,
    read_all,
    settings_for,
    wait_for,
)

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


def fetch(port: int, path: str) -> tuple[int, Any]:
    """Return status and JSON body of a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def hold(processor: ShopProcessor, when: Callable[[], bool]) -> tuple[threading.Event, threading.Event]:
    """Block the processor's thread at its next step once `when` is true.

    Returns two events: one is set when it is blocked, the other releases it.
    """
    stands, free, advance = threading.Event(), threading.Event(), processor.apply_batch

    def held(now: float, *, ended: bool = False) -> Any:
        if when():
            stands.set()
            assert free.wait(60), "the test did not release the thread within 60 s"
        return advance(now, ended=ended)

    processor.apply_batch = held
    return stands, free


async def test_the_first_dead_letter_without_a_broker(tmp_path: Path) -> None:
    """The broker fails before the first record to a topic: the worker waits, reports it, and loses none."""
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        await make_topics(broker.bootstrap, "p-", 1)
        settings = settings_for(
            broker.bootstrap, "p-", web="", commit_interval_ms=100, data_dir=str(tmp_path / "data")
        )
        app = create_app(settings, None, partitions=1)
        health, processor = app.pipeline.health, app.pipeline.processor
        health.set_model(None)
        health.commit_grace_s = 1.0
        stands, free = hold(
            processor, lambda: bool(processor.partitions) and processor.merge(0).read(0) == 11
        )
        await asyncio.to_thread(produce, broker.bootstrap, "p-", clicks(10, partitions=1))
        await app.start()
        try:
            reader = Reader(broker.bootstrap, "p-predictions")
            await asyncio.to_thread(reader.read_until, "the predictions", lambda m: len(m) == 10)
            reader.close()
            bad = Record("clicks", 0, 10, 0, b"u", b"no JSON", ())
            await asyncio.to_thread(produce, broker.bootstrap, "p-", [bad])
            await until("the record to have arrived", stands.is_set)
            await asyncio.to_thread(broker.kill)
            free.set()
            await until("the probe to report it", lambda: "broker" in health.ready()[1]["commits"], 20)
            await asyncio.to_thread(broker.start)
            await until("the app to be healthy", lambda: health.ready()[0], 60)
        finally:
            free.set()
            await app.stop()
        predictions = await asyncio.to_thread(read_all, broker.bootstrap, "p-predictions")
        assert len(predictions) == 10
        assert len(await asyncio.to_thread(read_all, broker.bootstrap, "p-dead-letters")) == 1


async def test_commits_that_hang(start: Start, tmp_path: Path) -> None:
    """Without its broker, a worker reports that commits hang; it stays live, and ready when the broker is back."""
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        await make_topics(broker.bootstrap, "p-")
        produce(broker.bootstrap, "p-", clicks(60_000))
        reader = Reader(broker.bootstrap, "p-predictions")
        worker = start(tmp_path / "w", broker.bootstrap, "p-", max_batch=16)
        reader.read_until("a first part", lambda m: len(m) > 100)
        reader.close()
        broker.kill()

        def hangs() -> bool:
            worker.check()
            status, body = worker.get("/health/ready")
            return status == 503 and "waiting for the broker" in body["checks"]["commits"]

        wait_for("the probe to report that commits hang", hangs, 30)
        assert worker.get("/health/live")[0] == 200
        broker.start()
        worker.wait_ready(90)
        wait_for("the lag to disappear", lambda: worker.metric("foreclick_consumer_lag_records") == 0, 90)
        assert worker.stop() == 0


async def test_a_stuck_processing_thread(kafka: EmbeddedKafka, prefix: str, tmp_path: Path) -> None:
    """Only a thread that is busy with one call for too long makes the worker not live."""
    await make_topics(kafka.bootstrap, prefix)
    port = free_port()
    settings = settings_for(
        kafka.bootstrap,
        prefix,
        web=f"127.0.0.1:{port}",
        data_dir=str(tmp_path / "data"),
        commit_interval_ms=100,
    )
    app = create_app(settings, None, partitions=4)
    health = app.pipeline.health
    health.set_model(None)
    health.stuck_s = 3.0
    sticks = threading.Event()
    _, free = hold(app.pipeline.processor, sticks.is_set)

    def status(path: str) -> int:
        return fetch(port, path)[0]

    await app.start()
    try:
        await until("the app to be ready", lambda: health.ready()[0])
        assert await asyncio.to_thread(status, "/health/live") == 200
        sticks.set()
        began = time.monotonic()
        await until("the thread to be stuck", lambda: not health.live()[0], 20)
        assert time.monotonic() - began >= 2.0
        code, body = await asyncio.to_thread(fetch, port, "/health/live")
        assert code == 503
        assert body["checks"]["processing"].startswith("silent for")
        assert body["checks"]["loop"] == "ok"
        free.set()
        await until("the thread to move on", lambda: health.live()[0], 20)
        assert await asyncio.to_thread(status, "/health/live") == 200
    finally:
        free.set()
        await app.stop()
