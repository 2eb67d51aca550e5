"""What passes between the engine and whoever drives it."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stream_app.event_columns import Events
from stream_app.messages import MessageColumns
from stream_app.outputs import NO_HEADERS, Message

#: Messages by topic and partition.
Outputs = dict[tuple[str, int], list[Message]]


@dataclass(slots=True)
class Applied:
    """A micro-batch after the state: its good events and what the state said of each."""

    events: Events
    slots: npt.NDArray[np.int64]  # (n,)
    applied: npt.NDArray[np.void]  # (n,) APPLIED_EVENT
    features: npt.NDArray[np.float32]  # (n, len(WINDOW_FEATURES))
    seeds: npt.NDArray[np.int32]  # (n, SEEDS)
    serial: npt.NDArray[np.int64]  # (n,) of the user who had the slot then
    reset: npt.NDArray[np.int64]  # slots to empty before these events: their users are new


@dataclass(slots=True)
class StepOutput:
    """What one micro-batch brought."""

    columns: list[tuple[str, int, MessageColumns]] = field(default_factory=list)  # topic, partition, messages
    others: Outputs = field(default_factory=dict)  # the few that have no columns
    batches: list[Applied] = field(default_factory=list)
    events: int = 0  # taken from the merge
    late: int = 0
    duplicates: int = 0
    replayed: int = 0
    out_of_order: int = 0  # came after the merge had passed their place
    evicted: int = 0
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
