"""J1: running counts of each user's events by type in tumbling minutes of event time, one output per event."""

import time
from typing import Any

import numpy as np

from bench.jobs.environment import Job, run
from bench.jobs.events import JobDecoder
from stream_app.contract.event_columns import Events, text_bytes
from stream_app.contract.message_columns import MessageColumns
from stream_app.contract.records import EVENT_TYPES
from stream_app.decoding.name_table import NameTable
from stream_app.kernels.jit import jit
from stream_app.kernels.memory import pointer_to
from stream_app.processing.micro_batch import StepOutput
from stream_app.processing.prediction_json_kernel import INTEGER_BYTES, literal, put, put_integer, put_text
from stream_app.processing.processor import Processor
from stream_app.state.layout import Layout, describe
from stream_app.state.users import Rows

WINDOW_MS = 60_000
#: Windows kept per user: the newest, and the one before it for late events.
KEPT = 2

COUNTS = np.dtype(
    [
        ("source", "i8"),  # last source offset applied
        ("head", "i8"),  # number of the newest window
        ("count", "i4", (KEPT, len(EVENT_TYPES))),  # window number n is at n % KEPT
    ],
    align=True,
)

_EVENT_ID, _USER, _START = literal('{"event_id":"'), literal('","user_id":"'), literal('","window_start":')
_CLICKS, _BROWSES, _PURCHASES = literal(',"clicks":'), literal(',"browses":'), literal(',"purchases":')
_FIXED = sum(map(len, (_EVENT_ID, _USER, _START, _CLICKS, _BROWSES, _PURCHASES))) + 4 * INTEGER_BYTES + 1


class Counts(Processor):
    """Counts each event once and answers with the counts of its window so far."""

    def __init__(self, job: Job, partitions: int) -> None:
        rows = Rows(job.settings.resident_users, _layout())
        super().__init__(
            job.settings, job.topics, rows, JobDecoder(NameTable(lambda _: 0, 0), 0), partitions, "none"
        )

    def apply_batch(self, now: float, *, ended: bool = False) -> StepOutput | None:
        """Count one micro-batch and write the answers."""
        taken = self.take(now, ended)
        if not taken:
            return None
        out = StepOutput()
        for number, came in taken:
            start = time.perf_counter()
            counts = np.empty((len(came), len(EVENT_TYPES)), np.int32)
            new = _count(self.rows.rows, self.rows.dirty, self.slots([(number, came)]), came.data, counts)
            events = came
            if not new.all():
                out.already_applied += int(len(came) - np.count_nonzero(new))
                events, counts = came.take(new), counts[new]
            counted = time.perf_counter()
            out.events += len(events)
            self.sequence[number] += len(events)
            if len(events):
                out.columns.append((self.topics.outputs["predictions"], number, _encode(events, counts)))
            encoded = time.perf_counter()
            out.seconds["state"] = out.seconds.get("state", 0.0) + counted - start
            out.seconds["encode"] = out.seconds.get("encode", 0.0) + encoded - counted
        return out

    def predict_batch(self, out: StepOutput) -> None:
        """Do nothing more: the apply stage has done all the work."""

    def model_changed(self, partition: int) -> None:
        """Do nothing: there is no model."""

    def look_up(self, user_id: str) -> dict[str, Any] | None:
        """Return the counts of a user."""
        slot = self.rows.find_anywhere(user_id)
        if slot is None:
            return None
        row = self.rows.rows[slot]
        return {"user_id": user_id, "head": int(row["head"]), "count": row["count"].tolist()}


def _layout() -> Layout:
    empty = np.zeros(1, COUNTS)
    empty["source"] = -1
    axes = {"count": (KEPT, tuple((name, 1) for name in EVENT_TYPES))}
    return Layout(empty, axes, first=describe(COUNTS, axes))


def _encode(events: Events, counts: np.ndarray) -> MessageColumns:
    d = events.data
    out = np.empty(len(d) * _FIXED + 6 * int(text_bytes(d).sum()), np.uint8)
    ends = np.zeros(len(d) + 1, np.int64)
    _write(d, events.text, counts, out, ends)
    assert ends[-1] <= len(out)
    sizes = np.diff(ends).astype(np.int32)
    return MessageColumns(events.text, d["text_at"], d["user_bytes"], out, ends[:-1], sizes)


@jit
def _count(rows, dirty, slots, events, counts):  # type: ignore[no-untyped-def]
    """Apply events in order and fill the counts (n, types) after each; return which were new (n,)."""
    new = np.zeros(len(events), np.bool_)
    for i in range(len(events)):
        e = events[i]
        row = rows[slots[i]]
        if e.offset <= row.source:
            continue
        new[i] = True
        row.source = e.offset
        dirty[slots[i]] = True
        window = e.ts // WINDOW_MS
        if window > row.head:
            for w in range(max(window - KEPT, row.head) + 1, window + 1):
                row.count[w % KEPT, :] = 0
            row.head = window
        place = window % KEPT
        known = window > row.head - KEPT
        if known:
            row.count[place, e.event_type] += 1
        for k in range(counts.shape[1]):
            counts[i, k] = row.count[place, k] if known else 0
    return new


@jit
def _write(events, text, counts, out, ends):  # type: ignore[no-untyped-def]
    target, texts = pointer_to(out), pointer_to(text)
    at = 0
    for i in range(len(events)):
        e = events[i]
        at = put(target, at, _EVENT_ID)
        at = put_text(target, at, texts, e.text_at + e.user_bytes, e.event_bytes)
        at = put(target, at, _USER)
        at = put_text(target, at, texts, e.text_at, e.user_bytes)
        at = put(target, at, _START)
        at = put_integer(target, at, e.ts // WINDOW_MS * (WINDOW_MS // 1000))
        at = put_integer(target, put(target, at, _CLICKS), counts[i, 0])
        at = put_integer(target, put(target, at, _BROWSES), counts[i, 1])
        at = put_integer(target, put(target, at, _PURCHASES), counts[i, 2])
        target[at] = 125  # }
        at += 1
        ends[i + 1] = at


if __name__ == "__main__":
    run(Counts)
