"""Checks whether state that was read back can be true. Pure: all values to compare with are passed in.

A record of the changelog may be damaged, or written by somebody else. It is refused before it can silence a user or
stop a clock; `Damaged` says where it is.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from stream_app.contract.events import MAX_TS_MS
from stream_app.kernels.jit import jit
from stream_app.state.row_layout import FLAG_REASONS
from stream_app.state.window_buckets import BUCKET_MS, BUCKETS, LAST_EVENTS, WINDOWS

#: What is wrong with a row, by the number that `wrong_rows` returns; 0 means nothing.
WRONG = (
    "",
    "a time before 1970 or after the year 9999",
    "an offset below -1",
    "a count below zero",
    "an event of a type that there is not",
    "an amount that is below zero or no number",
)
_TIME, _OFFSET, _COUNT, _TYPE, _AMOUNT = range(1, len(WRONG))


class Damaged(NamedTuple):
    """A record of a partition's changelog that cannot be true, or cannot be read."""

    offset: int | None  #: None if it is not known any more
    key: bytes
    why: str

    def sentence(self, topic: str, partition: int) -> str:
        """What it is and where it is. The key is a user's id, so only its hash is shown."""
        key = f"a key of hash {xxhash.xxh64_hexdigest(self.key)}" if self.key else "the partition's own key"
        at = "" if self.offset is None else f"offset {self.offset}, "
        return f"{topic}, partition {partition}, {at}{key}: {self.why}"


def refusal(damaged: Damaged, topic: str, partition: int) -> str:
    """The text of the error that stops a worker."""
    return (
        f"the state holds a record that is damaged or of another version ({damaged.sentence(topic, partition)}): "
        "keep that version, go on without such records with FORECLICK_SKIP_DAMAGED_STATE=true, or use another "
        "FORECLICK_GROUP"
    )


def wrong_meta(watermark: int, sequence: int, positions: Sequence[int], inputs: int) -> str | None:
    """What is wrong with a partition's own record; None if it may be true. `inputs`: the number of input topics."""
    if not -1 <= watermark <= MAX_TS_MS:
        return WRONG[_TIME]
    if sequence < 0:
        return WRONG[_COUNT]
    if len(positions) != inputs or min(positions, default=0) < 0:
        return f"positions that are not {inputs} offsets"
    return None


def wrong_rows(rows: npt.NDArray[np.void], slots: npt.NDArray[np.int64], types: int) -> npt.NDArray[np.int8]:
    """What is wrong (n,) with the shop's rows of some slots, as indexes of `WRONG`. `types`: of events."""
    found = np.empty(len(slots), np.int8)
    _wrong(rows, slots, types, found)
    return found


def beyond(
    source: npt.NDArray[np.int64], ends: Sequence[int], positions: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """Which rows (n,) include an offset (n, inputs) that the input has not reached.

    `ends`: of the inputs' logs. `positions`: of the state. If a position itself is beyond the end, the topic is
    another one and the row is not wrong; `topic_identity` reports that.
    """
    limit = np.maximum(np.array(ends, np.int64), np.array(positions, np.int64))
    return np.asarray((source.reshape(len(source), len(ends)) >= limit).any(axis=1), np.bool_)


@jit
def _time(value):  # type: ignore[no-untyped-def]
    return value < 0 or value > MAX_TS_MS


@jit
def _wrong(rows, slots, types, found):  # type: ignore[no-untyped-def]
    for i in range(len(slots)):
        row = rows[slots[i]]
        wrong = 0
        if _time(row.clock) or _time(row.session_start):
            wrong = _TIME
        for k in range(types):
            if _time(row.last_ts[k]):
                wrong = _TIME
            if row.source[k] < -1:
                wrong = _OFFSET
        for k in range(len(FLAG_REASONS)):
            if _time(row.flagged[k]):
                wrong = _TIME
        for w in range(len(WINDOWS)):
            if row.head[w] < 0 or row.head[w] > MAX_TS_MS // BUCKET_MS[w]:
                wrong = _TIME
        if row.sequence < 0 or row.events < 0 or row.late < 0 or row.purchases < 0 or row.kept < 0:
            wrong = _COUNT
        for b in range(BUCKETS):
            for k in range(types):
                if row.count[b, k] < 0:
                    wrong = _COUNT
            if not row.amount[b] >= 0:
                wrong = _AMOUNT
        if not row.spent >= 0:
            wrong = _AMOUNT
        for n in range(LAST_EVENTS):
            e = row.recent[n]
            if _time(e.ts):
                wrong = _TIME
            if e.kind < 0 or e.kind >= types:
                wrong = _TYPE
        found[i] = wrong


@jit
def ascii_only(data, at, size):  # type: ignore[no-untyped-def]
    """Which pieces (n,) of a buffer are pure ASCII."""
    found = np.ones(len(at), np.bool_)
    for i in range(len(at)):
        for j in range(at[i], at[i] + size[i]):
            if data[j] > 127:
                found[i] = False
                break
    return found
