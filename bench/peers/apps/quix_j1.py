"""The counts in Quix Streams: a tumbling window that emits its value at every event (RocksDB and changelog)."""

import os
from typing import Any

from quixstreams import Application

Fields = dict[str, Any]
WINDOW_MS = 60_000
COUNTER = {"click": "clicks", "browse": "browses", "purchase": "purchases"}

app = Application(
    broker_address=os.environ["BROKER"],
    consumer_group=os.environ["RID"],
    state_dir=os.environ["STATE"],
    auto_offset_reset="earliest",
    processing_guarantee=os.environ.get("GUARANTEE", "at-least-once"),
    loglevel="WARNING",
    consumer_extra_config={"queued.min.messages": 200_000, "fetch.message.max.bytes": 4 << 20},
    producer_extra_config={
        "enable.idempotence": True,
        "linger.ms": 20,
        "batch.size": 256 << 10,
        "queue.buffering.max.messages": 500_000,
    },
)


def add(counts: Fields, event: Fields) -> Fields:
    """Count an event."""
    counts[COUNTER[event["event_type"]]] += 1
    counts["event_id"] = event["event_id"]
    return counts


def first(event: Fields) -> Fields:
    """Begin a window with its first event."""
    return add({"event_id": "", "clicks": 0, "browses": 0, "purchases": 0}, event)


def answer(window: Fields, key: str, _timestamp: int, _headers: object) -> Fields:
    """Return the output for an event."""
    return {**window["value"], "user_id": key, "window_start": window["start"] // 1000}


source = app.topic(
    os.environ["IN"],
    key_deserializer="str",
    value_deserializer="json",
    timestamp_extractor=lambda value, headers, timestamp, kind: round(value["ts"] * 1000),
)
answers = app.topic(os.environ["OUT"], key_serializer="str", value_serializer="json")
windows = app.dataframe(source).tumbling_window(duration_ms=WINDOW_MS, grace_ms=10_000)
windows.reduce(reducer=add, initializer=first).current().apply(answer, metadata=True).to_topic(answers)

if __name__ == "__main__":
    app.run()
