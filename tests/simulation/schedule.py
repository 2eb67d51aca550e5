"""What happens in a run: a sequence of decisions, each a number; 0 is harmless, so that sequences shrink well."""

from collections import Counter
from enum import Enum


class Fate(Enum):
    """The fate of a request."""

    ANSWERED = "answered"
    LATE = "late"  # the client gets an error instead of an answer; the broker gets the request after that
    LOST = "lost"  # the request never arrives
    MUTE = "mute"  # the request arrives, but not its answer
    NOT_SENT = "not sent"
    NOT_NOW = "not now"  # the broker refuses the request for now
    HALF = "half"  # the broker answers "not now" although it executed the request, where Kafka may do so


_FATES = (Fate.LATE, Fate.LATE, Fate.MUTE, Fate.LOST, Fate.NOT_SENT, Fate.NOT_NOW, Fate.HALF)
_LATENCY_S = (0.0, 0.0, 0.002, 0.02, 0.2)
_LATE_S = (0.05, 0.4, 2.0, 5.0, 9.0)
_WAIT_S = (0.01, 0.1, 1.0)
_THREAD_S = (0.0, 0.0, 0.001, 0.01, 0.3)
_MARKER_S = (0.0, 0.001, 0.02, 0.5)
#: Of 256 requests so many have trouble.
RATES = (0, 4, 12, 30, 60)


class Schedule:
    """Decisions, taken one after the other. When all are used up, there is no more trouble."""

    def __init__(self, decisions: bytes) -> None:
        self._decisions, self._at = decisions, 0
        self.quiet = False  # no more faults
        self.counts: Counter[str] = Counter()
        self.rate = RATES[self.draw() % len(RATES)]
        #: If given, only these kinds of requests have trouble, and many of them.
        self.aim: frozenset[str] | None = None

    def draw(self) -> int:
        """Return the next decision, 0 to 255."""
        if self.quiet or self._at >= len(self._decisions):
            return 0
        self._at += 1
        return self._decisions[self._at - 1]

    @property
    def used_up(self) -> bool:
        """Whether no decision is left."""
        return self._at >= len(self._decisions)

    def fate(self, kind: str) -> Fate:
        """Return the fate of the next request."""
        drawn = self.draw()
        rate = self.rate if self.aim is None else 160 if kind in self.aim else 0
        if drawn <= 255 - rate:
            return Fate.ANSWERED
        return _FATES[drawn % len(_FATES)]

    def pick(self, of: tuple[float, ...]) -> float:
        """Return one of some times; the first is harmless."""
        return of[self.draw() % len(of)]

    def latency_s(self) -> float:
        """Return how long a request or an answer takes."""
        return 0.001 + self.pick(_LATENCY_S)

    def late_s(self) -> float:
        """Return how long after the client gave up a request it arrives."""
        return self.pick(_LATE_S)

    def wait_s(self) -> float:
        """Return how long the client waits before it gives up a request."""
        return self.pick(_WAIT_S)

    def thread_s(self) -> float:
        """Return how long a call in a thread takes."""
        return self.pick(_THREAD_S)

    def marker_s(self) -> float:
        """Return the time until the marker of a transaction is written to a partition."""
        return self.pick(_MARKER_S)
