"""Awaiting several things without leaving one behind."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")


async def gather_all(*awaitables: Awaitable[Any]) -> list[Any]:
    """All results, once all have ended, in failure too; raises what the first of them that failed raised."""
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
    """The result of a function that runs in a thread; to its end, also where whoever waits for it is cancelled."""
    work: Awaitable[T] = asyncio.get_running_loop().run_in_executor(pool, call, *args)
    return await asyncio.shield(work)
