"""A worker as an operator sees it: health, metrics, look-ups, logs, the table."""

import json
import urllib.error
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from stream_app.contract.records import Record
from stream_app.lab.broker import EmbeddedKafka
from tests.integration.harness import (
    Reader,
    Start,
    Worker,
    clicks,
    make_topics,
    produce,
    read_all,
    wait_for,
)

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

T0 = 1_700_000_000_000  # Unix ms

#: Series that a dashboard may rely on.
NAMES = (
    "foreclick_events_total", "foreclick_outputs_total", "foreclick_dead_letters_total",
    "foreclick_duplicates_total", "foreclick_late_events_total", "foreclick_out_of_order_events_total",
    "foreclick_commits_total", "foreclick_evictions_total", "foreclick_rebalances_total",
    "foreclick_recovered_records_total", "foreclick_recovery_seconds_total",
    "foreclick_consumer_lag_records", "foreclick_watermark_delay_seconds", "foreclick_resident_users",
    "foreclick_ready", "foreclick_model_info", "foreclick_batch_events_bucket",
    "foreclick_stage_seconds_bucket", "foreclick_latency_seconds_bucket", "process_resident_memory_bytes",
)  # fmt: skip


def probe(worker: Worker, path: str) -> tuple[int, Any] | None:
    """Return status and body of a page, None while the port is not open."""
    worker.check()
    try:
        return worker.get(path)
    except (urllib.error.URLError, ConnectionError):
        return None


def known_stream() -> tuple[list[Record], dict[str, int]]:
    """Return a stream of two partitions and three topics, and its number of valid events per type.

    It has six users, six duplicates, two late events, two values that are not JSON, and a purchase without an item.
    All events of a user are in one topic, so that the silence of another topic cannot change their order.
    """
    records: list[Record] = []
    offsets: Counter[tuple[str, int]] = Counter()

    def add(topic: str, user: int, value: Any) -> None:
        place = topic, user % 2
        key = f"u{user}".encode()
        body = value if isinstance(value, bytes) else json.dumps({"user_id": f"u{user}", **value}).encode()
        records.append(Record(*place, offsets[place], 0, key, body, ()))
        offsets[place] += 1

    topics = ("clicks", "browses", "purchases")
    events = [{"ts": T0 + 1000 * i, "event_id": f"e{i}", "item_id": f"item-{i % 30}"} for i in range(300)]
    for i, event in enumerate([*events, *events[-6:]]):
        add(topics[i % 3], i % 6, event)
    for user in (0, 1):
        add(topics[user], user, {"ts": T0 - 600_000, "event_id": "old", "item_id": "item-0"})
        add("clicks", user, b"\xff")
    add("purchases", 0, {"ts": T0})
    return records, {"click": 101, "browse": 101, "purchase": 100}


async def test_metrics_and_health_of_a_known_stream(
    kafka: EmbeddedKafka, prefix: str, start: Start, model: Path, tmp_path: Path
) -> None:
    """All promised series exist, and their totals match the stream, before and after a restart."""
    await make_topics(kafka.bootstrap, prefix, partitions=2)
    records, events = known_stream()
    good = sum(events.values())
    worker = start(tmp_path, kafka.bootstrap, prefix, model=model).wait_ready()
    produce(kafka.bootstrap, prefix, records)
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    reader.read_until("all predictions", lambda m: len(m) >= good)
    wait_for("no lag", lambda: worker.metric("foreclick_consumer_lag_records") == 0, 20)
    wait_for("the gauges", lambda: worker.metric("foreclick_resident_users") == 6, 10)
    text = worker.get("/metrics")[1]
    for name in NAMES:
        assert f"\n{name}" in text, name
    for kind, count in events.items():
        assert worker.metric("foreclick_events_total", type=kind) == count, kind
    assert worker.metric("foreclick_outputs_total", topic=f"{prefix}predictions") == good
    assert worker.metric("foreclick_outputs_total", topic=f"{prefix}dead-letters") == 3
    assert worker.metric("foreclick_outputs_total", topic=f"{prefix}flags") == len(
        read_all(kafka.bootstrap, f"{prefix}flags")
    )
    letters = [
        dict(m.headers())["foreclick.reason"] for m in read_all(kafka.bootstrap, f"{prefix}dead-letters")
    ]
    for reason in set(letters):
        shown = worker.metric("foreclick_dead_letters_total", reason=reason.decode())
        assert shown == letters.count(reason)
    assert worker.metric("foreclick_duplicates_total") == 6
    assert worker.metric("foreclick_late_events_total") == 2
    assert worker.metric("foreclick_commits_total", result="ok") >= 1
    assert worker.metric("foreclick_commits_total", result="failed") == 0
    assert worker.metric("foreclick_resident_users") == 6
    assert worker.metric("foreclick_latency_seconds_count") == good
    assert worker.metric("foreclick_batch_events_sum") == good
    # No state of users yet, only the record with which the worker took over each partition.
    assert worker.metric("foreclick_recovered_records_total") == 2
    assert worker.metric("foreclick_model_info", name="tiny") == 1
    assert worker.metric("foreclick_ready") == 1
    assert worker.stop() == 0
    reader.close()
    again = start(tmp_path, kafka.bootstrap, prefix, model=model).wait_ready()
    assert again.metric("foreclick_recovered_records_total") >= 8  # six users, two partitions
    assert again.metric("foreclick_events_total") == 0
    wait_for("the gauges", lambda: again.metric("foreclick_resident_users") == 6, 10)
    assert again.stop() == 0


