"""A warning about a model that is older than the one that used the state before."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from model.serving.runtime import Runtime
from stream_app.ops.health import Health
from stream_app.ops.metrics import Metrics
from stream_app.state.users import META_KEY, decode_meta, encode_meta
from stream_app.worker import telemetry
from stream_app.worker.context import WorkerContext
from tests.model.tiny import tiny_model
from tests.stream_app.failing_shop import Shop

OLD, NEW = 1_790_000_000_000, 1_795_000_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def made(folder: Path, created_ms: int) -> Runtime:
    """Return the same model, made at another time."""
    runtime = Runtime.load(folder, "cpu")
    runtime.created_ms = created_ms
    return runtime


def told(shop: Shop) -> list[int]:
    """Return the partitions in the log's warnings; check that the metric agrees."""
    metrics = Metrics()
    app: Any = SimpleNamespace(consumer=SimpleNamespace(end_of=lambda tp: None))
    context = WorkerContext(app, shop.processor, metrics, Health(1000.0))
    telemetry.gauges(context)
    with capture_logs() as logs:
        telemetry.warn_of_older_model(context, shop.processor.partitions)
    assert b"foreclick_model_older_than_state %d.0" % bool(logs) in metrics.render()
    assert all(line["log_level"] == "warning" for line in logs)
    return [line["partition"] for line in logs]


def restarted(shop: Shop, runtime: Runtime | None) -> Shop:
    """Start the next process, with another model, or none."""
    assert shop.checkpoint()
    shop.runtime = runtime
    shop.start()
    return shop


def test_an_older_model_is_told_of_until_the_state_is_its_own(folder: Path) -> None:
    """There is no warning at the first start, nor with the same or a newer model; an unknown time is before any."""
    shop = Shop(made(folder, OLD))
    assert told(shop) == []
    shop.run(3)
    for created_ms, partitions in (
        (OLD, []),
        (NEW, []),
        (OLD, [0, 1]),
        (OLD, []),
        (NEW, []),
        (0, [0, 1]),
        (0, [0, 1]),
    ):
        restarted(shop, made(folder, created_ms))
        assert told(shop) == partitions
        shop.run(3)
        assert told(shop) == partitions


def test_what_ran_without_a_model_between_them_changes_nothing(folder: Path) -> None:
    """A worker without a model gives no warning, and keeps the time of the previous model."""
    shop = Shop(made(folder, NEW))
    shop.run(3)
    restarted(shop, None)
    assert told(shop) == []
    shop.run(3)
    assert told(restarted(shop, made(folder, OLD))) == [0, 1]


def test_an_older_model_in_the_place_of_one_in_trouble(folder: Path) -> None:
    """The folder gets an older model while the worker runs."""
    shop = Shop(made(folder, NEW))
    shop.run(3)
    shop.processor.breaker.fail("broken")
    shop.processor.offer(made(folder, OLD))
    while shop.step(100.0) is not None:
        pass
    assert shop.processor.created_ms == OLD
    assert told(shop) == [0, 1]


def test_a_state_of_an_earlier_version(folder: Path) -> None:
    """A record without a time gives no warning; an impossible time is still shown."""
    shop = Shop(made(folder, NEW))
    shop.run(3)
    assert shop.checkpoint()
    meta = decode_meta(dict(shop.logs[0])[META_KEY] or b"")
    assert meta.model_created == NEW
    fields = msgspec.to_builtins(meta)
    del fields["model_created"]
    shop.logs[0].append((META_KEY, msgspec.msgpack.encode(fields)))
    shop.runtime = made(folder, OLD)
    shop.start()
    assert told(shop) == [1]
    shop.logs[0].append((META_KEY, encode_meta(msgspec.structs.replace(meta, model_created=2**63))))
    shop.start()
    assert told(shop) == [0, 1]
