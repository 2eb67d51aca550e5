"""Rows of `embedding @ weight`, computed once, since the weights of a loaded model never change.

A GRU's input gates are a sum of what item, category, type, gap and hour each add. Adding up stored rows costs a
tenth of the product with the weights. Numbers of a vocabulary are in order of popularity. So if not all rows fit
into the memory allowed, those of the first numbers are kept (and those of the buckets and of "none", which follow
the known ones). The other rows, which events need rarely, are computed when an event needs one.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.kernels.jit import jit


class EmbeddingProducts:
    """Rows of a product that a kernel adds to an array."""

    def __init__(self, embedding: Tensor, weight: Tensor, known: int, limit_bytes: int) -> None:
        """Multiply (n, d) by (d, width); keep about `limit_bytes` of rows, and always those from `known` on."""
        width = weight.shape[1]
        self.known = known
        self.head = min(known, limit_bytes // (4 * width))  #: rows of the numbers below this are kept
        self._embedding, self._weight = embedding, weight
        kept = torch.cat((embedding[: self.head], embedding[known:]))
        self.rows = np.empty(
            (len(kept), width), np.float32
        )  #: numbers below `head`, then those from `known` on
        torch.mm(kept, weight, out=torch.from_numpy(self.rows))

    def add(self, numbers: npt.NDArray[np.int32], out: npt.NDArray[np.float32]) -> None:
        """Add the row of every number (n,) to `out` (n, width)."""
        _add(numbers, self.rows, self.head, self.known, out)
        self.add_missing(numbers, out)

    def add_missing(self, numbers: npt.NDArray[np.int32], out: npt.NDArray[np.float32]) -> None:
        """Add the rows that are not kept; does nothing if all are."""
        if self.head == self.known:
            return
        at = np.flatnonzero((numbers >= self.head) & (numbers < self.known))
        if len(at):
            rows = self._embedding.index_select(0, torch.from_numpy(numbers[at]))
            out[at] += torch.mm(rows, self._weight).numpy()


@jit(inline="always")
def place(number, head, known):  # type: ignore[no-untyped-def]
    """Return the row of a number among those kept, -1 if it is not kept."""
    if number < head:
        return number
    return number - known + head if number >= known else -1


@jit
def _add(numbers, rows, head, known, out):  # type: ignore[no-untyped-def]
    for event in range(numbers.shape[0]):
        at = place(numbers[event], head, known)
        if at >= 0:
            for column in range(rows.shape[1]):
                out[event, column] += rows[at, column]
