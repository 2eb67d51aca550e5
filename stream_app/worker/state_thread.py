"""The thread that owns the rows, and the lock that protects the processor."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from stream_app.worker.gather import in_pool

T = TypeVar("T")


class StateThread:
    """Calls functions of the processor in one thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="state")
        #: Must be held to use the processor or the buffers of a turn.
        self.turn = asyncio.Lock()

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Runs a function in the thread and returns its result."""
        return await in_pool(self._pool, function, *args)

    def stop(self) -> None:
        """Stops the thread after its pending calls."""
        self._pool.shutdown(wait=True)
