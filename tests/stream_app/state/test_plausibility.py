"""Impossible state is refused with its place, or skipped on request."""

from typing import Any

import msgspec
import numpy as np
import pytest

from stream_app.contract.events import MAX_TS_MS
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import Record
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.recordings.recording import RecordingReader
from stream_app.state.errors import StateError
from stream_app.state.plausibility import WRONG, beyond, wrong_meta, wrong_rows
from stream_app.state.row_layout import LAYOUT
from stream_app.state.users import META_KEY, decode_meta, encode_meta
from tests.reference import data
from tests.stream_app.helpers import SETTINGS, Log, Worker, changelog
from tests.stream_app.strategies import T0

SKIP = msgspec.structs.replace(SETTINGS, skip_damaged_state=True)
VALUE = b'{"user_id": "%s", "ts": %d, "item_id": "i1"}'


def record(user: str, offset: int) -> Record:
    return Record("clicks", 0, offset, T0 + offset, user.encode(), VALUE % (user.encode(), T0 + offset))


def worker() -> Worker:
    """A store with three users, which are written to the changelog."""
    made = Worker([[record(user, i) for i, user in enumerate(["ann", "bob", "eve"])], [], []]).finish()
    made.checkpoint()
    return made


def rewritten(made: Worker, user: str, change: Any) -> Log:
    """Return the changelog, followed by another row of one user."""
    users = made.processor.users
    slot = users.slots(0, [user])
    change(users.rows[int(slot[0])])
    users.dirty[slot] = True
    users.flagged[slot] = users.rows["flagged"][slot]
    return [*made.log, *users.take_dirty(0).each()]


def put(*path: Any, value: Any) -> Any:
    """Write a value into a field of a row."""

    def change(row: Any) -> None:
        *way, last = path
        for step in way:
            row = row[step]
        row[last] = value

    return change


