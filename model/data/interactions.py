"""The training table: one row per event, in the order in which the stream processor applied them."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from model.data.windows import AMOUNT_WINDOW, LAST_EVENTS, WINDOW_FEATURES, WINDOWS


@dataclass(frozen=True)
class Interactions:
    """Columns of n events; the events of one user are in the order in which they were applied.

    `item` and `category` index into `items` and `categories`; -1 if the event names none.
    """

    user: npt.NDArray[np.int64]  # (n,) dense user number
    ts: npt.NDArray[np.int64]  # (n,) Unix ms
    event_type: npt.NDArray[np.int8]  # (n,) 0 click, 1 browse, 2 purchase
    item: npt.NDArray[np.int64]  # (n,)
    category: npt.NDArray[np.int64]  # (n,)
    price: npt.NDArray[np.float32]  # (n,) unit price, NaN if unknown
    quantity: npt.NDArray[np.int32]  # (n,)
    gap_s: npt.NDArray[np.float32]  # (n,) seconds since the user's previous event, -1 for the first
    windows: npt.NDArray[np.float32]  # (n, len(WINDOW_FEATURES))
    items: list[str]
    categories: list[str]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Interactions":
        """Return the rows chosen by a mask or by row numbers; ids and user numbers do not change."""
        names = ("user", "ts", "event_type", "item", "category", "price", "quantity", "gap_s", "windows")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def from_events(
    user: npt.NDArray[np.int64],
    ts: npt.NDArray[np.int64],
    event_type: npt.NDArray[np.int8],
    item: npt.NDArray[np.int64],
    category: npt.NDArray[np.int64],
    price: npt.NDArray[np.float32],
    quantity: npt.NDArray[np.int32],
    items: list[str],
    categories: list[str],
) -> Interactions:
    """Return a table of events that never went through the stream processor, ordered by time.

    Gaps and windows are those that the processor computes if events arrive in order of time.
    """
    order = np.lexsort((np.arange(len(ts)), ts))
    user, ts, event_type = user[order], ts[order], event_type[order]
    item, category, price, quantity = item[order], category[order], price[order], quantity[order]
    by_user = np.argsort(user, kind="stable")
    gap_s = np.full(len(ts), -1.0, np.float32)
    same = user[by_user][1:] == user[by_user][:-1]
    gap_s[by_user[1:][same]] = (np.diff(ts[by_user])[same] / 1000.0).astype(np.float32)
    windows = sliding_windows(user, ts, event_type, item, np.nan_to_num(price) * quantity * (event_type == 2))
    return Interactions(
        user, ts, event_type, item, category, price, quantity, gap_s, windows, items, categories
    )  # fmt: skip


def sliding_windows(
    user: npt.NDArray[np.int64],
    ts: npt.NDArray[np.int64],
    event_type: npt.NDArray[np.int8],
    item: npt.NDArray[np.int64],
    amount: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Return the window features (n, 17) of events in time order, from the buckets of `WINDOWS`."""
    n = len(ts)
    out = np.zeros((n, len(WINDOW_FEATURES)), np.float32)
    order = np.argsort(user, kind="stable")
    user_s, ts_s = user[order], ts[order]
    first = np.searchsorted(user_s, user_s, side="left")
    # One sorted key for all users: times are shifted per user, so that the ranges of two users cannot overlap.
    base = int(ts.min(initial=0)) - WINDOWS[-1][1]
    width = int(ts.max(initial=0)) - base + 2
    key = user_s * width + (ts_s - base)
    here = np.arange(n)
    sums = [np.concatenate(([0.0], np.cumsum(event_type[order] == number))) for number in range(3)]
    money = np.concatenate(([0.0], np.cumsum(amount[order], dtype=np.float64)))
    for number, (_, length, buckets) in enumerate(WINDOWS):
        bucket = length // buckets
        oldest = (ts_s // bucket - buckets + 1) * bucket  # where the window's first bucket begins
        start = np.maximum(np.searchsorted(key, user_s * width + (oldest - base), side="left"), first)
        for column in range(3):
            out[order, 3 * number + column] = sums[column][here + 1] - sums[column][start]
        if number == AMOUNT_WINDOW:
            out[order, 3 * len(WINDOWS)] = money[here + 1] - money[start]
    out[order, 3 * len(WINDOWS) + 1] = _distinct(item[order], first)
    return out


def _distinct(item: npt.NDArray[np.int64], first: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    out = np.zeros(len(item), np.float32)
    for row in range(len(item)):
        seen = set(item[max(first[row], row - LAST_EVENTS + 1) : row + 1].tolist())
        out[row] = len(seen - {-1})
    return out
