"""The counts in stock Faust: a windowed table with its changelog, one `send` per event.

Buffer and batch sizes are the best of several tried: the defaults (no linger, 16 KiB) are slower.
"""

import os
from datetime import timedelta

import faust

BROKER, SOURCE, OUT = os.environ["BROKER"], os.environ["IN"], os.environ["OUT"]
WINDOW_S = 60
PLACE = {"click": 0, "browse": 1, "purchase": 2}

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
table = app.Table("counts", default=lambda: [0, 0, 0], partitions=4)
counts = table.tumbling(WINDOW_S, expires=timedelta(days=1)).relative_to_field(Click.ts)


@app.agent(clicks)
async def count(events: faust.Stream[Click]) -> None:
    """Count each event in its window and publish an answer."""
    async for event in events:
        now = list(counts[event.user_id].current())
        now[PLACE[event.event_type]] += 1
        counts[event.user_id] = now
        answer = {
            "event_id": event.event_id,
            "user_id": event.user_id,
            "window_start": int(event.ts // WINDOW_S) * WINDOW_S,
            "clicks": now[0],
            "browses": now[1],
            "purchases": now[2],
        }
        await answers.send(key=event.user_id, value=answer)
