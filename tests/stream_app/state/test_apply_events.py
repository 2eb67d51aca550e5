"""The state machine of a user, compared with a naive one of dicts and lists, for any micro-batches."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.windows import WINDOW_FEATURES
from stream_app.contract.event_columns import Events
from stream_app.contract.records import EVENT_TYPES, PURCHASE
from stream_app.decoding.name_table import NameTable
from stream_app.processing import user_view
from stream_app.state import apply_events as kernel
from stream_app.state.row_layout import AMOUNTS, OTHER_FEATURES, ROW, SEEDS
from stream_app.state.window_buckets import FIRST_BUCKET, LAST_EVENTS, WINDOWS
from tests.stream_app.naive_user import KNOWN, LATENESS, NONE, TTL, USERS, NaiveKernel, NaiveUser
from tests.stream_app.strategies import DAY, T0, Happening, columns_of, cut, cuts, happenings


class Fields:
    """One row with fields as attributes, as compiled code sees it."""

    def __init__(self, row: np.void) -> None:
        object.__setattr__(self, "row", row)

    def __getattr__(self, name: str) -> Any:
        value = self.row[name]
        return Rows(value) if isinstance(value, np.ndarray) and value.dtype.names else value

    def __setattr__(self, name: str, value: Any) -> None:
        self.row[name] = value


class Rows:
    """An array of such rows."""

    def __init__(self, rows: npt.NDArray[np.void]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Fields:
        return Fields(self.rows[i])


class Compiled:
    """The rows of a few users and the kernel, called as in the processor."""

    def __init__(
        self, apply: Any = kernel.apply, wrap: Any = np.asarray, dtype: np.dtype[np.void] = ROW
    ) -> None:
        self.apply = apply
        self.rows = np.zeros(USERS, dtype)
        self.features = len(WINDOWS) * self.rows["count"].shape[2] + OTHER_FEATURES
        self.rows["source"] = -1
        self.recent_item = np.full((USERS, LAST_EVENTS), NONE, np.int32)
        self.recent_check = np.zeros((USERS, LAST_EVENTS), np.uint32)
        self.dirty = np.zeros(USERS, np.bool_)
        self.touched = np.zeros(USERS, np.int64)
        self.watermark = np.full(2, -1, np.int64)
        self.sequence = np.zeros(2, np.int64)
        self.batch = 0
        self.wrap = wrap  # makes the rows for uncompiled code

    def feed(self, slots: npt.NDArray[np.int64], data: npt.NDArray[np.void]) -> tuple[Any, Any, Any]:
        """Apply a micro-batch; return the kernel's results, features and seeds of each event."""
        n, start = len(data), 0
        out = np.zeros(n, kernel.APPLIED_EVENT)
        features = np.zeros((n, self.features), np.float32)
        seeds = np.zeros((n, SEEDS), np.int32)
        while start < n:
            self.batch += 1
            rest = slice(start, None)
            rows, events, said = (self.wrap(x) for x in (self.rows, data[rest], out[rest]))
            done = self.apply(
                rows, self.recent_item, self.recent_check, self.dirty, self.touched, slots[rest], events,
                self.watermark, self.sequence, LATENESS, TTL, NONE, KNOWN, self.batch, said, features[rest],
                seeds[rest],
            )  # fmt: skip
            assert done > 0
            start += done
        return out, features, seeds


def given_events(stream: list[Happening], again: list[int], checks: Sequence[int] = ()) -> Events:
    """Return columns of a stream over two partitions, with some offsets repeated as after a replay.

    `checks`: those of the items, repeating; by default each item has its own.
    """
    events = columns_of(stream, [h.user % 2 for h in stream])
    if checks:
        events.data["item_check"] = np.resize(np.array(checks, np.uint64), len(stream))
    events.data["item"] = np.where(events.data["item"] < 0, NONE, events.data["item"])
    events.data["ts"] += np.arange(len(stream)) % 3 * 7_000  # senders' clocks ahead, which no window uses
    repeats = [i for i in again if i < len(stream)]
    return events.take(np.array([*sorted([*range(len(stream)), *repeats]), *repeats], np.int64))


