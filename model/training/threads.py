"""How many threads torch may use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use this many threads within the block.

    One is the default: then the same data give the same model on every machine, and no threads spin while they wait
    for each other. On two cores with other load, two threads were five times slower than one. More threads help with
    a large catalogue and idle cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
