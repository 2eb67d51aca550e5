"""A worker in the simulation: the real pipeline with all its parts, in a process that may die at every step."""

import asyncio
import copy
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import structlog

from stream_app.contract.topics import SHOP
from stream_app.ops.bad_records import BadRecordLog
from stream_app.ops.health import Health
from stream_app.ops.metrics import Metrics
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.settings import Settings
from stream_app.worker import changelog_reader as recovery
from stream_app.worker import checkpoints, ownership, pipeline, standby, telemetry, turn_stages
from stream_app.worker.context import WorkerContext
from stream_app.worker.options import WorkerOptions
from stream_app.worker.producers import fenced_producer as fenced
from stream_app.worker.producers import partition_producers
from stream_app.worker.producers.partition_producers import PartitionProducers
from stream_app.worker.transport import consumer, consumer_thread, producer
from tests.simulation.broker import Broker
from tests.simulation.client import SimClient, SimProducer
from tests.simulation.consumer import SimConsumer
from tests.simulation.loop import Process, SimLoop, name_of_owner, owner
from tests.simulation.member import App, Coordination
from tests.simulation.network import Link
from tests.simulation.schedule import Schedule

_CLOCKED = (checkpoints, turn_stages, ownership, pipeline, telemetry, consumer_thread, fenced, producer)
#: Capacity for users, of whom there are few.
_SLOTS = 256
_MADE_UP_METRICS: list[Metrics] = []


class Worker:
    """One worker process."""

    def __init__(
        self, name: str, loop: SimLoop, broker: Broker, schedule: Schedule, settings: Settings
    ) -> None:
        self.name, self.loop, self.broker, self.settings = name, loop, broker, settings
        self.link = Link(loop, schedule)
        self.process = Process(loop, name)
        self.process.worker = self  # type: ignore[attr-defined]
        self.process.on_death = self._died
        self.app: App | None = None
        self.crash_reason: BaseException | None = None
        self.died_at: float | None = None
        self.process.run(self._main()).add_done_callback(self._ended)

    def _died(self) -> None:
        self.died_at = self.loop.time()

    def _crashed(self, reason: BaseException) -> None:
        self.crash_reason = reason
        if os.environ.get("SIMULATION_TRACE"):
            traceback.print_exception(reason)
        self.loop.outside(0.0, self.process.die)

    async def _main(self) -> None:
        settings, broker, link = self.settings, self.broker, self.link
        raw = SimConsumer(broker, link)
        app = self.app = App(self.name, settings, raw, SimProducer(SimClient(broker, link)), self._crashed)
        raw._coordinator = Coordination(broker, link, raw, SHOP.of(settings).inputs, app)
        processor = ShopProcessor(settings, None, partitions=broker.partitions, slots=_SLOTS)
        health = Health(settings.ready_max_age_ms, monotonic=self.loop.time, wall_ms=lambda: 0.0)
        metrics = _metrics(self.loop.time)
        options = WorkerOptions.of(settings)
        context = WorkerContext(app, processor, metrics, health)
        producers = PartitionProducers(options.producers, processor.topics)
        app.pipeline = pipeline.Pipeline(context, options, producers)
        await app.consumer._thread.on_start()
        await app.pipeline.start()
        for work in (app.agent(), app.drain(), raw._coordinator.run(settings.heartbeat_ms / 1000)):
            asyncio.create_task(work).add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        if not task.cancelled() and task.exception() is not None:
            self._crashed(task.exception())  # type: ignore[arg-type]

    def stop(self) -> None:
        """Ask the worker to end by itself, as SIGTERM does."""
        self.process.run(self._stop()).add_done_callback(self._ended)

    async def _stop(self) -> None:
        app = self.app
        if app is None or app.pipeline is None:
            self.process.die()
            return
        await app.pipeline.before_shutdown(app)
        member = app.sim_consumer._coordinator.member_id
        if member:
            await app.sim_consumer.ask(lambda: self.broker.group.leave(member))
        self.process.die()


class _NoWatch:
    """Replaces `watch_group`: the model's group never refuses a member permanently."""

    in_trouble = False

    def __init__(self, *_: Any, **__: Any) -> None: ...

    async def run(self) -> None: ...


def _metrics(clock: Callable[[], float]) -> Metrics:
    """Share one set of metrics between all workers: the simulation does not read them, and they are slow to make."""
    if not _MADE_UP_METRICS:
        _MADE_UP_METRICS.append(Metrics())
    metrics = copy.copy(_MADE_UP_METRICS[0])
    metrics.bad_records = BadRecordLog(clock)  # this log belongs to this worker and its clock
    return metrics


def _mine() -> Worker:
    worker: Worker = owner().worker  # type: ignore[attr-defined]
    return worker


@contextmanager
def on_the_model(loop: SimLoop, note: Callable[[str], None]) -> Iterator[None]:
    """Replace client and clock of the product's modules by those of the model; `note` gets their log lines."""

    async def stop(each: Any) -> None:
        await each.stop()

    def nothing(*_: Any) -> None: ...

    client: Callable[..., Any] = lambda **_: SimClient(_mine().broker, _mine().link)  # noqa: E731
    reader: Callable[..., Any] = lambda *_, **__: SimConsumer(_mine().broker, _mine().link, fetch=2)  # noqa: E731

    def keep(_: Any, level: str, event: Any) -> Any:
        if level != "debug":
            words = " ".join(f"{k}={v}" for k, v in event.items() if k not in ("event", "exc_info"))
            note(f"{name_of_owner()} logs {event['event']} {words}")
        raise structlog.DropEvent

    with ExitStack() as stack:
        before = structlog.get_config()
        stack.callback(lambda: structlog.configure(**before))
        structlog.configure(processors=[keep], cache_logger_on_first_use=False)
        for module in _CLOCKED:
            stack.enter_context(patch.object(module, "time", loop.clock))
        # Code that waits for a rebalance, which takes seconds, need not look a hundred times per second.
        stack.enter_context(patch.object(consumer, "REBALANCE_POLL_S", 0.1))
        stack.enter_context(patch.object(partition_producers, "AIOKafkaClient", client))
        for module in (recovery, standby):
            stack.enter_context(patch.object(module, "AIOKafkaConsumer", reader))
            stack.enter_context(patch.object(module, "stop_consumer", stop))
            stack.enter_context(patch.object(module, "install_fetch_hook", nothing))
        stack.enter_context(patch.object(consumer_thread, "install_fetch_hook", nothing))
        stack.enter_context(patch.object(consumer_thread, "watch_group", _NoWatch))
        yield
