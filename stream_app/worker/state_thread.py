"""The thread that owns the rows, and the lock that says who may use the processor."""

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
        #: Held by whoever uses the processor or the buffers of a turn.
        self.turn = asyncio.Lock()

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """The result of a function that runs in the thread."""
        return await in_pool(self._pool, function, *args)

    def stop(self) -> None:
        """Ends the thread once it has done what it was given."""
        self._pool.shutdown(wait=True)
