"""The live part of the demo: a replay in its own thread, the statistics, and the view of both."""

import asyncio
import threading
import time
from collections.abc import Callable

from stream_app.lab.demo.plan import DemoError, Plan
from stream_app.lab.demo.processes import DemoWorker
from stream_app.lab.demo.watch import Watch
from stream_app.recordings.publish import ReplayStats, replay

_VIEW_S, _SCRAPE_S = 0.5, 1.0
#: The demo fails after so many seconds without progress once the replay has ended.
_DRAIN_S = 30.0
#: Seconds to wait for unexpected answers after all expected ones have arrived.
_EXTRA_S = 2.0
_JOIN_S = 2.0

Refresh = Callable[["Live"], None]


class Live:
    """One run of live traffic."""

    def __init__(self, plan: Plan, worker: DemoWorker, bootstrap: str, watch: Watch) -> None:
        self.plan = plan
        self.worker = worker
        self.watch = watch
        self.sent = 0
        self.stats: ReplayStats | None = None
        self._bootstrap = bootstrap
        self._started = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failed: Exception | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    async def run(self, refresh: Refresh) -> None:
        """Replay everything, and return once all of it has been answered; calls `refresh` twice per second.

        Raises DemoError if the worker or the broker ends, or if answers are missing.
        """
        stop = asyncio.Event()
        # The replay has its own thread, so that drawing the view does not delay records.
        sender = threading.Thread(target=self._send, name="replay", daemon=True)
        reader = asyncio.create_task(self.watch.read(self._bootstrap, stop))
        self._started = time.monotonic()
        sender.start()
        try:
            await self._until_answered(sender, reader, refresh)
        finally:
            self._end_sending(sender)
            stop.set()
            await asyncio.gather(reader, return_exceptions=True)

    async def _until_answered(
        self, sender: threading.Thread, reader: "asyncio.Task[None]", refresh: Refresh
    ) -> None:
        next_scrape = 0.0
        before, moved = -1, time.monotonic()
        while True:
            await asyncio.wait({reader}, timeout=_VIEW_S)
            if reader.done():
                reader.result()
            self.worker.check()
            if self._failed is not None:
                raise self._failed
            now = time.monotonic()
            if now >= next_scrape:
                next_scrape = now + _SCRAPE_S
                await self.watch.scrape(self.worker)
            refresh(self)
            done = self.watch.predictions + sum(self.watch.dead.values())
            if done != before or sender.is_alive():
                before, moved = done, now
            if not sender.is_alive() and now - moved > (_EXTRA_S if self._complete() else _DRAIN_S):
                await self.watch.scrape(self.worker)
                return

    def _complete(self) -> bool:
        truth, watch = self.watch.truth, self.watch
        return watch.predictions >= int(truth.good.sum()) and (
            sum(watch.dead.values()) >= sum(truth.reasons.values())
        )

    def _send(self) -> None:
        try:
            self.stats = asyncio.run(self._replay())
        except Exception as error:  # raised again in the thread of the view
            self._failed = error

    async def _replay(self) -> ReplayStats:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        brokers = (self._bootstrap,)
        return await replay(
            self.plan.live_recording, brokers, rate=self.plan.rate, stop=self._stop, on_progress=self._sent
        )

    def _sent(self, records: int) -> None:
        self.sent = records

    def _end_sending(self, sender: threading.Thread) -> None:
        if self._loop is not None and self._stop is not None and sender.is_alive():
            try:
                self._loop.call_soon_threadsafe(self._stop.set)
            except RuntimeError:  # the thread has just ended, and its loop with it
                return
        sender.join(_JOIN_S)


def check_sent(live: Live) -> ReplayStats:
    """Return the result of the replay. Raises DemoError if it did not send everything."""
    if live.stats is None or live.stats.records != live.plan.live:
        sent = live.stats.records if live.stats else 0
        raise DemoError(f"only {sent:,} of {live.plan.live:,} records were sent")
    return live.stats