def slots_of(events: Events) -> npt.NDArray[np.int64]:
    return np.array([int(user[1:]) for user in events.user.tolist()], np.int64)


replays = st.lists(st.integers(0, 40), max_size=6)
#: Checks of names with the same hash; 0 is unknown.
some_checks = st.lists(st.sampled_from([0, 1, 2, 2**32 - 1]), max_size=7)


@given(happenings(users=USERS), replays, cuts(), some_checks)
@settings(max_examples=150, deadline=None)
def test_equals_a_naive_user(
    stream: list[Happening], again: list[int], lengths: list[int], checks: list[int]
) -> None:
    """Status, gaps, windows, money, distinct items, seeds and all fields are equal for any micro-batches."""
    events = given_events(stream, again, checks)
    slots, ours, naive = slots_of(events), Compiled(), NaiveKernel()
    for part in cut(len(events), lengths):
        out, features, seeds = ours.feed(slots[part], events.data[part])
        for i, e in enumerate(events.data[part]):
            wanted = naive.apply(int(slots[part][i]), e)
            for name in kernel.APPLIED_EVENT.names or ():
                assert out[i][name] == np.float32(wanted[name]), name
            if wanted["status"] <= kernel.LATE:
                assert features[i].tolist() == np.array(wanted["features"], np.float32).tolist()
                assert seeds[i].tolist() == wanted["seeds"]
    assert [naive.watermark[p] for p in range(2)] == ours.watermark.tolist()
    assert [naive.sequence[p] for p in range(2)] == ours.sequence.tolist()
    for user, row in zip(naive.users, ours.rows, strict=True):
        check_row(user, row)


def check_row(user: NaiveUser, row: np.void) -> None:
    for name in ("clock", "late", "session_start"):
        assert row[name] == getattr(user, name), name
    assert row["source"].tolist() == user.source
    if user.past:
        assert row["sequence"] == user.sequence
    assert row["events"] == len(user.past)
    assert row["last_ts"].tolist() == user.last_ts
    assert (row["purchases"], row["spent"]) == (len(user.amounts), sum(user.amounts))
    assert row["kept"] == len(user.amounts)
    for number, amount in list(enumerate(user.amounts))[-AMOUNTS:]:
        assert row["amounts"][number % AMOUNTS] == np.float32(amount)
    for w, (name, length, n) in enumerate(WINDOWS):
        shown = user_view.windows(row)[name]
        assert [*(shown[event_type] for event_type in EVENT_TYPES), shown["amount"]] == user.window(w)
        head = user.clock // (length // n)
        assert row["head"][w] == head
        for bucket in range(head - n + 1, head + 1):
            at = FIRST_BUCKET[w] + bucket % n
            assert [*row["count"][at].tolist(), row["amount"][at]] == user.buckets[w, bucket]
    for number, (e, gap) in list(enumerate(user.past))[-LAST_EVENTS:]:
        kept = row["recent"][number % LAST_EVENTS]
        for name in ("ts", "item_hash", "category_hash", "event_hash", "quantity"):
            assert kept[name] == e[name]
        assert kept["kind"] == e["event_type"]
        assert np.array_equal(kept["price"], e["price"], equal_nan=True)
        assert kept["gap_s"] == np.float32(gap)
    shown_events = user_view.recent_events(row, NameTable(lambda _: 0, 0), NameTable(lambda _: 0, 0))
    assert [e["ts"] for e in shown_events] == [int(e["ts"]) for e, _ in reversed(user.past[-LAST_EVENTS:])]


@given(happenings(users=USERS), replays, cuts())
@settings(max_examples=100, deadline=None)
def test_any_cutting_gives_the_same_bytes(
    stream: list[Happening], again: list[int], lengths: list[int]
) -> None:
    """Rows, recent items and answers of one micro-batch and of many are equal byte for byte."""
    events = given_events(stream, again)
    slots, whole, parts = slots_of(events), Compiled(), Compiled()
    at_once = whole.feed(slots, events.data)
    pieces = [parts.feed(slots[part], events.data[part]) for part in cut(len(events), lengths)]
    for i, column in enumerate(at_once):
        assert column.tobytes() == b"".join(piece[i].tobytes() for piece in pieces)
    assert whole.rows.tobytes() == parts.rows.tobytes()
    assert whole.recent_item.tobytes() == parts.recent_item.tobytes()
    assert whole.dirty.tolist() == parts.dirty.tolist()


