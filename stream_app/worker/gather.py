"""Waits for several awaitables, so that none of them is left running."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")


async def gather_all(*awaitables: Awaitable[Any]) -> list[Any]:
    """Waits for all, even if some fail; returns the results, or raises the error of the first that failed."""
    outcomes = await asyncio.gather(*awaitables, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


async def both(first: Awaitable[T], second: Awaitable[U]) -> tuple[T, U]:
    """`gather_all` for two awaitables with results of different types."""
    one, two = await gather_all(first, second)
    return one, two


async def in_pool(pool: Executor, call: Callable[..., T], *args: Any) -> T:
    """Runs a function in a thread of the pool; the function runs to its end even if the caller is cancelled."""
    work: Awaitable[T] = asyncio.get_running_loop().run_in_executor(pool, call, *args)
    return await asyncio.shield(work)
