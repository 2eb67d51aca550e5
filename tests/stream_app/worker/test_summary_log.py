"""A worker's log during normal operation."""

from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from stream_app.contract.topics import SHOP
from stream_app.ops.health import Health
from stream_app.ops.metrics import Metrics
from stream_app.settings import load_settings
from stream_app.worker.context import WorkerContext
from stream_app.worker.options import web_url
from stream_app.worker.watches import minute_log as minute
from stream_app.worker.watches.minute_log import MinuteLog


def test_ready_once_and_a_line_for_each_minute_with_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line has the pages' address; busy minutes have a line with rates, lag and outputs, idle ones none."""
    monkeypatch.setattr(minute, "log", structlog.stdlib.get_logger("test"))  # one that is not cached yet
    settings, now = load_settings(env={}), [0.0]
    metrics, health = Metrics(), Health(1_000)
    processor: Any = SimpleNamespace(partitions=[0, 1], label="gru@1", topics=SHOP.of(settings))
    app: Any = None
    context = WorkerContext(app, processor, metrics, health)
    told = MinuteLog(context, web_url(settings), clock=lambda: now[0])

    def lines(at: float) -> list[dict[str, Any]]:
        now[0] = at
        with capture_logs() as caught:
            told.look()
        return [{k: v for k, v in each.items() if k != "log_level"} for each in caught]

    assert lines(1.0) == []  # no partitions yet
    health.set_assigned(2)
    health.set_recovered()
    health.set_model(None)
    assert lines(2.0) == [
        {"event": "ready", "web": "http://127.0.0.1:6066/", "partitions": 2, "model": "gru@1"}
    ]
    assert lines(61.0) == []  # no events
    metrics.events.labels("click").inc(500)
    metrics.events.labels("browse").inc(100)
    metrics.outputs.labels("predictions").inc(600)
    metrics.outputs.labels("flags").inc(3)
    metrics.dead_letters.labels("empty").inc(2)
    metrics.lag.labels("clicks", "0").set(4)
    metrics.lag.labels("browses", "1").set(1)
    assert lines(100.0) == []
    summary = {"event": "last minute", "lag": 5, "flags": 3, "dead_letters": 2}
    assert lines(121.0) == [{**summary, "events_per_second": 10.0}]
    assert lines(181.0) == [{**summary, "events_per_second": 0.0, "flags": 0, "dead_letters": 0}]
    metrics.lag.clear()
    assert lines(242.0) == []


def test_the_address_of_the_pages() -> None:
    """There is no address if the pages are off."""
    assert web_url(load_settings(env={}, options={"web": ""})) == ""
    assert web_url(load_settings(env={}, options={"web": "[::1]:7000"})) == "http://[::1]:7000/"
