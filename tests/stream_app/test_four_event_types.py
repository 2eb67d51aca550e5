"""A fourth event type: the kernel takes the number of types from the rows, and equals the naive user."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings

from model.data.window_features import WINDOW_FEATURES
from stream_app.contract.records import EVENT_TYPES
from stream_app.state import apply_events as kernel
from stream_app.state.row_layout import FIRST_BUCKET, WINDOWS, row_dtype
from tests.stream_app.naive import USERS, NaiveKernel
from tests.stream_app.strategies import Happening, cut, cuts, happenings
from tests.stream_app.test_kernel import Compiled, Rows, given_events, replays, slots_of

FOUR = len(EVENT_TYPES) + 1


def check(
    ours: Compiled, naive: NaiveKernel, slots: npt.NDArray[np.int64], data: npt.NDArray[np.void]
) -> None:
    """Applies events both ways and compares what is said of each."""
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
    """The same code without the compiler takes four types too."""
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


def test_features_for_other_types_are_refused() -> None:
    """Rows of four types and an array of features for three: an error, no write beside the array."""
    ours = Compiled(dtype=row_dtype(FOUR))
    ours.features = len(WINDOW_FEATURES)
    events = given_events([Happening(0, 3, 1_700_000_000_000, 1, 0, 1.0, 1)], [])
    with pytest.raises(ValueError, match="one column for each event type and window"):
        ours.feed(slots_of(events), events.data)
