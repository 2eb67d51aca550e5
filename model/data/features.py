"""Turns the columns of events into the numbers that the network reads; training and live use share this code."""

from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from model.data.windows import WINDOW_FEATURES

GAP_BUCKETS = 48  # bucket 0: first event; bucket 47: a gap of at least 92 days
HOURS = 24
N_EVENT_TYPES = 3
#: Numeric inputs: log price, whether the price is known, log quantity, log1p of every window feature.
NUMERIC = 3 + len(WINDOW_FEATURES)


class Inputs(NamedTuple):
    """Network inputs of n events."""

    event_type: npt.NDArray[np.int32]  # (n,) 0 .. N_EVENT_TYPES - 1
    item: npt.NDArray[np.int32]  # (n,) vocabulary number
    category: npt.NDArray[np.int32]  # (n,) vocabulary number
    gap: npt.NDArray[np.int32]  # (n,) 0 .. GAP_BUCKETS - 1
    hour: npt.NDArray[np.int32]  # (n,) hour of the day, UTC
    numeric: npt.NDArray[np.float32]  # (n, NUMERIC) standardised


class Scale(msgspec.Struct, frozen=True):
    """Mean and standard deviation of the numeric inputs in the training data."""

    mean: list[float]
    deviation: list[float]


def gap_bucket(gap_s: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Return the log-spaced bucket of a time gap in seconds, two buckets per doubling; 0 for a first event."""
    known = np.log2(1.0 + np.maximum(gap_s, 0.0)) * 2.0 + 1.0
    return np.where(gap_s < 0, 0, np.minimum(known, GAP_BUCKETS - 1)).astype(np.int32)


def hour_of_day(ts: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Return the UTC hour 0 .. 23 of a Unix time in ms."""
    return ((ts // 3_600_000) % HOURS).astype(np.int32)


def numeric(
    price: npt.NDArray[np.float32], quantity: npt.NDArray[np.int32], windows: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the numeric inputs before standardising, (n, NUMERIC); an unknown price is NaN."""
    out = np.empty((len(price), NUMERIC), np.float32)
    out[:, 0] = np.log1p(np.maximum(price, 0.0))
    out[:, 1] = ~np.isnan(price)
    out[:, 2] = np.log(np.maximum(quantity, 1).astype(np.float32))
    np.log1p(np.maximum(windows, 0.0), out=out[:, 3:])
    return out


def fit_scale(values: npt.NDArray[np.float32]) -> Scale:
    """Return the scale of numeric inputs (n, NUMERIC), NaN ignored; a constant column keeps deviation 1."""
    known = ~np.isnan(values)
    count = np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, values, 0.0).astype(np.float64)
    mean = filled.sum(axis=0) / count
    variance = np.where(known, (filled - mean) ** 2, 0.0).sum(axis=0) / count
    deviation = np.where(variance > 1e-12, np.sqrt(variance), 1.0)
    return Scale(mean.tolist(), deviation.tolist())


class FeatureEncoder:
    """Turns event columns into network inputs, with the scale of one model."""

    def __init__(self, scale: Scale) -> None:
        self._mean = np.array(scale.mean, np.float32)
        self._factor = (1.0 / np.array(scale.deviation)).astype(np.float32)

    def encode(
        self,
        event_type: npt.NDArray[np.int8],
        item: npt.NDArray[np.int32],
        category: npt.NDArray[np.int32],
        gap_s: npt.NDArray[np.float32],
        ts: npt.NDArray[np.int64],
        price: npt.NDArray[np.float32],
        quantity: npt.NDArray[np.int32],
        windows: npt.NDArray[np.float32],
    ) -> Inputs:
        """Return the inputs of n events; `item` and `category` are already vocabulary numbers.

        Standardised numbers are clipped to +-8, so one absurd price cannot saturate a user's hidden state.
        """
        values = numeric(price, quantity, windows)
        values -= self._mean
        values *= self._factor
        np.clip(values, -8.0, 8.0, out=values)
        values[np.isnan(values)] = 0.0
        return Inputs(
            event_type.astype(np.int32), item, category, gap_bucket(gap_s), hour_of_day(ts), values
        )  # fmt: skip
