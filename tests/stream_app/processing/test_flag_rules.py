"""Flags: each limit works, each reason pauses for its cool-down, every score is a probability."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.windows import WINDOW_FEATURES
from stream_app.processing import flag_rules
from stream_app.settings.flag_limits import Rules
from stream_app.state.apply_events import APPLIED_EVENT
from stream_app.state.row_layout import FLAG_REASONS, ROW

LIMITS = Rules(
    clicks_1m=5, distinct_items=4, purchases_1h=3, amount_jump=2.0, surprise_p=0.01, flag_cooldown_ms=1000
)
COLUMN = {"click_rate": "clicks_1m", "many_items": "distinct_items", "purchase_rate": "purchases_1h"}
FRAUD = {"purchase_rate", "amount_jump"}


class Batch:
    """Return n ordinary events, of which a test changes some values."""

    def __init__(self, n: int = 1, users: int = 1) -> None:
        self.rows = np.zeros(users, ROW)
        self.slots = np.zeros(n, np.int64)
        self.time = np.full(n, 10_000, np.int64)
        self.features = np.zeros((n, len(WINDOW_FEATURES)), np.float32)
        self.applied = np.zeros(n, APPLIED_EVENT)
        self.p_value: np.ndarray | None = None

    def set(self, event: int, code: str, value: float) -> "Batch":
        if code in COLUMN:
            self.features[event, WINDOW_FEATURES.index(COLUMN[code])] = value
        elif code == "amount_jump":
            self.applied[event]["amount_ratio"] = value
            self.applied[event]["amount_usual"] = 10.0
        else:
            self.p_value = np.ones(len(self.slots), np.float32) if self.p_value is None else self.p_value
            self.p_value[event] = value
        return self

    def find(self, tail: flag_rules.Tail | None = None, limits: Rules = LIMITS) -> list[tuple]:
        return flag_rules.find(
            limits,
            self.rows["flagged"],
            self.slots,
            self.time,
            self.features,
            self.applied,
            self.p_value,
            tail,
        )


#: code, the last ordinary value, the first that is flagged, value and expectation in the reason
EDGES = [
    ("click_rate", 5, 6, 6, 5),
    ("many_items", 4, 5, 5, 4),
    ("purchase_rate", 3, 4, 4, 3),
    ("amount_jump", 2.0, 2.5, 25, 10),
    ("unlikely_event", 0.0101, 0.0099, 0.0099, 0.01),
]


@pytest.mark.parametrize(("code", "below", "above", "value", "expected"), EDGES)
def test_each_reason_fires_beyond_its_limit(
    code: str, below: float, above: float, value: float, expected: float
) -> None:
    """At the limit there is no flag; beyond it there is one with the observed and the expected value."""
    assert Batch().set(0, code, below).find() == []
    ((event, flag_type, score, reasons),) = Batch().set(0, code, above).find()
    assert (event, flag_type) == (0, "fraud" if code in FRAUD else "anomaly")
    assert [(r.code, r.value, r.expected) for r in reasons] == [(code, value, expected)]
    counted = code in ("click_rate", "many_items", "purchase_rate")
    assert isinstance(reasons[0].value, int) is counted  # `"value": 6` next to `"limit": 5`, not 6.0
    assert 0.5 <= score <= 1


def test_a_p_value_at_the_limit_is_unlikely() -> None:
    """The model's own limit includes it: `at most this p-value`."""
    assert len(Batch().set(0, "unlikely_event", np.float32(0.5)).find(limits=Rules(surprise_p=0.5))) == 1


def test_one_flag_an_event_with_all_its_reasons() -> None:
    """An event that exceeds every limit has one flag, with its reasons in order and the highest score."""
    batch = Batch()
    for code, _, above, *_ in EDGES:
        batch.set(0, code, above)
    ((_, flag_type, score, reasons),) = batch.find()
    assert [r.code for r in reasons] == list(FLAG_REASONS)
    assert flag_type == "fraud"
    assert score == pytest.approx(0.9901)
    assert batch.rows["flagged"].tolist() == [[10_000] * len(FLAG_REASONS)]


