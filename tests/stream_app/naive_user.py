"""A user's state in plain dicts and lists: the reference for the compiled state machine."""

import math
import statistics
from collections import Counter, defaultdict
from typing import Any

from stream_app.contract.events import SESSION_GAP_MS
from stream_app.contract.records import EVENT_TYPES, PURCHASE
from stream_app.state import apply_events as kernel
from stream_app.state.row_layout import AMOUNTS, SEEDS
from stream_app.state.window_buckets import AMOUNT_WINDOW, LAST_EVENTS, WINDOWS
from tests.stream_app.strategies import DAY

USERS = 4
KNOWN, NONE = 5, 9  # the model knows the items below KNOWN; NONE means no item
SAME = (
    "event_hash",
    "event_type",
    "item_hash",
)  # events that share these, and whose checks may be equal, are duplicates
LATENESS, TTL = 300_000, 30 * DAY


def is_same(a: Any, b: Any) -> bool:
    """Whether two events may be duplicates: a check of 0 is unknown."""
    checks = {int(a["item_check"]), int(b["item_check"])} - {0}
    return len(checks) < 2 and all(a[name] == b[name] for name in SAME)


class NaiveUser:
    """The state of one user in plain Python."""

    def __init__(self, types: int) -> None:
        self.types = types
        self.source = [-1] * types
        self.sequence = 0
        self.forget()

    def forget(self) -> None:
        self.past: list[Any] = []  # (event, gap in seconds)
        self.clock = 0
        self.late = 0
        self.session_start = 0
        self.last_ts = [0] * self.types
        self.amounts: list[float] = []  # of purchases with a price
        self.buckets: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0] * (self.types + 1))

    def window(self, w: int) -> list[float]:
        """Return the counts by event type and the money of a window: of its last buckets up to the user's clock."""
        _, length, n = WINDOWS[w]
        head = self.clock // (length // n)
        return [sum(self.buckets[w, head - back][c] for back in range(n)) for c in range(self.types + 1)]

    def features(self) -> list[float]:
        checks: dict[int, set[int]] = defaultdict(set)
        for e, _ in self.past[-LAST_EVENTS:]:
            checks[int(e["item_hash"])].add(int(e["item_check"]))
        checks.pop(0, None)
        items = sum(max(1, len(known - {0})) for known in checks.values())
        counts = [x for w in range(len(WINDOWS)) for x in self.window(w)[:-1]]
        return [*counts, self.window(AMOUNT_WINDOW)[-1], items]

    def seeds(self) -> list[int]:
        newest = [int(e["item"]) for e, _ in reversed(self.past[-LAST_EVENTS:]) if e["item"] < KNOWN]
        return [*dict.fromkeys(newest), *[NONE] * SEEDS][:SEEDS]


class NaiveKernel:
    """Apply the rules of `rows.py`, and of guarantees 2 and 4 of the design, to one event at a time."""

    def __init__(self, types: int = len(EVENT_TYPES)) -> None:
        self.users = [NaiveUser(types) for _ in range(USERS)]
        self.watermark: dict[int, int] = defaultdict(lambda: -1)
        self.sequence: Counter[int] = Counter()

    def apply(self, slot: int, e: Any) -> dict[str, Any]:
        user, p, event_type, time = (
            self.users[slot],
            int(e["partition"]),
            int(e["event_type"]),
            int(e["time"]),
        )
        before = self.watermark[p]
        self.watermark[p] = max(before, time)
        self.sequence[p] += 1
        said = {"gap_s": 0.0, "amount_ratio": 0.0, "amount_usual": 0.0, "first": 0, "fresh": 0}
        if e["offset"] <= user.source[event_type]:
            return {**said, "status": kernel.ALREADY_APPLIED}
        user.source[event_type] = int(e["offset"])
        if user.past and before - user.clock > TTL:
            user.forget()
            said["fresh"] = 1
        before_it = [x for x, _ in user.past[-LAST_EVENTS:]]
        if e["event_hash"] and any(is_same(x, e) for x in before_it):
            return {**said, "status": kernel.DUPLICATE}
        late = bool(user.past) and time < user.clock - LATENESS
        said["status"] = kernel.LATE if late else kernel.APPLIED
        user.late += late
        said["first"] = int(not user.past)
        said["gap_s"] = max(0, time - user.clock) / 1000 if user.past else -1.0
        if not user.past or time - user.clock > SESSION_GAP_MS:
            user.session_start = time
        user.clock = max(user.clock, time)
        user.sequence = self.sequence[p]
        user.last_ts[event_type] = max(user.last_ts[event_type], time)
        user.past.append((e, said["gap_s"]))
        amount = 0.0
        if event_type == PURCHASE and not math.isnan(e["price"]):
            amount = float(e["price"]) * int(e["quantity"])
            if user.amounts:
                said["amount_usual"] = statistics.median(user.amounts[-AMOUNTS:])
                if len(user.amounts) >= 3 and said["amount_usual"] > 0:
                    said["amount_ratio"] = amount / said["amount_usual"]
            user.amounts.append(amount)
        if not late:
            for w, (_, length, n) in enumerate(WINDOWS):
                bucket = user.buckets[w, time // (length // n)]
                bucket[event_type] += 1
                bucket[-1] += amount
        return {**said, "features": user.features(), "seeds": user.seeds()}
