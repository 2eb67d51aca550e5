"""Logs a few examples of bad records, however many there are. All are counted, and all become dead letters."""

import time
from collections import Counter
from collections.abc import Callable, Sequence

import structlog

from stream_app.contract.events import BadRecord

log = structlog.stdlib.get_logger(__name__)

#: Seconds between two logged examples of the same reason.
EXAMPLE_EVERY_S = 30.0


class BadRecordLog:
    """For each reason logs the first record, and later ones from time to time with the count since the last."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._now = monotonic
        self._next: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()

    def add(self, bad: Sequence[BadRecord]) -> Counter[str]:
        """Logs an example of each reason if one is due; returns the number of records per reason."""
        counts = Counter(b.reason for b in bad)
        self._unsaid.update(counts)
        examples = {b.reason: b for b in reversed(bad)}
        now = self._now()
        for reason in counts:
            if now < self._next.get(reason, now):
                continue
            self._next[reason] = now + EXAMPLE_EVERY_S
            b = examples[reason]
            log.warning(
                "bad records moved to the dead-letter topic",
                reason=reason,
                count=self._unsaid.pop(reason),
                example=f"{b.record.topic}-{b.record.partition}-{b.record.offset}",
                problem=b.message,
            )
        return counts
