"""The counts in Bytewax: a stateful map over users, snapshots in its recovery store.

Its window operators emit only when a window closes, so this code keeps the current window of each user itself.
"""

import os
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kafka
from bytewax.dataflow import Dataflow

Event = dict[str, Any]
State = tuple[int, int, int, int]  # start of the window (Unix s), clicks, browses, purchases
BROKERS = [os.environ["BROKER"]]
WINDOW_S = 60


def decode(message: Any) -> tuple[str, Event]:
    """Return an event with its user as key."""
    return message.key.decode(), orjson.loads(message.value)


def count(state: State | None, event: Event) -> tuple[State, Event]:
    """Return the state after an event, and its answer."""
    start = int(event["ts"] // WINDOW_S) * WINDOW_S
    _, clicks, browses, purchases = state if state and state[0] == start else (start, 0, 0, 0)
    kind = event["event_type"]
    if kind == "click":
        clicks += 1
    elif kind == "browse":
        browses += 1
    else:
        purchases += 1
    answer = {
        "event_id": event["event_id"],
        "user_id": event["user_id"],
        "window_start": start,
        "clicks": clicks,
        "browses": browses,
        "purchases": purchases,
    }
    return (start, clicks, browses, purchases), answer


def encode(keyed: tuple[str, Event]) -> KafkaSinkMessage[bytes, bytes]:
    """Return the record to publish."""
    return KafkaSinkMessage(keyed[0].encode(), orjson.dumps(keyed[1]))


flow = Dataflow("counts")
source = kafka.input(
    "read",
    flow,
    brokers=BROKERS,
    topics=[os.environ["IN"]],
    batch_size=5_000,
    add_config={"queued.min.messages": "100000", "statistics.interval.ms": "0"},
)
answers = op.stateful_map("count", op.map("decode", source.oks, decode), count)
kafka.output(
    "write",
    op.map("encode", answers, encode),
    brokers=BROKERS,
    topic=os.environ["OUT"],
    add_config={
        "enable.idempotence": "true",
        "linger.ms": "20",
        "batch.size": str(256 << 10),
        "queue.buffering.max.messages": "500000",
    },
)
