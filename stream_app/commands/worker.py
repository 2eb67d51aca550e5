"""`foreclick worker`: the processor."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from functools import partial
from typing import Any

import faust
import structlog
from aiokafka.errors import (
    CorruptRecordException,
    GroupAuthorizationFailedError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)

from model.serving.api import choose_device
from stream_app.agents.shop import create_app
from stream_app.contract.topics import SHOP, Topics
from stream_app.errors import ForeclickError
from stream_app.kafka.topic_ids import input_ids, look
from stream_app.kafka.topics import MESSAGE_BYTES, batch_limits, has_begun, input_partitions, require_topics
from stream_app.ops.logging import setup_logging
from stream_app.settings import Settings
from stream_app.settings.command_options import with_settings
from stream_app.worker.warm_up import warm_up
from stream_app.worker.watches.model_watch import show_model, try_model, watch_model
from stream_app.worker.watches.size_watch import SizeWatch
from stream_app.worker.watches.topic_watch import TopicWatch

log = structlog.stdlib.get_logger(__name__)

#: Advice for errors that a restart alone does not fix.
_SENTENCES: dict[type[BaseException], str] = {
    MessageSizeTooLargeError: (
        "an output is larger than its topic accepts and cannot be shortened; nothing is lost, raise "
        f"max.message.bytes of the topic to {MESSAGE_BYTES} or more and start it again"
    ),
    CorruptRecordException: (
        "{}: the broker's copy of that batch is damaged; make another replica the leader, or delete the batch with "
        "kafka-delete-records.sh, and start it again"
    ),
    GroupAuthorizationFailedError: (
        "it is not allowed to use its group ({}); nothing is lost, grant Read on the group and start it again"
    ),
    TopicAuthorizationFailedError: (
        "it is not allowed to use a topic ({}); nothing is lost, grant Read on the inputs and the changelog, Write "
        "on the outputs and the changelog, and start it again"
    ),
    # Faust cancels its own start and stop where one of its threads ends early.
    asyncio.CancelledError: "a component stopped during start-up; nothing is lost, start it again",
}

#: Time limit of a stop, in seconds.
STOP_LIMIT_S = 30.0
#: How long a thread keeps the interpreter while another waits for it, in seconds: with Python's own 5 ms the
#: threads of a worker wait for each other as long as they work (median latency of job 2 at half load 52 ms, so 41).
SWITCH_S = 0.0005


class WorkerError(ForeclickError):
    """The worker stopped because of an error."""


@with_settings()
def worker(*, settings: Settings) -> None:
    """Process events until SIGINT or SIGTERM: state, predictions, flags, dead letters.

    Takes part in the consumer group; several workers share the partitions. On a signal it commits what is
    finished and leaves the group.
    """
    setup_logging(settings.log_level, settings.log_format)
    if settings.log_level == "info":
        for library in ("faust", "mode", "aiokafka"):  # their "info" messages are about internals
            logging.getLogger(library).setLevel(logging.WARNING)
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkerError(
            f"cannot make the data folder {settings.data_dir}: {error.strerror}; set FORECLICK_DATA_DIR"
        ) from error
    topics = SHOP.of(settings)
    problems = await require_topics(settings, topics)
    for problem in problems:
        log.warning(problem.text, topic=problem.topic)
    if settings.model is None:
        await asyncio.to_thread(warm_up, settings, None)
        await serve(settings, create_app(settings, None, partitions=await input_partitions(settings, topics)))
        return
    choose_device(settings.device)  # a missing device is a wrong setting, not a failure of the model
    runtime, missing = await asyncio.to_thread(try_model, settings)
    if runtime is None and not await _may_start_without(settings, topics):
        raise WorkerError(
            f"{missing} The group {settings.group} has not committed anything yet, and events answered without the "
            "model are not answered again: set FORECLICK_START_WITHOUT_MODEL=true to start anyway"
        )
    if runtime is None:
        await asyncio.to_thread(warm_up, settings, None)
    app = create_app(settings, runtime, partitions=await input_partitions(settings, topics))
    context = app.pipeline.context
    app.pipeline.processor.survive_trouble(missing or None)
    if runtime is not None:
        show_model(context, runtime)
    watch = asyncio.create_task(watch_model(settings, context))
    try:
        await serve(settings, app)
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


async def _may_start_without(settings: Settings, topics: Topics) -> bool:
    """Whether a worker starts although its model cannot be used: with `hold` no event is answered without it."""
    return (
        settings.start_without_model or settings.model_trouble == "hold" or await has_begun(settings, topics)
    )


async def serve(settings: Settings, app: faust.App) -> None:
    """Runs a worker's app until SIGINT or SIGTERM. Raises WorkerError where it stops by itself."""
    app.pipeline.health.set_model(app.pipeline.processor.trouble)
    # Before it listens to signals: where the broker is gone, each of these tries for 10 s.
    topics = app.pipeline.context.topics
    app.size_limits.learn(await batch_limits(settings, topics))
    found = await look(settings, topics)
    app.pipeline.processor.topic_ids = input_ids(topics, found)
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()  # objects of the libraries live until the end, so the garbage collector can skip them
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    log.info(
        "worker starts", brokers=settings.bootstrap, group=settings.group, model=app.pipeline.processor.label
    )
    app.service(TopicWatch(app.pipeline.context, app.pipeline.options.client, found))
    app.service(SizeWatch(app, app.size_limits, partial(batch_limits, settings, topics)))
    # The start waits for the broker, for as long as it is gone: a signal, or a crash, must be heard meanwhile.
    starting, signalled, crashed = map(asyncio.ensure_future, (app.start(), stop.wait(), app._crashed.wait()))
    await asyncio.wait([starting, signalled, crashed], return_when=asyncio.FIRST_COMPLETED)
    crashed.cancel()
    failed = _failure(starting) if starting.done() else None
    if isinstance(failed, OSError):
        raise WorkerError(
            f"cannot serve metrics and health at {settings.web}: {os.strerror(failed.errno or 0)}; "
            "set FORECLICK_WEB to another host:port"
        ) from failed
    if starting.done() and failed is None:
        await _first(signalled, app.wait_until_stopped(), app._crashed.wait())
    stopping = asyncio.ensure_future(app.stop())
    # Not `wait_for`, which waits for what it has cancelled.
    if not (await asyncio.wait([stopping], timeout=STOP_LIMIT_S))[0]:
        # Threads of the Kafka clients may wait for a broker that is gone; they hold no data that matters.
        log.error("worker did not stop in time and is ended", limit_s=STOP_LIMIT_S)
        logging.shutdown()
        os._exit(1)
    reason: Any = app.crash_reason or failed or _failure(stopping)
    if reason is None:
        return
    if isinstance(reason, ForeclickError):  # its text says what to do
        raise WorkerError(f"the worker stopped: {reason}") from reason
    for error_type, text in _SENTENCES.items():
        if isinstance(reason, error_type):
            raise WorkerError(f"the worker stopped: {text.format(reason)}") from reason
    raise WorkerError(
        f"the worker stopped: {str(reason) or type(reason).__name__}; nothing is lost, start it again"
    ) from reason


def _failure(ended: "asyncio.Future[Any]") -> BaseException | None:
    """What a task that is done raised; CancelledError where it was cancelled."""
    return asyncio.CancelledError() if ended.cancelled() else ended.exception()


async def _first(*waits: Any) -> None:
    tasks = [asyncio.ensure_future(w) for w in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
