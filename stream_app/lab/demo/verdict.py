"""The results of the live traffic, for the view and the summary."""

import math

import msgspec

from stream_app.lab.demo.measures import Exactness, Found, exactness
from stream_app.lab.demo.watch import Watch

#: The reason codes that each kind of planted abuse should cause.
SIGNS = {"bot": ("click_rate", "many_items"), "fraud": ("purchase_rate", "amount_jump")}


class Verdict(msgspec.Struct, frozen=True):
    """The results compared with what was planted."""

    exact: Exactness
    dead: dict[str, tuple[int, int]]  #: by reason: planted, found
    malformed: tuple[int, int]  #: sent so far, found
    duplicates: tuple[int, int]  #: sent so far, found
    late: tuple[int, int]  #: planted, and those that the worker found later than the allowed lateness
    flags: dict[str, Found]

    @property
    def ok(self) -> bool:
        """Whether every valid event has exactly one prediction, and every invalid record a dead letter."""
        return self.exact.exact and all(planted == found for planted, found in self.dead.values())


def verdict(watch: Watch) -> Verdict:
    """Judge the answers so far; of the planted users, only those with answered records count."""
    truth, answers = watch.truth, watch.answers
    seen = answers.times > 0
    flags = {kind: watch.flags.against(codes, truth.users_of(kind, seen)) for kind, codes in SIGNS.items()}
    reasons = sorted(set(truth.reasons) | set(watch.dead))
    return Verdict(
        exactness(truth.good, answers.times, answers.strangers),
        {reason: (truth.reasons[reason], watch.dead[reason]) for reason in reasons},
        (int((truth.malformed & answers.present).sum()), sum(watch.dead.values())),
        (int((truth.duplicate & answers.present).sum()), int(watch.worker.get("duplicates_total", 0))),
        (truth.late, int(watch.worker.get("late_events_total", 0))),
        flags,
    )


def percent(share: float) -> str:
    """Format a share: "41.3 %", or a dash if there was nothing to measure."""
    return "-" if math.isnan(share) else f"{share * 100:.1f} %"


def milliseconds(value: float) -> str:
    """Format a time."""
    return "-" if math.isnan(value) else f"{value:,.0f} ms"
