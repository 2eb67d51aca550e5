"""Keeps the size limits of the topics up to date, because they may change while the worker runs."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping

import faust
from mode import Service

from stream_app.errors import ForeclickError
from stream_app.kafka.record_batches.size_limits import SizeLimits

#: Seconds between two checks, and between a refusal of the broker and the check for the new limit.
LOOK_EVERY_S = 60.0
LOOK_SOON_S = 1.0


class SizeWatch(Service):
    """Tells `SizeLimits` what the topics accept: each minute, and soon after a batch was refused as too large."""

    mundane_level = "debug"  # of "Starting..." and "Stopping..."

    def __init__(
        self, app: faust.App, sizes: SizeLimits, ask: Callable[[], Awaitable[Mapping[str, int]]]
    ) -> None:
        """`ask` asks the broker for the limits."""
        super().__init__(loop=app.loop, beacon=app.beacon)
        self._sizes, self._ask = sizes, ask

    @Service.task
    async def _watch(self) -> None:
        next_look = time.monotonic() + LOOK_EVERY_S  # the limits at the start are known
        while not self.should_stop:
            now = time.monotonic()
            if self._sizes.outdated or now >= next_look:
                next_look = now + LOOK_EVERY_S
                # If the broker does not answer, the consumer and the producer deal with it.
                with contextlib.suppress(ForeclickError, asyncio.TimeoutError, OSError):
                    self._sizes.learn(await self._ask())
            await self.sleep(LOOK_SOON_S)
