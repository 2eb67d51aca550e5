"""The newest prediction of each user, for look-ups. Not part of the durable state."""

import numpy as np
import numpy.typing as npt

from model.serving.api import Runtime, StepResult
from stream_app.contract.outputs import ItemScore, NextEvent
from stream_app.processing.prediction_encoder import rounded, scored


class LastPredictions:
    """The newest prediction of each slot, for look-ups."""

    def __init__(self, limit: int, k: int) -> None:
        self.owner = np.zeros(limit, np.int64)  # serial number of the user whose prediction it is
        self.items = np.zeros((limit, k), np.int32)
        self.scores = np.zeros((limit, k), np.float32)
        self.heads = np.zeros((limit, 4), np.float32)

    def keep(self, slots: npt.NDArray[np.int64], serial: npt.NDArray[np.int64], result: StepResult) -> None:
        """Remembers the predictions of a micro-batch; of several for one slot the last counts."""
        self.owner[slots] = serial
        self.items[slots, : result.items.shape[1]] = result.items
        self.scores[slots, : result.scores.shape[1]] = result.scores
        self.heads[slots, :3] = result.next_event
        self.heads[slots, 3] = result.purchase

    def show(self, slot: int, runtime: Runtime) -> tuple[NextEvent, float, list[ItemScore]]:
        """Probabilities of the next types, of a purchase, and the items."""
        heads = rounded(self.heads[slot])
        items = scored(self.items[slot].tolist(), rounded(self.scores[slot]), runtime.item_ids)
        return NextEvent(*heads[:3]), heads[3], items
