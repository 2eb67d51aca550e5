"""What a worker's log says while all goes well: that it is ready, and once a minute what it did."""

import time
from collections.abc import Callable

from prometheus_client import Counter, Gauge

from stream_app.ops.health import Health
from stream_app.ops.logging import get_logger
from stream_app.ops.metrics import Metrics
from stream_app.processing.processor import Processor
from stream_app.settings import Settings

log = get_logger(__name__)

EVERY_S = 60.0


class MinuteLog:
    """One line when the worker is ready for the first time, then one for each minute in which there was work."""

    def __init__(
        self,
        settings: Settings,
        processor: Processor,
        metrics: Metrics,
        health: Health,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock`: in seconds."""
        self._settings, self._processor = settings, processor
        self._metrics, self._health, self._clock = metrics, health, clock
        self._ready = False
        self._since, self._before = clock(), self._counted()

    def look(self) -> None:
        """Called about once a second, behind the gauges."""
        if not self._ready and self._health.ready()[0]:
            self._ready = True
            web = web_url(self._settings)
            log.info(
                "ready",
                **({"web": web} if web else {}),
                partitions=len(self._processor.partitions),
                model=self._processor.label,
            )
        passed = self._clock() - self._since
        if passed < EVERY_S:
            return
        now, before = self._counted(), self._before
        self._since, self._before = self._clock(), now
        events, flags, dead = (n - m for n, m in zip(now, before, strict=True))
        lag = _total(self._metrics.lag)
        if events or dead or lag:
            log.info(
                "last minute" if passed < 1.5 * EVERY_S else f"last {passed / 60:.0f} minutes",
                events_per_second=round(events / passed, 1),
                lag=int(lag),
                flags=int(flags),
                dead_letters=int(dead),
            )

    def _counted(self) -> tuple[float, float, float]:
        metrics = self._metrics
        flags = _total(metrics.outputs, topic=self._settings.outputs[1])
        return _total(metrics.events), flags, _total(metrics.dead_letters)


def web_url(settings: Settings) -> str:
    """Where the worker's pages are, empty where it serves none."""
    if not settings.web:
        return ""
    return f"{'https' if settings.web_cert else 'http'}://{settings.web}/"


def _total(metric: Counter | Gauge, **labels: str) -> float:
    """The sum over the series of a metric that have these labels."""
    return sum(
        sample.value
        for family in metric.collect()
        for sample in family.samples
        if labels.items() <= sample.labels.items()
    )
