"""What passes between a processor and the code that drives it."""

from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from model.serving.api import StepBatch
from stream_app.contract.event_columns import Events
from stream_app.contract.message_columns import MessageColumns
from stream_app.contract.outputs import NO_HEADERS, Message

#: Messages by topic and partition.
Outputs = dict[tuple[str, int], list[Message]]


@dataclass(slots=True)
class HiddenRebuild:
    """Earlier events of users whose hidden states have to be rebuilt."""

    slots: npt.NDArray[np.int64]  # of these users; not all need have events
    events: StepBatch

    def without(self, free: npt.NDArray[np.bool_]) -> "HiddenRebuild":
        """The same without the slots that are `free` (slots,)."""
        return HiddenRebuild(self.slots[~free[self.slots]], taken(self.events, ~free[self.events.slots]))


def taken(events: StepBatch, which: npt.NDArray[np.bool_]) -> StepBatch:
    """Some of the events, in their order."""
    return StepBatch(**{f.name: getattr(events, f.name)[which] for f in fields(events)})


@dataclass(slots=True)
class AppliedBatch:
    """A micro-batch that was applied to the rows: its good events and what the kernel says of each."""

    events: Events
    slots: npt.NDArray[np.int64]  # (n,)
    applied: npt.NDArray[np.void]  # (n,) APPLIED_EVENT
    features: npt.NDArray[np.float32]  # (n, len(WINDOW_FEATURES))
    seeds: npt.NDArray[np.int32]  # (n, SEEDS)
    serial: npt.NDArray[np.int64]  # (n,) of the user who had the slot at that time
    reset: npt.NDArray[np.int64]  # slots to empty before these events: their users are new
    model: object = None  # the runtime whose item numbers are in the columns
    rebuild: HiddenRebuild | None = None  # for users whose hidden states are rebuilt first
    degraded: bool = False  # no model answered, though there should be one
    before: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None = None  # slots, their hidden states

    def without(self, partition: int, free: npt.NDArray[np.bool_]) -> "AppliedBatch":
        """The same without a partition; `free` (slots,) says which slots have no user any more."""
        keep = np.flatnonzero(self.events.data["partition"] != partition)
        before = self.before
        if before is not None:
            known = ~free[before[0]]
            before = before[0][known], before[1][known]
        return AppliedBatch(
            self.events.take(keep), self.slots[keep], self.applied[keep], self.features[keep], self.seeds[keep],
            self.serial[keep], self.reset[~free[self.reset]], self.model,
            self.rebuild.without(free) if self.rebuild is not None else None, self.degraded, before,
        )  # fmt: skip


@dataclass(slots=True)
class StepOutput:
    """The result of one micro-batch."""

    columns: list[tuple[str, int, MessageColumns]] = field(default_factory=list)  # topic, partition, messages
    others: Outputs = field(default_factory=dict)  # the few messages that are not columns
    batches: list[AppliedBatch] = field(default_factory=list)
    events: int = 0  # taken from the merge
    late: int = 0
    duplicates: int = 0
    already_applied: int = 0
    out_of_order: int = 0  # arrived after the merge had passed their time
    evicted: int = 0
    probe: bool = False  # without events: it calls a model that failed, and releases the batches that wait
    degraded: int = 0  # events answered without the model
    hidden_resets: int = 0  # users whose hidden state contained NaN or infinity and was reset
    model_failures: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # by stage

    @property
    def outputs(self) -> Outputs:
        """All messages as objects, made at each call: for files and tests, not for the hot path."""
        outputs = {place: list(messages) for place, messages in self.others.items()}
        for topic, partition, columns in self.columns:
            messages = [(key, value, NO_HEADERS) for key, value in columns.each()]
            outputs.setdefault((topic, partition), []).extend(messages)
        return outputs


@dataclass(slots=True)
class Checkpoint:
    """The state records of one partition and the source offsets they include."""

    partition: int
    records: MessageColumns
    positions: list[int]
