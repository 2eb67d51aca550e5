"""How many threads torch may use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch on so many threads within the block.

    One is the rule: the same data then give the same model on every machine, and no threads spin for each other.
    Two were five times slower than one on two cores that others used as well. More pay with a large catalogue and
    cores that nobody else uses.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
