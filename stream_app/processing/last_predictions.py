"""The newest prediction of each user, for look-ups. Not part of the durable state."""

import threading

import numpy as np
import numpy.typing as npt

from model.serving.api import Runtime, StepResult
from stream_app.contract.outputs import ItemScore, NextEvent
from stream_app.contract.records import EVENT_TYPES
from stream_app.processing.prediction_encoder import rounded, scored

_TYPES = len(EVENT_TYPES)


class LastPredictions:
    """The newest prediction of each slot. The model thread writes it while the state thread looks users up."""

    def __init__(self, limit: int, k: int) -> None:
        # Held for a whole micro-batch of writes and for one read: a look-up sees one prediction, never parts of two.
        self._lock = threading.Lock()
        self.owner = np.zeros(limit, np.int64)  # serial number of the user whose prediction it is
        self.items = np.zeros((limit, k), np.int32)
        self.scores = np.zeros((limit, k), np.float32)
        self.heads = np.zeros((limit, _TYPES + 1), np.float32)  # next event of each type, then a purchase

    def keep(self, slots: npt.NDArray[np.int64], serial: npt.NDArray[np.int64], result: StepResult) -> None:
        """Stores the predictions of a micro-batch; of several for one slot the last counts."""
        with self._lock:
            self.owner[slots] = serial
            self.items[slots, : result.items.shape[1]] = result.items
            self.scores[slots, : result.scores.shape[1]] = result.scores
            self.heads[slots, :_TYPES] = result.next_event
            self.heads[slots, _TYPES] = result.purchase

    def find(
        self, slot: int, serial: int, runtime: Runtime
    ) -> tuple[NextEvent, float, list[ItemScore]] | None:
        """Probabilities of the next types, of a purchase, and the items; None for another user than `serial`."""
        with self._lock:
            if self.owner[slot] != serial:
                return None
            heads, numbers, scores = (
                self.heads[slot].copy(),
                self.items[slot].tolist(),
                self.scores[slot].copy(),
            )
        *next_event, purchase = rounded(heads)
        return NextEvent(*next_event), purchase, scored(numbers, rounded(scores), runtime.item_ids)
