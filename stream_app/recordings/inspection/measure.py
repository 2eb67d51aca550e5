"""The numbers of a data-quality report."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from stream_app.contract import times
from stream_app.contract.events import SESSION_GAP_MS
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import EVENT_TYPES, INPUT_TOPICS, PURCHASE, by_partition
from stream_app.decoding.decoder import Decoder
from stream_app.decoding.name_table import NameTable, stable_hash
from stream_app.recordings.errors import RecordingMismatchError
from stream_app.recordings.output_paths import path_text
from stream_app.recordings.recording import RecordingReader

#: A user with more clicks and browses than this in one minute counts as a robot. Purchases do not count: a receipt of
#: a hundred lines has one time.
ROBOT_EVENTS_1M = 60
#: A user with more of them than this in 24 hours counts as a robot too.
ROBOT_EVENTS_1D = 2_000
#: An event this far behind an earlier one of the same topic partition counts as late.
LATE_MS = 60_000
_CHUNK = 8192
_MINUTE, _HOUR, _DAY = 60_000, 3_600_000, 86_400_000
_MOST_DAYS = 400

EVENT = np.dtype(
    [("ts", "i8"), ("user", "u8"), ("item", "u8"), ("category", "u8"), ("event_id", "u8"), ("price", "f4"),
     ("quantity", "i4"), ("event_type", "i1"), ("late", "?")]
)  # fmt: skip


class Share(msgspec.Struct, frozen=True):
    """So many of so many."""

    count: int
    of: int

    @property
    def part(self) -> float:
        """From 0 to 1; 0 of nothing is 0."""
        return self.count / self.of if self.of else 0.0


class Distribution(msgspec.Struct, frozen=True):
    """Quantiles of a number per user or per session."""

    median: float
    p90: float
    p99: float
    largest: float


class Report(msgspec.Struct, frozen=True):
    """What a recording holds."""

    recording: str
    records: int
    events: int  #: valid ones, duplicates included
    invalid: dict[str, int]  #: records that are not events, by the reason of their dead letter
    first_ms: int  #: Unix ms
    last_ms: int
    by_type: dict[str, int]
    users: int
    items: int
    categories: int
    events_per_user: Distribution
    single_event_users: int
    sessions: int
    events_per_session: Distribution
    session_minutes: Distribution
    longest_silence_ms: int  #: between two events of anybody
    longest_silence_from_ms: int
    duplicates: int  #: same user, event_id, type and item as another event
    possible_duplicates: int  #: without an event_id: same user, time, type and item as another event
    late: int  #: behind an earlier event of their topic partition by more than a minute
    missing: dict[str, Share]  #: events without a field
    impossible: dict[str, int]
    robots: int  #: users
    robot_events: int
    warnings: list[str]
    by_day: dict[str, list[int]]  #: events of each type by UTC date; not those of days far off
    by_hour: list[int]  #: events by hour of the day, UTC


def inspect(path: Path, progress: Callable[[int], None] = lambda _: None) -> Report:
    """Read a recording and return its report. `progress` gets the number of records so far.

    Raises RecordingMismatchError if the recording has no valid event.
    """
    reader = RecordingReader(path)
    if not set(reader.topics) & set(INPUT_TOPICS):
        raise RecordingMismatchError(f"{path} holds none of the topics {', '.join(INPUT_TOPICS)}")
    invalid: Counter[str] = Counter()
    parts: list[npt.NDArray[np.void]] = []
    newest: dict[tuple[str, int], int] = {}
    records = 0
    decoder = Decoder(NameTable(lambda _: 0, 0), NameTable(lambda _: 0, 0), max_future_ms=times.FAR_MS)
    for chunk in reader.batches(_CHUNK):
        for (topic, partition), of_partition in by_partition(chunk).items():
            if topic not in INPUT_TOPICS:
                continue
            records += len(of_partition)
            events, bad = decoder.decode(INPUT_TOPICS.index(topic), RecordColumns.of(of_partition))
            invalid.update(b.reason for b in bad)
            part = np.empty(len(events), EVENT)
            for name, column in (
                ("ts", "ts"), ("item", "item_hash"), ("category", "category_hash"), ("event_id", "event_hash"),
                ("price", "price"), ("quantity", "quantity"), ("event_type", "event_type"),
            ):  # fmt: skip
                part[name] = events.data[column]
            part["user"] = [stable_hash(user) for user in events.user.tolist()]
            before = newest.get((topic, partition), 0)
            highest = np.maximum.accumulate(np.concatenate([[before], part["ts"]]))
            part["late"] = highest[:-1] - part["ts"] > LATE_MS
            newest[topic, partition] = int(highest[-1])
            parts.append(part)
        progress(records)
    data = np.concatenate(parts) if parts else np.empty(0, EVENT)
    if not len(data):
        shown = ", ".join(f"{n:,} {reason}" for reason, n in invalid.most_common()) or "no records"
        raise RecordingMismatchError(f"{path} has no valid event: {shown}")
    return _report(path, records, data, invalid)


def _report(path: Path, records: int, data: npt.NDArray[np.void], invalid: Mapping[str, int]) -> Report:
    data = data[np.lexsort((data["ts"], data["user"]))]
    user, ts = data["user"], data["ts"]
    starts = np.flatnonzero(np.concatenate([[True], user[1:] != user[:-1]]))
    per_user = np.diff(np.append(starts, len(data)))
    pause = np.concatenate([[np.iinfo(np.int64).max], np.diff(ts)])
    pause[starts] = np.iinfo(np.int64).max
    session_starts = np.flatnonzero(pause > SESSION_GAP_MS)
    per_session = np.diff(np.append(session_starts, len(data)))
    ends = np.append(session_starts[1:], len(data)) - 1
    everybody = np.sort(ts)
    silence = np.diff(everybody)
    longest = int(silence.argmax()) if len(silence) else 0
    robots = _robots(data[data["event_type"] != PURCHASE])
    far = times.far_off(ts)
    return Report(
        recording=path_text(path),
        records=records,
        events=len(data),
        invalid=dict(invalid),
        first_ms=int(everybody[0]),
        last_ms=int(everybody[-1]),
        by_type={
            name: int(np.count_nonzero(data["event_type"] == number))
            for number, name in enumerate(EVENT_TYPES)
        },
        users=len(starts),
        items=_different(data["item"]),
        categories=_different(data["category"]),
        events_per_user=_distribution(per_user),
        single_event_users=int(np.count_nonzero(per_user == 1)),
        sessions=len(session_starts),
        events_per_session=_distribution(per_session),
        session_minutes=_distribution((ts[ends] - ts[session_starts]) / _MINUTE),
        longest_silence_ms=int(silence[longest]) if len(silence) else 0,
        longest_silence_from_ms=int(everybody[longest]),
        duplicates=_repeated(data[data["event_id"] != 0], ("user", "event_id", "event_type", "item")),
        possible_duplicates=_repeated(data[data["event_id"] == 0], ("user", "ts", "event_type", "item")),
        late=int(data["late"].sum()),
        missing=_missing(data),
        impossible=_impossible(data),
        robots=len(robots),
        robot_events=int(per_user[np.isin(user[starts], robots)].sum()),
        warnings=[far] if far else [],
        by_day=_by_day(data),
        by_hour=np.bincount(ts // _HOUR % 24, minlength=24).tolist(),
    )


def _robots(data: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    """The users (as hashes) with more events in some minute or some 24 hours than a person has."""
    user, ts = data["user"], data["ts"]  # sorted by user, then by time
    found = []
    for most, length in ((ROBOT_EVENTS_1M, _MINUTE), (ROBOT_EVENTS_1D, _DAY)):
        # The event `most` places earlier must be of another user, or too long ago.
        same = user[most:] == user[: max(0, len(user) - most)]
        near = ts[most:] - ts[: max(0, len(ts) - most)] < length
        found.append(user[most:][same & near])
    return np.unique(np.concatenate(found))


def _missing(data: npt.NDArray[np.void]) -> dict[str, Share]:
    purchases = data[data["event_type"] == PURCHASE]
    return {
        "event_id": Share(int(np.count_nonzero(data["event_id"] == 0)), len(data)),
        "item_id": Share(int(np.count_nonzero(data["item"] == 0)), len(data)),
        "category_id": Share(int(np.count_nonzero(data["category"] == 0)), len(data)),
        "price of a purchase": Share(int(np.isnan(purchases["price"]).sum()), len(purchases)),
    }


def _impossible(data: npt.NDArray[np.void]) -> dict[str, int]:
    """Values that the contract allows and that a shop seldom has."""
    purchases = data[data["event_type"] == PURCHASE]
    return {
        "purchases at a price of 0": int(np.count_nonzero(purchases["price"] == 0)),
        "prices above 100,000": int(np.count_nonzero(data["price"] > 100_000)),
        "quantities above 1,000": int(np.count_nonzero(data["quantity"] > 1_000)),
    }


def _by_day(data: npt.NDArray[np.void]) -> dict[str, list[int]]:
    """Counts of each type by date, without gaps; of very long recordings the last days only.

    Events more than ten years from the median are left out: one wrong time would hide all others.
    """
    middle = np.percentile(data["ts"], 50, method="inverted_cdf")
    data = data[np.abs(data["ts"] - middle) <= times.FAR_MS]
    day = data["ts"] // _DAY
    last = int(day.max())
    first = max(int(day.min()), last - _MOST_DAYS + 1)
    kept = data[day >= first]
    place = kept["ts"] // _DAY - first
    counts = np.stack([
        np.bincount(place[kept["event_type"] == number], minlength=last - first + 1)
        for number in range(len(EVENT_TYPES))
    ])  # fmt: skip
    dates = np.arange(first, last + 1).astype("datetime64[D]").astype(str).tolist()
    return dict(zip(dates, counts.T.tolist(), strict=True))


def _different(hashes: npt.NDArray[np.uint64]) -> int:
    return len(np.unique(hashes[hashes != 0]))


def _repeated(data: npt.NDArray[np.void], names: tuple[str, ...]) -> int:
    """How many events have the same values as an earlier one."""
    if not len(data):
        return 0
    order = np.lexsort([data[name] for name in names])
    same = np.ones(len(data) - 1, np.bool_)
    for name in names:
        column = data[name][order]
        same &= column[1:] == column[:-1]
    return int(same.sum())


def _distribution(values: npt.NDArray[np.number]) -> Distribution:
    median, p90, p99 = np.percentile(values, [50, 90, 99], method="inverted_cdf").tolist()
    return Distribution(float(median), float(p90), float(p99), float(values.max()))
