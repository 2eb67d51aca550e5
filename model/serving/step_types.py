"""The inputs and outputs of a model step: columns of one micro-batch."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from model.data.features import Inputs
from model.ranking.candidates import QUOTAS
from model.serving.rounds import Arrangement

#: How many of the user's last distinct items the ranking reads; more columns of `recent` do no harm.
RECENT_ITEMS = len(QUOTAS)


@dataclass(frozen=True)
class StepBatch:
    """One micro-batch of m events in processing order; a slot may occur many times."""

    slots: npt.NDArray[np.int64]  # (m,)
    event_type: npt.NDArray[np.int8]  # (m,) 0 click, 1 browse, 2 purchase
    item: npt.NDArray[np.int32]  # (m,) from `Runtime.item_index`, or `Runtime.none_item`
    category: npt.NDArray[np.int32]  # (m,) from `Runtime.category_index`, or `Runtime.none_category`
    gap_s: npt.NDArray[np.float32]  # (m,) seconds since the user's previous event, -1 for the first
    ts: npt.NDArray[np.int64]  # (m,) Unix ms
    price: npt.NDArray[np.float32]  # (m,) NaN if unknown
    quantity: npt.NDArray[np.int32]  # (m,)
    windows: npt.NDArray[np.float32]  # (m, len(WINDOW_FEATURES)), this event included
    recent: npt.NDArray[np.int32]  # (m, R) last distinct items of the user, this event's first, then "none"
    first: npt.NDArray[np.bool_]  # (m,) the user has no earlier event

    def __len__(self) -> int:
        return len(self.slots)


@dataclass(frozen=True)
class StepResult:
    """RawAnswers for m events, in processing order, as numpy arrays on the host."""

    next_event: npt.NDArray[np.float32]  # (m, 3) probability of each type of the next event
    purchase: npt.NDArray[np.float32]  # (m,) probability of a purchase within the horizon
    items: npt.NDArray[np.int32]  # (m, k) numbers below len(item_ids), best first; -1 if there are fewer
    scores: npt.NDArray[np.float32]  # (m, k) share of the item among the candidates, 0..1
    p_value: npt.NDArray[np.float32]  # (m,) chance of an event as surprising as this one; 1 for a first event
    surprise: npt.NDArray[np.float32]  # (m,) -log p(type) - log p(item) in nats; 0 for a first event
    type_probability: npt.NDArray[np.float32]  # (m,) probability the model gave to this event's type
    raw_purchase: npt.NDArray[np.float32]  # (m,) purchase score before calibration


class StepInputs(NamedTuple):
    """One micro-batch in the form that a backend needs: its order, its encoded columns, and how to rank."""

    plan: Arrangement
    inputs: Inputs
    batch: StepBatch
    boost: float  # weight of the followers' strength in the item score, from the calibration
    k: int  # items per list
    exact: bool  # rank all items


class Backend(Protocol):
    """The network on one device. `states` is `HiddenStates.states`, which both methods update in place."""

    def advance(self, states: torch.Tensor, plan: Arrangement, inputs: Inputs) -> object:
        """Update the hidden states only."""

    def __call__(self, states: torch.Tensor, step: StepInputs) -> "RawAnswers":
        """Update the hidden states and return the answers."""


class RawAnswers(NamedTuple):
    """The answers of a model for m events before calibration, in processing order, on the host."""

    next_event: npt.NDArray[np.float32]  # (m, 3)
    raw_purchase: npt.NDArray[np.float32]  # (m,)
    log_type: npt.NDArray[np.float32]  # (m,) log probability of each event's type under the state before it
    log_item: npt.NDArray[
        np.float32
    ]  # (m,) log probability of its item; 0 if unknown or absent. Unused for first events
    items: npt.NDArray[np.int32]  # (m, k)
    scores: npt.NDArray[np.float32]  # (m, k)


def empty(k: int) -> StepResult:
    """Return the answers for no events."""
    none = np.zeros(0, np.float32)
    return StepResult(
        np.zeros((0, 3), np.float32), none, np.zeros((0, k), np.int32), np.zeros((0, k), np.float32),
        none, none, none, none,
    )  # fmt: skip
