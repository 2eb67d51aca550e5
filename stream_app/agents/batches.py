"""What passes between the engine and whoever drives it."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stream_app.events import Events
from stream_app.outputs import Message

Outputs = dict[tuple[str, int], list[Message]]


@dataclass(slots=True)
class Applied:
    """A micro-batch after the state: its good events and what the state said of each."""

    events: Events
    slots: npt.NDArray[np.int64]  # (n,)
    applied: npt.NDArray[np.void]  # (n,) APPLIED_EVENT
    features: npt.NDArray[np.float32]  # (n, len(WINDOW_FEATURES))
    seeds: npt.NDArray[np.int32]  # (n, SEEDS)


@dataclass(slots=True)
class StepOutput:
    """What one micro-batch brought."""

    outputs: Outputs = field(default_factory=dict)
    batches: list[Applied] = field(default_factory=list)
    events: int = 0  # taken from the merge
    late: int = 0
    duplicates: int = 0
    replayed: int = 0
    out_of_order: int = 0  # came after the merge had passed their place
    evicted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # by stage


@dataclass(slots=True)
class Checkpoint:
    """The state records of one partition and the source offsets they include."""

    partition: int
    keys: list[bytes]
    values: list[bytes | None]
    positions: list[int]