@pytest.mark.parametrize("apart", [True, False])
def test_the_cool_down_is_of_event_time(apart: bool) -> None:
    """The same reason is reported again after the cool-down, whether in one micro-batch or in several."""
    times = [10_000, 10_999, 11_000, 11_500, 12_000, 11_900]
    flagged = []
    batch = Batch(len(times))
    batch.time[:] = times
    for i in range(len(times)):
        batch.set(i, "click_rate", 9)
    if not apart:
        flagged = [times[i] for i, *_ in batch.find()]
    else:
        for time in times:
            one = Batch().set(0, "click_rate", 9)
            one.rows, one.time[0] = batch.rows, time
            flagged += [time for _ in one.find()]
    assert flagged == [10_000, 11_000, 12_000]


def test_reasons_and_users_cool_down_alone() -> None:
    """A flag for one reason suppresses neither another reason nor another user."""
    batch = Batch(3, users=2).set(0, "click_rate", 9).set(1, "click_rate", 9).set(1, "many_items", 9)
    batch.set(2, "click_rate", 9)
    batch.slots[:] = [0, 0, 1]
    found = [(i, [r.code for r in reasons]) for i, _, _, reasons in batch.find()]
    assert found == [(0, ["click_rate"]), (1, ["many_items"]), (2, ["click_rate"])]


def test_a_calibrated_tail_gives_the_score() -> None:
    """With the model's tail tables the score is one minus the share of events that are at least as unusual."""
    asked = []

    def tail(name: str, values: np.ndarray) -> np.ndarray:
        asked.append((name, values.tolist()))
        return np.full(len(values), 0.125 if name == "clicks_1m" else 0.5, np.float32)

    batch = Batch().set(0, "click_rate", 9).set(0, "many_items", 8).set(0, "purchase_rate", 7)
    ((_, _, score, _),) = batch.find(tail)
    assert score == 0.875
    assert asked == [("clicks_1m", [9]), ("distinct_items", [8]), ("purchases_1h", [7])]


number = st.floats(0, 1e6, width=32)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 5000), number, number, number, number, st.floats(0, 1)),
        max_size=20,
    ),
    st.booleans(),
    st.lists(st.integers(1, 4), min_size=1),
)
@settings(max_examples=150, deadline=None)
def test_any_cutting_gives_the_same_flags(
    events: list[tuple[int, int, float, float, float, float, float]], model: bool, lengths: list[int]
) -> None:
    """Scores lie within 0 and 1, values are numbers, and micro-batches make no difference."""
    whole = Batch(len(events), 3)
    for i, (slot, step, clicks, items, purchases, ratio, p) in enumerate(events):
        whole.slots[i] = slot
        whole.time[i] = 1000 + step + 300 * i
        for code, value in (("click_rate", clicks), ("many_items", items), ("purchase_rate", purchases)):
            whole.set(i, code, value)
        whole.set(i, "amount_jump", ratio)
        if model:
            whole.set(i, "unlikely_event", p)
    rows, parts, start = whole.rows.copy(), [], 0
    wanted = whole.find()
    while start < len(events):
        part = slice(start, start + lengths[len(parts) % len(lengths)])
        piece = Batch(len(whole.slots[part]), 3)
        piece.rows, piece.slots, piece.time = rows, whole.slots[part], whole.time[part]
        piece.features, piece.applied = whole.features[part], whole.applied[part]
        piece.p_value = None if whole.p_value is None else whole.p_value[part]
        parts.append([(start + i, *rest) for i, *rest in piece.find()])
        start = part.stop
    assert [flag for part in parts for flag in part] == wanted
    assert rows.tobytes() == whole.rows.tobytes()
    assert len({i for i, *_ in wanted}) == len(wanted)
    for _, flag_type, score, reasons in wanted:
        assert 0 <= score <= 1
        assert all(math.isfinite(r.value) and math.isfinite(r.expected) for r in reasons)
        assert flag_type == ("fraud" if FRAUD & {r.code for r in reasons} else "anomaly")
