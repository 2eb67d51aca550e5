"""The log of a worker in normal operation: that it is ready, and once per minute what it did."""

import time
from collections.abc import Callable

import structlog
from prometheus_client import Counter, Gauge

from stream_app.worker.context import WorkerContext

log = structlog.stdlib.get_logger(__name__)

EVERY_S = 60.0


class MinuteLog:
    """One line when the worker is ready for the first time, then one for each minute in which there was work."""

    def __init__(
        self, context: WorkerContext, web_url: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`web_url`: the URL of the worker's pages, empty if it serves none. `clock`: in seconds."""
        self._context, self._web_url, self._clock = context, web_url, clock
        self._ready = False
        self._since, self._before = clock(), self._counted()

    def look(self) -> None:
        """Logs a line if one is due. Call it about once per second, after the gauges are set."""
        if not self._ready and self._context.health.ready()[0]:
            self._ready = True
            log.info(
                "ready",
                **({"web": self._web_url} if self._web_url else {}),
                partitions=len(self._context.processor.partitions),
                model=self._context.processor.label,
            )
        passed = self._clock() - self._since
        if passed < EVERY_S:
            return
        now, before = self._counted(), self._before
        self._since, self._before = self._clock(), now
        events, flags, dead = (n - m for n, m in zip(now, before, strict=True))
        lag = _total(self._context.metrics.lag)
        if events or dead or lag:
            log.info(
                "last minute" if passed < 1.5 * EVERY_S else f"last {passed / 60:.0f} minutes",
                events_per_second=round(events / passed, 1),
                lag=int(lag),
                flags=int(flags),
                dead_letters=int(dead),
            )

    def _counted(self) -> tuple[float, float, float]:
        metrics = self._context.metrics
        flags = _total(metrics.outputs, topic=self._context.topics.outputs["flags"])
        return _total(metrics.events), flags, _total(metrics.dead_letters)


def _total(metric: Counter | Gauge, **labels: str) -> float:
    """The sum over the series of a metric that have these labels."""
    return sum(
        sample.value
        for family in metric.collect()
        for sample in family.samples
        if labels.items() <= sample.labels.items()
    )
