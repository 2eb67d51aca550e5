"""Item vectors in two layers of 8-bit integers: each layer has a quarter of the bytes of the float32 vectors."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

#: Columns of `QuantisedItems.facts`.
SCALE, LOST, BIAS, FINE_LOST = range(4)
#: One step of the first layer is this many steps of the second.
FINE_STEPS = 254


class QuantisedItems(NamedTuple):
    """Row i is about `scale[i] x rows[i]`, and more exactly `scale[i] x (rows[i] + fine[i] / FINE_STEPS)`."""

    rows: npt.NDArray[np.int8]  # (known items, hidden), from -127 to 127
    fine: npt.NDArray[np.int8]  # (known items, hidden), from -127 to 127
    facts: npt.NDArray[
        np.float32
    ]  # (known items, 4) scale, length of the error of one layer, bias, length of the error of both


def quantised(table: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> QuantisedItems:
    """Return the layers of the first len(bias) rows of a table.

    By the Cauchy-Schwarz inequality the score `state . row` of one layer differs from that in float32 by at most
    |state| x facts[i, LOST], that of both by |state| x facts[i, FINE_LOST].
    """
    known, hidden = len(bias), table.shape[1]
    rows, fine = _lines(known, hidden), _lines(known, hidden)
    facts = np.empty((known, 4), np.float32)
    facts[:, BIAS] = bias
    for first in range(0, known, 4096):
        part = slice(first, min(first + 4096, known))
        some = table[part].astype(np.float64)
        scale = np.maximum(np.abs(some).max(axis=1, initial=0.0), 1e-30) / 127.0
        facts[part, SCALE] = scale
        # A little more than the true error, for the rounding of the sums in float32.
        slack = 1e-6 * np.linalg.norm(some, axis=1) + 1e-30
        scale = facts[part, SCALE].astype(np.float64)[:, None]
        rows[part] = np.clip(np.rint(some / scale), -127, 127)
        some -= rows[part] * scale
        facts[part, LOST] = np.linalg.norm(some, axis=1) * 1.001 + slack
        fine[part] = np.clip(np.rint(some / scale * FINE_STEPS), -127, 127)
        some -= fine[part] * (scale / FINE_STEPS)
        facts[part, FINE_LOST] = np.linalg.norm(some, axis=1) * 1.001 + slack
    return QuantisedItems(rows, fine, facts)


def _lines(rows: int, width: int) -> npt.NDArray[np.int8]:
    """Return an array that starts at a cache line: a row that touches one more line costs one more access."""
    room = np.empty(rows * width + 64, np.int8)
    start = -room.ctypes.data % 64
    return room[start : start + rows * width].reshape(rows, width)
