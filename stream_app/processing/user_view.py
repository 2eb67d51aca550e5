"""A user's row as plain data, for look-ups."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stream_app.contract.records import EVENT_TYPES, INPUT_TOPICS
from stream_app.decoding.name_table import NameTable
from stream_app.state.users import Users
from stream_app.state.window_buckets import FIRST_BUCKET, LAST_EVENTS, WINDOWS


def windows(row: np.void) -> dict[str, dict[str, float]]:
    """Counts of each event type and money spent in each sliding window, on the user's own clock."""
    shown = {}
    for w, (name, *_) in enumerate(WINDOWS):
        part = slice(FIRST_BUCKET[w], FIRST_BUCKET[w + 1])
        counts = row["count"][part].sum(axis=0).tolist()
        amount = round(float(row["amount"][part].sum()), 2)
        shown[name] = {**dict(zip(EVENT_TYPES, counts, strict=True)), "amount": amount}
    return shown


def recent_events(row: np.void, items: NameTable, categories: NameTable) -> list[dict[str, Any]]:
    """The last events, newest first. A name that this process has not seen is shown as "#" and its hash."""
    n = int(row["events"])
    shown = []
    for number in range(n - 1, max(-1, n - 1 - LAST_EVENTS), -1):
        e = row["recent"][number % LAST_EVENTS]
        price = float(e["price"])
        shown.append(
            {
                "type": EVENT_TYPES[int(e["kind"])],
                "ts": int(e["ts"]),
                "item_id": items.name_of(int(e["item_hash"])),
                "category_id": categories.name_of(int(e["category_hash"])),
                "price": None if np.isnan(price) else round(price, 4),
                "quantity": int(e["quantity"]),
            }
        )
    return shown


def user(
    users: Users, slot: int, items: NameTable, categories: NameTable, others: Sequence[int] = ()
) -> dict[str, Any]:
    """Everything stored about a user, as plain data; `others`: the user's slots in other partitions."""
    row = users.rows[slot]
    found = {
        "user_id": users.name(slot),
        "partition": int(users.partition[slot]),
        "clock": int(row["clock"]),
        "last_ts": int(row["clock"]),  # the same value, under the name that events use
        "events": int(row["events"]),
        "late": int(row["late"]),
        "session_start": int(row["session_start"]),
        "source_offsets": row["source"].tolist(),
        "last_offsets": {
            topic: offset if offset >= 0 else None
            for topic, offset in zip(INPUT_TOPICS, row["source"].tolist(), strict=True)
        },
        "windows": windows(row),
        "recent": recent_events(row, items, categories),
    }
    if others:
        found["other_partitions"] = [int(users.partition[other]) for other in others]
    return found
