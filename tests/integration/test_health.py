"""Health over HTTP where it takes a real broker: commits that hang, a processing thread that is stuck."""

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from stream_app.app import create_app
from stream_app.broker import EmbeddedKafka
from tests.integration.harness import (
    Reader,
    Start,
    clicks,
    free_port,
    make_topics,
    produce,
    settings_for,
    wait_for,
)
from tests.integration.member import until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


def fetch(port: int, path: str) -> tuple[int, Any]:
    """Status and JSON body of a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def test_commits_that_hang(start: Start, tmp_path: Path) -> None:
    """Without its broker a worker in mid-stream says that commits hang; a restart would not help. Then it is well."""
    records = clicks(20_000)
    with EmbeddedKafka(tmp_path / "kafka") as broker:
        await make_topics(broker.bootstrap, "p-")
        produce(broker.bootstrap, "p-", records)
        worker = start(tmp_path / "w", broker.bootstrap, "p-", max_batch=16)
        reader = Reader(broker.bootstrap, "p-predictions")
        reader.read_until("a first part", lambda m: len(m) > 100)
        reader.close()
        broker.kill()

        def hangs() -> bool:
            worker.check()
            status, body = worker.get("/health/ready")
            return status == 503 and "waiting for the broker" in body["checks"]["commits"]

        wait_for("the probe to say that commits hang", hangs, 30)
        assert worker.get("/health/live")[0] == 200
        broker.start()
        worker.wait_ready(90)
        wait_for("the lag to go", lambda: worker.metric("foreclick_consumer_lag_records") == 0, 90)
        assert worker.stop() == 0


async def test_a_stuck_processing_thread(kafka: EmbeddedKafka, prefix: str, tmp_path: Path) -> None:
    """A thread at one piece of work for too long makes the worker not live, and only that does."""
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
    health, engine = app.pipeline.health, app.pipeline.engine
    health.set_model(None)
    health.stuck_s = 3.0
    free = threading.Event()
    advance = engine.advance

    def stuck(now: float, *, ended: bool = False) -> Any:
        assert free.wait(60), "the test did not let the thread go within 60 s"
        return advance(now, ended=ended)

    def status(path: str) -> int:
        return fetch(port, path)[0]

    await app.start()
    try:
        await until("the app to be ready", lambda: health.ready()[0])
        assert await asyncio.to_thread(status, "/health/live") == 200
        engine.advance = stuck
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
