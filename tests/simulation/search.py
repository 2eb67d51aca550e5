"""Tries many schedules, each from a seed."""

import random
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.simulation.schedule import Schedule
from tests.simulation.world import Report, World, trouble

#: Guarantee, and whether transactions have the second form.
FORMS = (("at_least_once", False), ("exactly_once", False), ("exactly_once", True))
#: Number of decisions of a schedule. After them there is no more trouble.
DECISIONS = 2500


def decisions_of(seed: int) -> bytes:
    """Return the decisions of a schedule."""
    return random.Random(seed).randbytes(DECISIONS)


def run(
    decisions: bytes, guarantee: str, *, implicit: bool, aim: Iterable[str] | None = None
) -> tuple[Report, World]:
    """Return the report of one run, and its world; missing decisions are harmless.

    `aim`: the only kinds of requests that have trouble, many of them.
    """
    schedule = Schedule(decisions.ljust(DECISIONS, b"\0"))
    schedule.aim = frozenset(aim) if aim is not None else None
    world = World(schedule, guarantee, implicit=implicit)
    return world.run(trouble), world


def fewest(
    decisions: bytes, guarantee: str, *, implicit: bool, seconds: float = 30.0
) -> tuple[bytes, Report]:
    """Return decisions that still cause problems, as many of them harmless as the time allows, and their report."""
    best, end = decisions.ljust(DECISIONS, b"\0"), time.monotonic() + seconds
    report, _ = run(best, guarantee, implicit=implicit)
    size = len(best) // 2
    while size:
        for start in range(len(best) - len(best) % size, -1, -size):
            if time.monotonic() > end:
                return best.rstrip(b"\0"), report
            tried = (best[:start] + bytes(size) + best[start + size :])[: len(best)]
            if tried != best:
                found, _ = run(tried, guarantee, implicit=implicit)
                if found.problems:
                    best, report = tried, found
        size //= 2
    return best.rstrip(b"\0"), report


@dataclass
class Search:
    """The results of many schedules."""

    tried: int = 0
    found: dict[int, Report] = field(default_factory=dict)  #: the reports with problems, by seed
    counts: Counter[str] = field(default_factory=Counter)

    def take(self, seed: int, guarantee: str, *, implicit: bool, aim: Iterable[str] | None = None) -> Report:
        """Try one more."""
        report, _ = run(decisions_of(seed), guarantee, implicit=implicit, aim=aim)
        self.tried += 1
        self.counts.update(report.counts)
        if report.problems:
            self.found[seed] = report
        return report
