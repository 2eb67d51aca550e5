"""The counts in Pathway: `windowby` with the user as instance; it publishes changed counts at its own commits."""

import os

import pathway as pw

KAFKA = {"bootstrap.servers": os.environ["BROKER"], "security.protocol": "plaintext"}
COMMIT_MS = 20
WINDOW_S = 60


class Click(pw.Schema):
    """An event of the input topic."""

    event_id: str
    user_id: str
    event_type: str
    item_id: int
    ts: float


clicks = pw.io.kafka.read(
    {**KAFKA, "group.id": os.environ["RID"], "auto.offset.reset": "earliest"},
    topic=os.environ["IN"],
    format="json",
    schema=Click,
    autocommit_duration_ms=COMMIT_MS,
)
events = clicks.select(
    pw.this.user_id,
    second=pw.cast(int, pw.this.ts // 1),
    click=pw.cast(int, pw.this.event_type == "click"),
    browse=pw.cast(int, pw.this.event_type == "browse"),
    purchase=pw.cast(int, pw.this.event_type == "purchase"),
)
windows = events.windowby(
    pw.this.second, window=pw.temporal.tumbling(duration=WINDOW_S), instance=pw.this.user_id
)
counts = windows.reduce(
    user_id=pw.this._pw_instance,
    window_start=pw.this._pw_window_start,
    clicks=pw.reducers.sum(pw.this.click),
    browses=pw.reducers.sum(pw.this.browse),
    purchases=pw.reducers.sum(pw.this.purchase),
)
pw.io.kafka.write(
    counts, {**KAFKA, "linger.ms": "20", "batch.size": str(256 << 10)}, os.environ["OUT"], format="json"
)
pw.run(monitoring_level=pw.MonitoringLevel.NONE)