@given(happenings(users=USERS, max_size=30), replays, some_checks)
@settings(max_examples=25, deadline=None)
def test_compiled_equals_plain_python(stream: list[Happening], again: list[int], checks: list[int]) -> None:
    """The same code without the compiler gives the same rows."""
    events = given_events(stream, again, checks)
    slots, compiled = slots_of(events), Compiled()
    wanted = compiled.feed(slots, events.data)
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "reset_row",
            "_seen",
            "_count",
            "_usual",
            "_smallest",
            "_distinct",
            "_features",
            "_seeds",
        ):
            patch.setattr(kernel, name, getattr(kernel, name).py_func)
        plain = Compiled(kernel.apply.py_func, Rows)
        got = plain.feed(slots, events.data)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert plain.rows.tobytes() == compiled.rows.tobytes()
    assert plain.recent_check.tobytes() == compiled.recent_check.tobytes()


def feed_one_user(stream: list[Happening]) -> tuple[Compiled, Any, Any]:
    events = given_events(stream, [])
    ours = Compiled()
    out, features, _ = ours.feed(slots_of(events), events.data)
    return ours, out, features


def click(ts: int, event_id: int = 0, item: int = 1) -> Happening:
    return Happening(0, 0, ts, item, event_id, math.nan, 1)


def purchase(ts: int, price: float, quantity: int = 1) -> Happening:
    return Happening(0, PURCHASE, ts, 1, 0, price, quantity)


def test_lateness_ends_with_the_limit() -> None:
    """An event exactly `lateness` before its user's clock counts in its windows; one millisecond earlier is late."""
    start = T0 - T0 % DAY + DAY // 2
    ours, out, features = feed_one_user([click(start), click(start - LATENESS), click(start - LATENESS - 1)])
    assert out["status"].tolist() == [kernel.APPLIED, kernel.APPLIED, kernel.LATE]
    one_hour = WINDOW_FEATURES.index("clicks_1h")
    assert features[:, one_hour].tolist() == [1, 2, 2]
    assert ours.rows[0]["events"] == 3
    assert ours.rows[0]["late"] == 1


def test_no_other_user_makes_an_event_late() -> None:
    """Events far before the watermark count fully if their user has no later event, as in a backfill."""
    start = T0 - T0 % DAY + DAY // 2
    other = Happening(2, 0, start, 1, 0, math.nan, 1)  # in the same partition
    ours, out, features = feed_one_user([other, *[click(start - 7 * DAY + i) for i in range(3)]])
    assert ours.watermark[0] == start
    assert out["status"].tolist() == [kernel.APPLIED] * 4
    assert features[-1, WINDOW_FEATURES.index("clicks_1m")] == 3
    assert ours.rows[0]["late"] == 0


def test_a_duplicate_is_known_among_the_last_events_only() -> None:
    """An id is recognised while its event is one of the last LAST_EVENTS; later it counts as new."""
    between = [click(T0 + i) for i in range(LAST_EVENTS - 1)]
    _, out, _ = feed_one_user([click(T0, 7), *between, click(T0, 7)])
    assert out["status"][-1] == kernel.DUPLICATE
    _, out, _ = feed_one_user([click(T0, 7), *between, click(T0), click(T0, 7)])
    assert out["status"][-1] == kernel.APPLIED


def test_one_id_of_different_events() -> None:
    """An order's lines with its number as id, and a click and a purchase of one view, are separate events."""
    line = purchase(T0, 9.5)._replace(event_id=3)
    other = line._replace(item=2)
    _, out, _ = feed_one_user([line, other, click(T0, 3), line, other, click(T0, 3)])
    assert out["status"].tolist() == [kernel.APPLIED] * 3 + [kernel.DUPLICATE] * 3