FORGED = {
    "clock far ahead": (put("clock", value=2**62), 1),
    "clock before 1970": (put("clock", value=-1), 1),
    "session": (put("session_start", value=MAX_TS_MS + 1), 1),
    "last time of a type": (put("last_ts", 2, value=-5), 1),
    "time of a flag": (put("flagged", 0, value=2**62), 1),
    "head of a window": (put("head", 4, value=2**40), 1),
    "time of a recent event": (put("recent", 7, "ts", value=2**61), 1),
    "offset": (put("source", 1, value=-2), 2),
    "events": (put("events", value=-3), 3),
    "late": (put("late", value=-1), 3),
    "bucket": (put("count", (52, 2), value=-1), 3),
    "number in the partition": (put("sequence", value=-1), 3),
    "purchases": (put("purchases", value=-1), 3),
    "type of a recent event": (put("recent", 0, "kind", value=2**31 - 1), 4),
    "type below zero": (put("recent", 19, "kind", value=-1), 4),
    "money": (put("spent", value=np.nan), 5),
    "money of a bucket": (put("amount", 0, value=-1.0), 5),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_row_that_cannot_be_true(name: str) -> None:
    """Each such row is refused with its place and a hash of its key, or skipped: only its user starts from zero."""
    change, number = FORGED[name]
    made = worker()
    log = rewritten(made, "bob", change)
    with pytest.raises(StateError) as refused:
        Worker(made.topics).start([0, 0, 0], log)
    said = str(refused.value)
    assert f"users, partition 0, offset {len(log) - 1}, a key of hash" in said and WRONG[number] in said
    assert "bob" not in said and "\n" not in said and "FORECLICK_SKIP_DAMAGED_STATE" in said
    other = Worker(made.topics, SKIP)
    other.start([0, 0, 0], log)
    assert set(other.rows()) == {"ann", "eve"}
    assert other.processor.look_up("bob") is None and other.processor.look_up("ann")
    other.processor.merge(0).skip([4, 0, 0])
    written = other.checkpoint()
    assert written is not None and (b"bob", None) in written.records.each()


def test_rows_of_honest_workers_are_true() -> None:
    """No row that a worker wrote counts as damaged."""
    for model in ("model", "none"):
        stored = data.changelog("at_least_once", model)
        processor = ShopProcessor(SETTINGS, partitions=2)
        for partition in range(2):
            processor.assign(partition, [0, 0, 0])
            assert processor.restore(partition, RecordColumns.of(stored.of(partition))) == []
            ends = [
                1 + max(r.offset for r in _recording() if (r.topic, r.partition) == (t, partition))
                for t in TOPICS
            ]
            assert processor.beyond(partition, ends) == []


TOPICS = ("clicks", "browses", "purchases")


def _recording() -> list[Record]:
    return list(RecordingReader(data.recording("plain")))


@pytest.mark.parametrize(
    "change",
    [
        {"positions": [1, 2]},
        {"positions": [-1, 0, 0]},
        {"watermark": 2**63 - 1},
        {"watermark": -2},
        {"sequence": -1},
    ],
)
def test_a_partition_record_that_cannot_be_true(change: dict[str, Any]) -> None:
    """The record is refused with its place; if it is skipped, the one before it counts."""
    made = worker()
    meta = decode_meta(dict(made.log)[META_KEY] or b"")
    log = [*made.log, (META_KEY, encode_meta(msgspec.structs.replace(meta, **change)))]
    with pytest.raises(StateError, match=f"offset {len(log) - 1}, the partition's own key"):
        Worker(made.topics).start([0, 0, 0], log)
    other = Worker(made.topics, SKIP)
    other.start([0, 0, 0], log)
    assert other.ends() == made.ends()


@pytest.mark.parametrize("value", [b"", b"garbage", b"\x93\x01\x02\x03"])
def test_a_partition_record_that_is_none(value: bytes) -> None:
    """Other bytes are refused in one sentence."""
    with pytest.raises(StateError, match="partition's own key: it cannot be read"):
        worker().start([0, 0, 0], [(META_KEY, value)])


def test_a_key_that_is_no_text() -> None:
    """A key that cannot be a user id is refused, so that no page and no tombstone fails on it later."""
    made = worker()
    log = [*made.log, (b"u\xff\xfe", dict(made.log)[b"ann"])]
    with pytest.raises(StateError, match="its key is no text"):
        made.start([0, 0, 0], log)
    other = Worker(made.topics, SKIP)
    other.start([0, 0, 0], log)
    assert set(other.rows()) == {"ann", "bob", "eve"}


def test_a_user_ahead_of_the_inputs() -> None:
    """A row with an offset beyond the end of its topic, which would silence its user, is found."""
    made = worker()
    log = rewritten(made, "eve", put("source", 2, value=2**60))
    other = Worker(made.topics, SKIP)
    other.processor.assign(0, [0, 0, 0])
    other.processor.restore(0, changelog(log))
    (found,) = other.processor.beyond(0, [3, 0, 0])
    assert found.key == b"eve" and "eve" not in found.sentence("t", 0)
    assert other.processor.beyond(0, [3, 0, 0]) == []
    assert set(other.processor.users.mapping(0)) == {"ann", "bob"}


def test_positions_beyond_the_end_are_not_the_rows_fault() -> None:
    """If the partition's own offset is beyond the end of a log, the topic is a new one; another check reports it."""
    source = np.array([[5, -1, 3], [7, -1, -1], [9, 0, 0]])
    assert beyond(source, [8, 0, 4], [0, 0, 0]).tolist() == [False, False, True]
    assert beyond(source, [8, 0, 4], [10, 1, 0]).tolist() == [False, False, False]
    assert beyond(np.empty((0, 3), np.int64), [8, 0, 4], [0, 0, 0]).tolist() == []
    assert wrong_meta(MAX_TS_MS, 0, [0, 0, 0], 3) is None


def test_an_empty_row_is_true() -> None:
    """The row of a new user is valid."""
    assert wrong_rows(LAYOUT.empty, np.zeros(1, np.int64), 3).tolist() == [0]
