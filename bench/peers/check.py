"""Compares the outputs of any system with the expected ones."""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec
import numpy as np

from bench.peers.generate import Counts, Truth

#: What a system publishes: a record with the counts for each event; one without them (a loop that keeps no state); a
#: prediction for each event; or changed counts only, a few times for each user and window.
Answers = Literal["counts", "bare", "predictions", "changes"]

NONE: Counts = (0, 0, 0)
_DIGITS = 8  # an event_id begins with the number of its event


class Answer(msgspec.Struct):
    """A value of the output topic, for any kind of answer."""

    user_id: str
    event_id: str = ""
    window_start: float | None = None
    clicks: int = 0
    browses: int = 0
    purchases: int = 0
    next_event: Any = None
    items: Any = None
    time: int = 0  # order of the changes
    diff: int = 1  # -1 withdraws an earlier change

    @property
    def counts(self) -> Counts:
        """The counts of the window."""
        return (self.clicks, self.browses, self.purchases)


class Verdict(msgspec.Struct, frozen=True):
    """How the outputs of a system compare with the expected ones."""

    outputs: int
    missing: int = 0  #: events without an output
    repeated: int = 0  #: outputs beyond the first one of their event
    unasked: int = 0  #: outputs that cannot be read, or belong to no event
    wrong_keys: int = 0  #: outputs whose key is not the user of the event
    incomplete: int = 0  #: outputs without their window's counts, or without a prediction
    windows: int = 0  #: expected pairs of user and window
    wrong_windows: int = 0  #: pairs of user and window, expected or not, whose last counts are wrong
    over: int = 0  #: events counted more than once
    lost: int = 0  #: events not counted

    @property
    def exact(self) -> bool:
        """Whether no output is missing and none is wrong; outputs may be repeated."""
        faults = (self.missing, self.unasked, self.wrong_keys, self.incomplete, self.wrong_windows)
        return self.outputs > 0 and not any(faults)

    @property
    def right(self) -> bool:
        """Whether every event has exactly one output, and all are right."""
        return self.exact and self.repeated == 0

    def faults(self) -> str:
        """A text that says what is wrong; empty if nothing is."""
        if not self.outputs:
            return "no outputs"
        found = (
            (self.missing, "events unanswered"),
            (self.repeated, "outputs repeated"),
            (self.unasked, "outputs of no event"),
            (self.wrong_keys, "wrong keys"),
            (self.incomplete, "outputs incomplete"),
            (self.wrong_windows, f"of {self.windows:,} counts wrong (+{self.over:,} -{self.lost:,})"),
        )
        return ", ".join(f"{n:,} {words}" for n, words in found if n)


def judge(outputs: Iterable[tuple[bytes | None, bytes]], truth: Truth, answers: Answers) -> Verdict:
    """Return the verdict on the outputs (key and value), given in the order of the log.

    Only the last counts of a user and window are compared. The outputs of a user share a partition, so their order is
    that of the log.
    """
    if answers == "changes":
        return _judge_changes(outputs, truth)
    seen = np.zeros(len(truth.user), np.int64)
    owners = [b"u%d" % user for user in truth.user.tolist()]
    last: dict[tuple[str, int], Counts] = {}
    total = unasked = wrong_keys = incomplete = 0
    decode = msgspec.json.Decoder(Answer).decode
    for key, value in outputs:
        total += 1
        try:
            answer = decode(value)
            number = int(answer.event_id[:_DIGITS])
            owner = owners[number if number >= 0 else len(owners)]
        except (msgspec.MsgspecError, ValueError, IndexError):
            unasked += 1
            continue
        seen[number] += 1
        if key != owner or answer.user_id.encode() != owner:
            wrong_keys += 1
        if answers == "counts":
            if answer.window_start is None:
                incomplete += 1
            else:
                last[answer.user_id, int(answer.window_start)] = answer.counts
        elif answers == "predictions" and not (answer.next_event and answer.items):
            incomplete += 1
    found = Verdict(
        outputs=total,
        missing=int((seen == 0).sum()),
        repeated=int(np.maximum(seen - 1, 0).sum()),
        unasked=unasked,
        wrong_keys=wrong_keys,
        incomplete=incomplete,
    )
    return _with_counts(found, last, truth) if answers == "counts" else found


def _judge_changes(outputs: Iterable[tuple[bytes | None, bytes]], truth: Truth) -> Verdict:
    """Return the verdict on changed counts: the latest one of each user and window by its own time."""
    latest: dict[tuple[str, int], tuple[int, Counts]] = {}
    total = unasked = 0
    decode = msgspec.json.Decoder(Answer).decode
    for _, value in outputs:
        total += 1
        try:
            answer = decode(value)
        except msgspec.MsgspecError:
            unasked += 1
            continue
        if answer.diff > 0 and answer.window_start is not None:
            place = (answer.user_id, int(answer.window_start))
            if place not in latest or answer.time >= latest[place][0]:
                latest[place] = (answer.time, answer.counts)
    last = {place: counts for place, (_, counts) in latest.items()}
    return _with_counts(Verdict(outputs=total, unasked=unasked), last, truth)


def _with_counts(found: Verdict, last: dict[tuple[str, int], Counts], truth: Truth) -> Verdict:
    wrong = over = lost = 0
    for place in truth.counts.keys() | last.keys():
        wanted, got = truth.counts.get(place, NONE), last.get(place, NONE)
        if wanted != got:
            wrong += 1
            over += sum(max(0, g - w) for w, g in zip(wanted, got, strict=True))
            lost += sum(max(0, w - g) for w, g in zip(wanted, got, strict=True))
    return msgspec.structs.replace(
        found, windows=len(truth.counts), wrong_windows=wrong, over=over, lost=lost
    )
