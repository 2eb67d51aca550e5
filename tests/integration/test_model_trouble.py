"""A worker with a missing or damaged model: it reports it, continues or waits, and recovers without a restart."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from model.serving.runtime import label_of
from stream_app.lab.broker import EmbeddedKafka
from tests.integration.answered import ids_of
from tests.integration.harness import Reader, Start, Worker, clicks, committed, make_topics, produce, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


def said(messages: list[Any]) -> list[dict[str, Any]]:
    """Return the predictions as plain data."""
    return [json.loads(m.value()) for m in messages]


def check(worker: Worker, name: str) -> str:
    """Return the text of a check of the readiness probe; empty while the port is not open."""
    worker.check()
    try:
        return worker.get("/health/ready")[1]["checks"][name]
    except OSError:
        return ""


async def test_a_missing_model_degrades_until_it_comes(
    kafka: EmbeddedKafka, prefix: str, start: Start, model: Path, tmp_path: Path
) -> None:
    """State and rules continue with degraded predictions; then the model is copied, and it answers."""
    records, folder = clicks(800), tmp_path / "model"
    await make_topics(kafka.bootstrap, prefix)
    refused, log = start(tmp_path / "r", kafka.bootstrap, prefix, model=folder).wait_end(90)
    assert refused == 1, "a first start does not wait for somebody to read its log"
    assert f"There is no model at {folder}" in log
    assert "FORECLICK_START_WITHOUT_MODEL" in log
    options = {"model": folder, "start_without_model": True}
    worker = start(tmp_path / "w", kafka.bootstrap, prefix, rules_clicks_1m=3, **options)
    wait_for(
        "the worker to report the reason",
        lambda: f"There is no model at {folder}" in check(worker, "model"),
        90,
    )
    produce(kafka.bootstrap, prefix, records[:400])
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    first = said(reader.read_until("degraded predictions", lambda m: len(m) >= 400))
    assert all(p["degraded"] and p["model"] == "none" and p["next_event"] is None for p in first)
    wait_for("the gauges", lambda: worker.metric("foreclick_model_trouble") == 1, 10)
    assert worker.metric("foreclick_degraded_events_total") == 400
    assert worker.metric("foreclick_ready") == 0
    assert worker.get("/health/ready")[0] == 503
    assert worker.get("/health/live")[0] == 200
    assert worker.get("/users/u1-1/")[1]["events"] == 10

    half = tmp_path / "half"  # an unfinished copy is not a complete model
    shutil.copytree(model, half)
    (half / "step.ts").write_bytes(b"")
    half.rename(folder)
    wait_for("the worker to see the half copy", lambda: "is damaged (step.ts" in check(worker, "model"), 90)
    shutil.copy(model / "step.ts", folder / "step.ts")
    worker.wait_ready(90)
    produce(kafka.bootstrap, prefix, records[400:])
    predictions = said(reader.read_until("all predictions", lambda m: len(m) >= 800))
    wait_for("the gauges", lambda: worker.metric("foreclick_model_trouble") == 0, 10)
    wait_for("the model's name", lambda: worker.metric("foreclick_model_info", name="tiny") == 1, 40)
    assert worker.stop() == 0
    predictions = said(reader.read_to_end())
    reader.close()
    assert Counter(p["id"] for p in predictions) == dict.fromkeys(ids_of(records, prefix), 1)
    late = [p for p in predictions if not p.get("degraded")]
    assert {p["id"] for p in late} == ids_of(records[400:], prefix)
    assert all(p["model"] == label_of(model) and p["next_event"] and p["items"] for p in late)


async def test_a_damaged_model_holds_events_up(
    kafka: EmbeddedKafka, prefix: str, start: Start, model: Path, tmp_path: Path
) -> None:
    """With `hold`, nothing is answered or committed until the folder is complete; then the model answers all once."""
    records, folder = clicks(800), tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "candidates.npz").write_bytes(b"damaged")
    await make_topics(kafka.bootstrap, prefix)
    produce(kafka.bootstrap, prefix, records)
    settings = {"model": folder, "model_trouble": "hold", "ready_max_age_ms": 500}
    worker = start(tmp_path / "w", kafka.bootstrap, prefix, **settings)
    wait_for(
        "the worker to report the reason", lambda: "is damaged (candidates.npz" in check(worker, "model"), 90
    )
    wait_for("records to wait", lambda: "the oldest unprocessed record" in check(worker, "age"), 60)
    assert worker.get("/health/live")[0] == 200
    assert worker.metric("foreclick_events_total") == 0
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    assert reader.read_to_end() == []
    assert worker.stop() == 0, "it stops cleanly with held events"
    done = committed(kafka.bootstrap, f"{prefix}group", [f"{prefix}clicks"])[f"{prefix}clicks"]
    assert max(done) <= 0, done
    again = start(tmp_path / "w", kafka.bootstrap, prefix, **settings)
    wait_for(
        "the worker to report the reason", lambda: "is damaged (candidates.npz" in check(again, "model"), 90
    )
    shutil.copy(model / "candidates.npz", folder / "candidates.npz")
    predictions = said(reader.read_until("all predictions", lambda m: len(m) >= 800, 90))
    again.wait_ready(60)
    assert again.metric("foreclick_degraded_events_total") == 0
    assert again.stop() == 0
    predictions = said(reader.read_to_end())
    reader.close()
    assert Counter(p["id"] for p in predictions) == dict.fromkeys(ids_of(records, prefix), 1)
    assert {(p["model"], p.get("degraded")) for p in predictions} == {(label_of(model), None)}


async def test_a_restart_goes_on_without_its_model_and_a_wrong_horizon_stops_it(
    kafka: EmbeddedKafka, prefix: str, start: Start, model: Path, tmp_path: Path
) -> None:
    """Once the group has committed, a missing model degrades predictions; another horizon than its own is refused."""
    await make_topics(kafka.bootstrap, prefix)
    code, log = start(tmp_path / "h", kafka.bootstrap, prefix, model=model, horizon_ms=3_600_000).wait_end(90)
    assert code == 1
    assert "horizon_ms is 3600000" in log
    assert "600000 ms ahead" in log
    first = start(tmp_path / "w", kafka.bootstrap, prefix, model=model, horizon_ms=600_000).wait_ready(90)
    assert first.metric("foreclick_model_created_timestamp_seconds") > 1.7e9
    produce(kafka.bootstrap, prefix, clicks(40))
    wait_for("the events", lambda: first.metric("foreclick_events_total") == 40, 30)
    assert first.stop() == 0
    again = start(tmp_path / "w", kafka.bootstrap, prefix, model=tmp_path / "gone")
    wait_for("the worker to report the reason", lambda: "There is no model" in check(again, "model"), 90)
    assert again.stop() == 0
