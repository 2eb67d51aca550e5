"""Rebuilds hidden states from the last events of each user, after the model has changed."""

import numpy as np
import numpy.typing as npt

from model.serving.api import WINDOW_FEATURES, HiddenStates, Runtime, StepBatch
from stream_app.state.users import ItemIndex, Users
from stream_app.state.window_buckets import LAST_EVENTS

USERS_AT_ONCE = 4096


def rebuild_hidden(
    users: Users, hidden_states: HiddenStates, runtime: Runtime, partition: int, categories: ItemIndex
) -> None:
    """Replays the last events of every user of a partition through the model.

    Window features of these events are not stored, so the model gets zeros for them. The states are those of a user
    who was silent before; each further event brings them closer to the exact ones.
    """
    slots = users.slots_of(partition)
    for start in range(0, len(slots), USERS_AT_ONCE):
        some = slots[start : start + USERS_AT_ONCE]
        hidden_states.reset(some)
        runtime.rebuild(hidden_states, last_events(users, runtime, some, categories))


def last_events(
    users: Users, runtime: Runtime, slots: npt.NDArray[np.int64], categories: ItemIndex
) -> StepBatch:
    """The last events of the users in some slots; the events of each user are in their order."""
    rows = users.rows[slots]
    n = rows["events"]
    age = np.arange(LAST_EVENTS)[None, :]  # 0 is the oldest kept
    kept = np.minimum(n, LAST_EVENTS)[:, None]
    place = (np.maximum(n - LAST_EVENTS, 0)[:, None] + age) % LAST_EVENTS
    user, column = np.nonzero(age < kept)  # row by row: each user's events in order
    at = place[user, column]
    recent = rows["recent"][user, at]
    m = len(user)
    item = users.recent_item[slots][user, at]
    return StepBatch(
        slots=slots[user],
        event_type=recent["kind"].astype(np.int8),
        item=item,
        category=categories.of(recent["category_hash"]),
        gap_s=np.ascontiguousarray(recent["gap_s"]),
        ts=np.ascontiguousarray(recent["ts"]),
        price=np.ascontiguousarray(recent["price"]),
        quantity=np.ascontiguousarray(recent["quantity"]),
        windows=np.zeros((m, len(WINDOW_FEATURES)), np.float32),
        recent=item[:, None],
        first=(column == 0) & (n[user] <= LAST_EVENTS),
    )
