"""Hidden states of all resident users in one tensor on the device."""

import numpy as np
import numpy.typing as npt
import torch


class HiddenStates:
    """One row of hidden state per slot; a new slot is all zeros, the state of an unknown user.

    On a CPU the system allocates the pages of the rows when they are first written, so a large capacity costs
    nothing until it is used, and `grow` is not needed. On another device all memory is allocated at once.
    """

    def __init__(self, capacity: int, hidden: int, device: torch.device) -> None:
        self.states = _zeros(capacity, hidden, device)

    @property
    def capacity(self) -> int:
        """Number of slots."""
        return self.states.shape[0]

    def grow(self, capacity: int) -> None:
        """Grow to `capacity` slots and keep the current states; never shrinks."""
        if capacity <= self.capacity:
            return
        states = _zeros(capacity, self.states.shape[1], self.states.device)
        states[: self.capacity] = self.states
        self.states = states

    def read(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return a copy of the states of n slots, (n, hidden) float32."""
        rows: npt.NDArray[np.float32] = self.states.index_select(0, self._index(slots)).cpu().numpy()
        return rows

    def write(self, slots: npt.NDArray[np.int64], states: npt.NDArray[np.float32]) -> None:
        """Set the states of n different slots, (n, hidden) float32, bit for bit."""
        rows = torch.from_numpy(np.array(states, np.float32, ndmin=2)).to(self.states.device)
        self.states.index_copy_(0, self._index(slots), rows)

    def reset(self, slots: npt.NDArray[np.int64]) -> None:
        """Set the states of slots to zero."""
        self.states.index_fill_(0, self._index(slots), 0.0)

    def _index(self, slots: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(np.array(slots, np.int64, ndmin=1)).to(self.states.device)


def _zeros(rows: int, width: int, device: torch.device) -> torch.Tensor:
    if device.type == "cpu":
        return torch.from_numpy(np.zeros((rows, width), np.float32))  # calloc; torch.zeros writes the zeros
    return torch.zeros((rows, width), dtype=torch.float32, device=device)
