"""Predictions in stock Faust: `take()` micro-batches through the same TorchScript module, one `send` per event.

A user's row (hidden state, last items, counts of the window, time of the last event) is a value of a Faust table, so
that it survives a restart, like the state of the other systems. Of the window features of the model, it keeps only
those of the last minute and uses them for the longer windows too, which is less work than Foreclick does.
"""

import os
from pathlib import Path

import faust
import numpy as np
import torch

from model.data.windows import WINDOW_FEATURES
from model.serving.runtime import LAST_EVENTS, Runtime, StepBatch, StepResult

BROKER, SOURCE, OUT = os.environ["BROKER"], os.environ["IN"], os.environ["OUT"]
BATCH, WITHIN_S, WINDOW_S = 4_096, 0.05, 60
KINDS = ("click", "browse", "purchase")
PLACE = {kind: number for number, kind in enumerate(KINDS)}
SPANS = 5  # of the window features

torch.set_num_threads(1)
runtime = Runtime.load(Path(os.environ["MODEL"]), "cpu")
runtime.warm_up()
ROW = np.dtype(
    [
        ("ts", "f8"),  # Unix s, of the last event
        ("window", "i8"),  # start, Unix s
        ("counts", "f4", 3),  # of the window, by event type
        ("recent", "i4", LAST_EVENTS),  # last distinct items
        ("hidden", "f4", runtime.hidden),
    ]
)

app = faust.App(
    os.environ["RID"],
    broker=f"kafka://{BROKER}",
    store="memory://",
    datadir=os.environ["STATE"],
    topic_partitions=4,
    topic_replication_factor=1,
    web_enabled=False,
    producer_linger=0.02,
    producer_max_batch_size=256 << 10,
    stream_buffer_maxsize=16_384,
    broker_max_poll_records=4_000,
)


class Click(faust.Record, serializer="json"):
    """An event of the input topic."""

    event_id: str
    user_id: str
    event_type: str
    item_id: int
    ts: float


clicks = app.topic(SOURCE, key_type=str, value_type=Click)
answers = app.topic(OUT, key_type=str, key_serializer="raw", value_serializer="json")
# A batch has events of all partitions, but a table uses the partition of the current event: so set a partitioner.
users = app.Table("users", key_type=bytes, value_type=bytes, partitions=4, use_partitioner=True)


def fresh() -> np.ndarray:
    """Return the row of a new user, shape (1,)."""
    row = np.zeros(1, ROW)
    row["ts"] = -1.0
    row["recent"] = runtime.none_item
    return row


def advance(events: list[Click], slots: list[int], rows: list[np.ndarray]) -> StepBatch:
    """Apply the events to their users' rows, in order, and return the columns of the model's step."""
    m = len(events)
    kind = np.array([PLACE[event.event_type] for event in events], np.int8)
    item = np.array([runtime.item_index(str(event.item_id)) for event in events], np.int32)
    gap_s, first = np.empty(m, np.float32), np.empty(m, np.bool_)
    recent, counts = np.empty((m, LAST_EVENTS), np.int32), np.empty((m, len(KINDS)), np.float32)
    for i, event in enumerate(events):
        row = rows[slots[i]][0]
        start = int(event.ts // WINDOW_S) * WINDOW_S
        if row["window"] != start:
            row["window"] = start
            row["counts"] = 0
        row["counts"][kind[i]] += 1
        first[i] = row["ts"] < 0
        gap_s[i] = -1.0 if first[i] else event.ts - row["ts"]
        row["ts"] = event.ts
        others = [known for known in row["recent"].tolist() if known != item[i]]
        row["recent"] = [item[i], *others][:LAST_EVENTS]
        recent[i], counts[i] = row["recent"], row["counts"]
    windows = np.zeros((m, len(WINDOW_FEATURES)), np.float32)
    windows[:, : SPANS * len(KINDS)] = np.tile(counts, SPANS)
    return StepBatch(
        slots=np.array(slots, np.int64),
        kind=kind,
        item=item,
        category=np.full(m, runtime.none_category, np.int32),
        gap_s=gap_s,
        ts=np.array([round(event.ts * 1000) for event in events], np.int64),
        price=np.full(m, np.nan, np.float32),
        quantity=np.ones(m, np.int32),
        windows=windows,
        recent=recent,
        first=first,
    )


def predictions(events: list[Click], result: StepResult) -> list[dict[str, object]]:
    """Return the output of each event."""
    names = runtime.item_ids
    columns = zip(
        events,
        result.next_event.tolist(),
        result.purchase.tolist(),
        result.items.tolist(),
        result.scores.tolist(),
        strict=True,
    )
    return [
        {
            "event_id": event.event_id,
            "user_id": event.user_id,
            "next_event": dict(zip(KINDS, chances, strict=True)),
            "purchase_probability": purchase,
            "items": [
                {"item_id": names[number], "score": score}
                for number, score in zip(numbers, scores, strict=True)
                if number >= 0
            ],
        }
        for event, chances, purchase, numbers, scores in columns
    ]


@app.agent(clicks)
async def predict(stream: faust.Stream[Click]) -> None:
    """Publish a prediction for each event."""
    async for events in stream.take(BATCH, within=WITHIN_S):
        slot_of: dict[str, int] = {}
        slots = [slot_of.setdefault(event.user_id, len(slot_of)) for event in events]
        keys = [user.encode() for user in slot_of]
        rows = [np.frombuffer(users[key], ROW).copy() if key in users else fresh() for key in keys]
        hidden_states = runtime.hidden_states(len(rows))
        everyone = np.arange(len(rows))
        hidden_states.write(everyone, np.concatenate([row["hidden"] for row in rows]))
        result = runtime.step(hidden_states, advance(events, slots, rows))
        for key, row, hidden in zip(keys, rows, hidden_states.read(everyone), strict=True):
            row["hidden"] = hidden
            users[key] = row.tobytes()
        for event, prediction in zip(events, predictions(events, result), strict=True):
            await answers.send(key=event.user_id, value=prediction)