def distinct_items(checks: Sequence[int]) -> list[float]:
    """Return the counts after each click, for items with the same hash and these checks."""
    events = given_events([click(T0 + i) for i in range(len(checks))], [], checks)
    return (
        Compiled().feed(slots_of(events), events.data)[1][:, WINDOW_FEATURES.index("distinct_items")].tolist()
    )


def test_items_of_one_hash_are_told_apart() -> None:
    """Items are distinguished by their checks; an unknown check, as after a restart, counts as one of the others."""
    assert distinct_items([1, 2, 1, 3, 2]) == [1, 2, 2, 3, 3]
    assert distinct_items([0, 0, 7, 7, 0, 8]) == [1, 1, 1, 1, 1, 2]


def test_one_id_of_items_of_one_hash() -> None:
    """Events with the same id are duplicates only if their items may be the same."""
    for checks, last in (([1, 1], kernel.DUPLICATE), ([1, 2], kernel.APPLIED), ([0, 2], kernel.DUPLICATE)):
        events = given_events([click(T0, 7), click(T0 + 1, 7)], [], checks)
        assert Compiled().feed(slots_of(events), events.data)[0]["status"].tolist() == [kernel.APPLIED, last]


def test_a_user_expires_behind_the_limit() -> None:
    """A silence of exactly the time to live keeps a user; one more millisecond forgets everything except offsets."""
    other = Happening(2, 0, 0, 1, 0, math.nan, 1)  # moves the watermark of the partition
    for over in (0, 1):
        ours, out, _ = feed_one_user([click(T0), other._replace(ts=T0 + TTL + over), click(T0 + TTL + over)])
        assert out["fresh"].tolist() == [0, 0, over]
        assert out["first"].tolist() == [1, 1, over]
        assert ours.rows[0]["events"] == 2 - over
        assert ours.rows[0]["source"].tolist() == [2, -1, -1]


def test_a_first_price_does_not_set_what_is_usual() -> None:
    """One absurd amount hides no jump, before or after it; a user with many large amounts is not flagged."""
    cheap = [purchase(T0 + i, 10.0) for i in range(1, 4)]
    _, out, _ = feed_one_user([purchase(T0, 1e15), *cheap, purchase(T0 + 9, 1000.0)])
    assert (out["amount_usual"][-1], out["amount_ratio"][-1]) == (10.0, 100.0)
    _, out, _ = feed_one_user([*cheap, purchase(T0 + 8, 1e15), purchase(T0 + 9, 1000.0)])
    assert out["amount_ratio"][-2] > 1e13 and out["amount_ratio"][-1] == 100.0
    _, out, _ = feed_one_user([purchase(T0 + i, 10.0 if i % 2 else 200.0) for i in range(12)])
    assert out["amount_usual"][-1] == 105.0 and out["amount_ratio"].max() < 8


def test_a_row_from_before_amounts_were_kept() -> None:
    """Until three amounts are stored, the usual amount is the mean of all purchases, as in earlier versions."""
    events = given_events([purchase(T0 + i, 30.0) for i in range(4)], [])
    ours = Compiled()
    ours.rows["events"], ours.rows["purchases"], ours.rows["spent"] = 4, 4, 40.0
    ours.rows["clock"] = T0 - 1
    out, *_ = ours.feed(slots_of(events), events.data)
    assert out["amount_usual"].tolist() == [10.0, 14.0, np.float32(100 / 6), 30.0]


def test_money_stays_a_number() -> None:
    """A leap from the smallest price to the largest amount gives a finite ratio and finite sums."""
    tiny = [purchase(T0 + i, 1e-30) for i in range(3)]
    ours, out, features = feed_one_user([*tiny, purchase(T0 + 3, 1e15, 2**31 - 1)])
    assert out["amount_ratio"][-1] > 1e29
    assert np.isfinite(out["amount_ratio"]).all()
    assert np.isfinite(features).all()
    assert np.isfinite(ours.rows["amount"]).all()
    assert np.isfinite(ours.rows["spent"]).all()