async def test_look_ups(kafka: EmbeddedKafka, prefix: str, start: Start, model: Path, tmp_path: Path) -> None:
    """A user's page shows windows, events and the last prediction; odd ids are found, unknown ones are a 404."""
    await make_topics(kafka.bootstrap, prefix, partitions=1)
    odd = ["u 1", "ä/ö", "a?b&c=d", "100%", "..", "x" * 128, "日本", "a+b"]
    event = {"item_id": "item-3"}
    records = [
        Record("clicks", 0, i, 0, user.encode(), json.dumps({**event, "user_id": user, "ts": T0 + i}).encode(), ())
        for i, user in enumerate(odd)
    ]  # fmt: skip
    worker = start(tmp_path, kafka.bootstrap, prefix, model=model).wait_ready()
    produce(kafka.bootstrap, prefix, records)
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    messages = reader.read_until("all predictions", lambda m: len(m) >= len(odd))
    reader.close()
    published = {p["user_id"]: p for p in (json.loads(m.value()) for m in messages)}
    for i, user in enumerate(odd):
        status, shown = worker.get(f"/users/{quote(user, safe='')}/")
        assert status == 200, user
        assert (shown["user_id"], shown["events"], shown["clock"]) == (user, 1, T0 + i)
        assert shown["last_ts"] == shown["clock"]
        assert shown["last_offsets"] == {"clicks": i, "browses": None, "purchases": None}
        assert shown["recent"][0]["item_id"] == "item-3"
        assert shown["windows"]["1h"]["click"] == 1
        assert shown["last_prediction"]["model"] == published[user]["model"]
        assert shown["last_prediction"]["items"] == published[user]["items"]
    for unknown in ("nobody", "%00", quote("ä" * 100, safe="")):
        status, shown = worker.get(f"/users/{unknown}/")
        assert status == 404
        assert "error" in shown
    assert worker.stop() == 0


async def test_readiness_through_the_life_of_a_worker(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """A worker is live immediately, ready only with partitions and state; a 503 names the reason."""
    await make_topics(kafka.bootstrap, prefix, partitions=2)
    produce(kafka.bootstrap, prefix, clicks(60_000, users=60_000, partitions=2))
    first = start(tmp_path, kafka.bootstrap, prefix)
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    reader.read_until("all predictions", lambda m: len(m) >= 60_000)
    reader.close()
    assert first.stop() == 0
    again = start(tmp_path, kafka.bootstrap, prefix)
    seen: dict[str, str] = {}

    def look() -> bool:
        answer = probe(again, "/health/ready")
        if answer is None:
            return False
        status, body = answer
        assert (status == 200) == body["ok"]
        assert status in (200, 503)
        seen.update({check: why for check, why in body["checks"].items() if not why.startswith("ok")})
        if status == 503:
            assert any(not detail.startswith("ok") for detail in body["checks"].values())
            assert again.get("/health/live")[0] == 200
        return status == 200

    wait_for("the worker to be ready", look, every_s=0.0)
    assert seen.get("assigned") == "waiting for the group to hand out partitions"
    assert seen.get("recovered", "").startswith(("state not read back", "reading state back")), seen
    assert again.metric("foreclick_recovered_records_total") >= 60_000
    assert again.get("/users/u1-29999/")[1]["events"] == 1
    # More workers than partitions: the third has nothing to do and reports it.
    others = [start(tmp_path / str(n), kafka.bootstrap, prefix) for n in range(2)]

    def one_is_idle() -> bool:
        answers = [probe(w, "/health/ready") for w in (again, *others)]
        idle = [body["checks"]["assigned"] for status, body in filter(None, answers) if status == 503]
        return idle == ["the group has more workers than partitions: none for this one"]

    wait_for("one worker without partitions, the others ready", one_is_idle)
    assert [w.stop() for w in (again, *others)] == [0, 0, 0]


async def test_logs_are_json(
    kafka: EmbeddedKafka, prefix: str, start_from_scratch: Start, tmp_path: Path
) -> None:
    """Every line of the log, libraries and warnings included, is one JSON object with the same basic fields."""
    await make_topics(kafka.bootstrap, prefix)
    worker = start_from_scratch(tmp_path, kafka.bootstrap, prefix, log_level="debug").wait_ready()
    produce(kafka.bootstrap, prefix, clicks(100))
    wait_for("the events", lambda: worker.metric("foreclick_events_total") == 100)
    wait_for("the line with the place", lambda: f"http://127.0.0.1:{worker.port}/" in worker.text())
    assert worker.stop() == 0
    lines = [json.loads(line) for line in worker.text().splitlines()]
    assert all({"level", "logger", "timestamp", "message"} <= set(line) for line in lines)
    said = [line["message"] for line in lines if line["logger"].startswith("stream_app")]
    for message in ("worker starts", "partitions assigned", "state recovered", "ready", "stopped cleanly"):
        assert message in said
    by_message = {line["message"]: line for line in lines if line["logger"].startswith("stream_app")}
    assert by_message["ready"]["partitions"] == 4 and by_message["ready"]["web"].startswith(
        "http://127.0.0.1:"
    )
    assert "standbys" not in by_message["partitions assigned"]
    assert all(line["partitions"] for line in lines if line["message"] == "partitions revoked")
    assert not [line for line in lines if line["level"] in ("error", "critical")]
