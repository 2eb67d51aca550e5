"""Health of a worker: the worker reports facts, and two probes judge them. Pure: the clocks are passed in.

*Live* is false only if a restart would help: a thread has worked on one task for too long, or the membership of the
group has ended.
*Ready* is guarantee 7: partitions are assigned, state is recovered, the model is warm and answers, the oldest
unprocessed record is young enough, and commits succeed.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class _BehindOpenTransaction(NamedTuple):
    """Records that wait until a transaction of another producer ends."""

    partition: str
    records: int
    seconds: float


Verdict = tuple[bool, dict[str, str]]  # whether all checks pass, and the result of each


def _wall_ms() -> float:
    return time.time() * 1000.0


class Health:
    """The facts about a worker. The result of a check that passes begins with `ok`."""

    #: Parts of a worker that need a restart if they hang.
    LOOP, PROCESSING = "loop", "processing"

    def __init__(
        self,
        max_age_ms: float,
        *,
        stuck_s: float = 60.0,
        commit_grace_s: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], float] = _wall_ms,
    ) -> None:
        """Limits: age of the oldest record, seconds without a beat of a part, seconds of failing commits."""
        self.max_age_ms, self.stuck_s, self.commit_grace_s = max_age_ms, stuck_s, commit_grace_s
        self._now, self._wall_ms = monotonic, wall_ms
        self._assigned: int | None = None
        self._group_trouble: str | None = None  # why the group does not accept this worker
        self._group_ended: str | None = None  # the same, if it is final
        self._recovery: tuple[int, int] | None = None  # records read, records to read
        self._recovered = False
        self._model: str | None = "not loaded yet"  # why it cannot answer, None if it can
        self._oldest_ms: float | None = None
        self._behind_open_transaction: _BehindOpenTransaction | None = None
        self._split = 0  # users with events in more than one partition
        self._commits_fail: tuple[float, str] | None = None  # since when, why
        self._waits: dict[object, float] = {}  # since when something waits for the broker
        self._beats: dict[str, float] = {}

    def set_assigned(self, partitions: int | None) -> None:
        """Sets the number of partitions that this worker has; None during a rebalance.

        After each call the state counts as not recovered.
        """
        self._assigned = partitions
        self._recovered, self._recovery = False, None

    def set_group_trouble(self, why: str | None) -> None:
        """Sets why the group does not accept this worker, while it tries again; None if the group accepts it."""
        self._group_trouble = why

    def end_group(self, why: str) -> None:
        """Sets that the group finally refuses this worker, which does not try again."""
        self._group_ended = why

    def set_recovering(self, done: int, total: int) -> None:
        """Sets that `done` of `total` state records are read back."""
        self._recovered, self._recovery = False, (done, total)

    def set_recovered(self) -> None:
        """Sets that the state of all assigned partitions is complete."""
        self._recovered, self._recovery = True, None

    def set_model(self, cold_because: str | None) -> None:
        """Sets why the model cannot answer; None if it can, or if the worker uses no model."""
        self._model = cold_because

    def set_oldest(self, append_ms: float | None) -> None:
        """Sets the broker's time of the oldest unprocessed record, Unix ms; None if all are processed."""
        self._oldest_ms = append_ms

    def set_behind_open_transaction(
        self, partition: str = "", records: int = 0, seconds: float = 0.0
    ) -> None:
        """Sets the records that have waited longest for a transaction of another producer; by default none."""
        self._behind_open_transaction = (
            _BehindOpenTransaction(partition, records, seconds) if records else None
        )

    def set_split_users(self, users: int) -> None:
        """Sets the number of users with events in more than one partition. It does not affect readiness."""
        self._split = users

    def commit_failed(self, why: str) -> None:
        """Reports a failed commit. Of several failures in a row, the time of the first one counts."""
        since = self._commits_fail[0] if self._commits_fail else self._now()
        self._commits_fail = (since, why)

    def commit_succeeded(self) -> None:
        """Reports a successful commit."""
        self._commits_fail = None

    @contextmanager
    def waiting_for_broker(self) -> Iterator[None]:
        """Use it around everything that waits for the broker: a long wait counts like a failed commit."""
        wait = object()
        self._waits[wait] = self._now()
        try:
            yield
        finally:
            del self._waits[wait]

    def beat(self, part: str) -> None:
        """Reports that `part` (LOOP, PROCESSING) makes progress; call it at the start of each task."""
        self._beats[part] = self._now()

    def rest(self, part: str) -> None:
        """Reports that `part` waits for work, so the limit on its silence does not apply."""
        self._beats.pop(part, None)

    def live(self) -> Verdict:
        """False if a part at work gave no beat for over `stuck_s`, or if the membership of the group has ended."""
        now = self._now()
        silent = {part: now - beat for part, beat in self._beats.copy().items()}
        checks = {
            part: f"silent for {silence:.0f} s, limit {self.stuck_s:.0f} s"
            if silence > self.stuck_s
            else "ok"
            for part, silence in silent.items()
        }
        for part in (self.LOOP, self.PROCESSING):
            checks.setdefault(part, "ok, at rest")
        checks["group"] = "ok" if self._group_ended is None else f"membership has ended: {self._group_ended}"
        return _verdict(checks)

    def ready(self) -> Verdict:
        """False, with the reason, while this worker would not answer a new event in time."""
        return _verdict(
            {
                "assigned": self._check_assigned(),
                "recovered": self._check_recovered(),
                "model": "ok" if self._model is None else self._model,
                "age": self._check_age(),
                "transactions": self._check_transactions(),
                "commits": self._check_commits(),
                "keys": self._check_keys(),
            }
        )

    def _check_assigned(self) -> str:
        if self._group_ended is not None:
            return self._group_ended
        if self._group_trouble is not None:
            return f"{self._group_trouble} (tried again)"
        if self._assigned is None:
            return "waiting for the group to hand out partitions"
        if self._assigned == 0:
            return "the group has more workers than partitions: none for this one"
        return f"ok, {self._assigned} partitions"

    def _check_recovered(self) -> str:
        if self._recovered:
            return "ok"
        if self._recovery is None:
            return "state not read back yet"
        done, total = self._recovery
        return f"reading state back: {done:,} of {total:,} records"

    def _check_age(self) -> str:
        if self._oldest_ms is None:
            return "ok, nothing waits"
        age_ms = max(self._wall_ms() - self._oldest_ms, 0.0)
        if age_ms > self.max_age_ms:
            return f"the oldest unprocessed record is {age_ms:,.0f} ms old, limit {self.max_age_ms:,.0f} ms"
        return f"ok, {age_ms:,.0f} ms"

    def _check_keys(self) -> str:
        if not self._split:
            return "ok"
        return f"ok, but {self._split:,} users have events in more than one partition: use one partitioner"

    def _check_transactions(self) -> str:
        if self._behind_open_transaction is None:
            return "ok"
        place, records, seconds = self._behind_open_transaction
        said = f"an open transaction of another producer holds back {records:,} records of {place}, {seconds:.0f} s"
        if seconds * 1000 > self.max_age_ms:
            return (
                f"{said}, limit {self.max_age_ms / 1000:g} s: find it with kafka-transactions.sh find-hanging"
            )
        return f"ok, {said}"

    def _check_commits(self) -> str:
        waited_s = self._now() - min(self._waits.values(), default=self._now())
        if waited_s > self.commit_grace_s:
            return f"waiting for the broker for {waited_s:.0f} s"
        if self._commits_fail is None:
            return "ok"
        since, why = self._commits_fail
        failing_s = self._now() - since
        if failing_s < self.commit_grace_s:
            return f"ok, one failed {failing_s:.1f} s ago and is tried again ({why})"
        return f"failing for {failing_s:.0f} s: {why}"


def _verdict(checks: dict[str, str]) -> Verdict:
    return all(detail.startswith("ok") for detail in checks.values()), checks
