"""The statistics of the demo as small accumulators, without I/O."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

RowNumbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Quantiles(msgspec.Struct, frozen=True):
    """Quantiles of latencies in ms; NaN without any."""

    p50: float
    p99: float
    count: int


class AnswerTimes:
    """Joins R source records with their answers by row: how often each was answered, and how fast.

    Times are the broker's append times, Unix ms; either side of a pair may come first.
    """

    def __init__(self, rows: int) -> None:
        self._appended = np.full(rows, -1, np.int64)
        self._answered = np.full(rows, -1, np.int64)  # the first answer
        self.times = np.zeros(rows, np.int32)  #: (R,) how often each was answered
        self.strangers = 0  #: answers to unknown records

    def appended(self, rows: RowNumbers, at_ms: RowNumbers) -> None:
        """Add source records (n,) that are in the log."""
        self._appended[rows] = at_ms

    def answered(self, rows: RowNumbers, at_ms: RowNumbers) -> None:
        """Add answers (n,) that are in the log, in order; the row of an unknown source is -1."""
        known = rows >= 0
        self.strangers += int(np.count_nonzero(~known))
        rows, at_ms = rows[known], at_ms[known]
        np.add.at(self.times, rows, 1)
        first, where = np.unique(rows, return_index=True)
        fresh = self._answered[first] < 0
        self._answered[first[fresh]] = at_ms[where[fresh]]

    @property
    def present(self) -> Mask:
        """(R,) source records found in the log so far."""
        return self._appended >= 0

    def latency(self, since_ms: int = 0) -> Quantiles:
        """Return the quantiles of the latencies of first answers since `since_ms`."""
        pairs = (self._answered >= max(since_ms, 0)) & (self._appended >= 0)
        if not pairs.any():
            return Quantiles(float("nan"), float("nan"), 0)
        took = self._answered[pairs] - self._appended[pairs]
        p50, p99 = np.quantile(took, (0.5, 0.99)).tolist()
        return Quantiles(p50, p99, len(took))


class Exactness(msgspec.Struct, frozen=True):
    """How the answers match the records that must have exactly one answer."""

    good: int
    answered: int  #: valid records with at least one answer
    repeated: int  #: answers beyond the first of a record
    unasked: int  #: answers to invalid, duplicate or unknown records

    @property
    def exact(self) -> bool:
        """Whether each valid record has one answer and no other record has any."""
        return self.answered == self.good and not self.repeated and not self.unasked


def exactness(good: Mask, times: npt.NDArray[np.int32], strangers: int) -> Exactness:
    """Compare `good` (R,) with how often each record was answered (R,)."""
    wanted = times[good]
    return Exactness(
        int(np.count_nonzero(good)),
        int(np.count_nonzero(wanted)),
        int((wanted - (wanted > 0)).sum()),
        int(times[~good].sum()) + strangers,
    )


class NextItems:
    """Hit rate: the share of events whose item was among those predicted at the user's previous event.

    The user's next event decides whether a prediction was a hit; if that event names no item, the prediction does
    not count. The popular items are judged on the same cases.
    """

    def __init__(self, popular: Iterable[str], k: int = 10) -> None:
        self._popular = set(list(popular)[:k])
        self._k = k
        self._open: dict[str, Sequence[str]] = {}
        self.cases = self.hits = self.popular_hits = 0

    def add(self, user: str, item: str | None, predicted: Sequence[str]) -> None:
        """Add a user's event with its item, and the items predicted after it, best first."""
        before = self._open.get(user)
        if before is not None and item is not None:
            self.cases += 1
            self.hits += item in before
            self.popular_hits += item in self._popular
        self._open[user] = predicted[: self._k]

    @property
    def rate(self) -> float:
        """Share of the cases that were hit; NaN without any."""
        return self.hits / self.cases if self.cases else float("nan")

    @property
    def popular_rate(self) -> float:
        """The same for the most popular items."""
        return self.popular_hits / self.cases if self.cases else float("nan")


class Found(msgspec.Struct, frozen=True):
    """Flagged users compared with planted ones."""

    planted: int
    found: int  #: users that are both
    flagged: int

    @property
    def recall(self) -> float:
        """Share of the planted users that were flagged; NaN without any."""
        return self.found / self.planted if self.planted else float("nan")

    @property
    def precision(self) -> float:
        """Share of the flagged users for whom something was planted; NaN without any."""
        return self.found / self.flagged if self.flagged else float("nan")


class FlagMatch:
    """The flagged users by reason code."""

    def __init__(self) -> None:
        self._users: dict[str, set[str]] = {}
        self.codes: Counter[str] = Counter()

    def add(self, user: str, codes: Iterable[str]) -> None:
        """Add a flag of a user with the codes of its reasons."""
        for code in codes:
            self.codes[code] += 1
            self._users.setdefault(code, set()).add(user)

    def against(self, codes: Iterable[str], planted: set[str]) -> Found:
        """Compare the users flagged with any of `codes` with the users for whom that abuse was planted."""
        flagged = set[str]().union(*(self._users.get(code, set()) for code in codes))
        found = len(flagged & planted)
        return Found(len(planted), found, len(flagged))


class Rate:
    """The rate per second of a growing count over the last seconds."""

    def __init__(self, window_s: float = 5.0) -> None:
        self._window_s = window_s
        self._marks: deque[tuple[float, int]] = deque()

    def mark(self, now_s: float, count: int) -> float:
        """Record the count; return the rate since the oldest mark within the window."""
        self._marks.append((now_s, count))
        while len(self._marks) > 2 and self._marks[1][0] <= now_s - self._window_s:
            self._marks.popleft()
        (then, before), (now, after) = self._marks[0], self._marks[-1]
        return (after - before) / (now - then) if now > then else 0.0
