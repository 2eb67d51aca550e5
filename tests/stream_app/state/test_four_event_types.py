"""A fourth event type: the kernel takes the number of types from the rows, and equals the naive user."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings

from stream_app.contract.outputs import NextEvent
from stream_app.contract.records import EVENT_TYPES
from stream_app.state import apply_events as kernel
from stream_app.state.row_layout import OTHER_FEATURES, row_dtype
from stream_app.state.window_buckets import FIRST_BUCKET, WINDOW_FEATURES, WINDOWS
from tests.stream_app.naive_user import USERS, NaiveKernel
from tests.stream_app.state.test_apply_events import Compiled, Rows, given_events, replays, slots_of
from tests.stream_app.strategies import Happening, cut, cuts, happenings

FOUR = len(EVENT_TYPES) + 1


def check(
    ours: Compiled, naive: NaiveKernel, slots: npt.NDArray[np.int64], data: npt.NDArray[np.void]
) -> None:
    """Apply events in both ways and compare the results."""
    out, features, _ = ours.feed(slots, data)
    for i, e in enumerate(data):
        wanted = naive.apply(int(slots[i]), e)
        assert out[i]["status"] == wanted["status"]
        if wanted["status"] <= kernel.LATE:
            assert features[i].tolist() == np.array(wanted["features"], np.float32).tolist()


@given(happenings(users=USERS, types=FOUR), replays, cuts())
@settings(max_examples=60, deadline=None)
def test_four_types_equal_a_naive_user(stream: list[Happening], again: list[int], lengths: list[int]) -> None:
    """Windows, offsets, times and buckets of all four types, buckets that were cleared included."""
    events = given_events(stream, again)
    ours, naive, slots = Compiled(dtype=row_dtype(FOUR)), NaiveKernel(FOUR), slots_of(events)
    for part in cut(len(events), lengths):
        check(ours, naive, slots[part], events.data[part])
    for user, row in zip(naive.users, ours.rows, strict=True):
        assert row["source"].tolist() == user.source
        assert row["last_ts"].tolist() == user.last_ts
        for w, (_, length, n) in enumerate(WINDOWS):
            head = user.clock // (length // n)
            for bucket in range(head - n + 1, head + 1):
                at = FIRST_BUCKET[w] + bucket % n
                assert row["count"][at].tolist() == user.buckets[w, bucket][:-1]


@given(happenings(users=USERS, types=FOUR, max_size=30))
@settings(max_examples=10, deadline=None)
def test_the_uncompiled_kernel_agrees(stream: list[Happening]) -> None:
    """The same code without the compiler accepts four types too."""
    events = given_events(stream, [])
    names = ("reset_row", "_seen", "_count", "_usual", "_smallest", "_distinct", "_features", "_seeds")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(kernel, name, getattr(kernel, name).py_func)
        check(
            Compiled(kernel.apply.py_func, Rows, row_dtype(FOUR)),
            NaiveKernel(FOUR),
            slots_of(events),
            events.data,
        )


def test_the_features_are_those_of_the_layout() -> None:
    """An additional type only in the contract, or only in the model, is noticed at import."""
    assert len(WINDOW_FEATURES) == len(WINDOWS) * len(EVENT_TYPES) + OTHER_FEATURES
    assert OTHER_FEATURES == 2
    assert NextEvent.__struct_fields__ == EVENT_TYPES
