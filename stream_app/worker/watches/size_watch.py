"""Keeps what a worker knows of the sizes that its topics take, while somebody may change them."""

import asyncio
import contextlib
import time

import faust
from mode import Service

from stream_app.errors import ForeclickError
from stream_app.kafka.record_batches.size_limits import Room
from stream_app.kafka.topics import batch_limits
from stream_app.settings import Settings

#: Seconds between two looks, and between a refusal of the broker and the look for the reason.
LOOK_EVERY_S = 60.0
LOOK_SOON_S = 1.0


class RoomWatch(Service):
    """Tells `Room` what the topics take: each minute, and soon after a batch was refused as too large."""

    mundane_level = "debug"  # of "Starting..." and "Stopping..."

    def __init__(self, app: faust.App, settings: Settings, room: Room) -> None:
        super().__init__(loop=app.loop, beacon=app.beacon)
        self._settings, self._room = settings, room

    @Service.task
    async def _watch(self) -> None:
        next_look = time.monotonic() + LOOK_EVERY_S  # what they take at the start is known
        while not self.should_stop:
            now = time.monotonic()
            if self._room.outdated or now >= next_look:
                next_look = now + LOOK_EVERY_S
                # A broker that does not answer is the affair of consumer and producer.
                with contextlib.suppress(ForeclickError, asyncio.TimeoutError, OSError):
                    self._room.learn(await batch_limits(self._settings))
            await self.sleep(LOOK_SOON_S)
