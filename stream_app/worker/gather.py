"""Waiting for several awaitables so that none is left running."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")


async def gather_all(*awaitables: Awaitable[Any]) -> list[Any]:
    """All results, once all have ended, even if some failed; raises the error of the first that failed."""
    outcomes = await asyncio.gather(*awaitables, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


async def both(first: Awaitable[T], second: Awaitable[U]) -> tuple[T, U]:
    """The two results, as of `gather_all`."""
    one, two = await gather_all(first, second)
    return one, two


async def in_pool(pool: Executor, call: Callable[..., T], *args: Any) -> T:
    """The result of a function that runs in a thread, to its end even if the caller is cancelled."""
    work: Awaitable[T] = asyncio.get_running_loop().run_in_executor(pool, call, *args)
    return await asyncio.shield(work)
