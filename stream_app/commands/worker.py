"""`foreclick worker`: the processor."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from typing import Any

import faust
import torch

from model.runtime import Runtime
from stream_app.agents.offline import warm_up
from stream_app.app import create_app
from stream_app.commands.options import with_settings
from stream_app.errors import ForeclickError
from stream_app.ops.logging import get_logger, setup_logging
from stream_app.settings import Settings
from stream_app.topics import require_topics

log = get_logger(__name__)

#: How long a stop may take in all, in seconds.
STOP_LIMIT_S = 30.0
#: How long a thread keeps the interpreter while another waits for it, in seconds: with Python's own 5 ms the threads of
#: a worker spend as long waiting for each other as they work (median latency of job 2 at half load 52 ms, so 41).
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
        for library in ("faust", "mode", "aiokafka"):  # their "info" is about themselves
            logging.getLogger(library).setLevel(logging.WARNING)
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkerError(
            f"cannot make the data folder {settings.data_dir}: {error.strerror}; set FORECLICK_DATA_DIR"
        ) from error
    problems = await require_topics(settings)
    for problem in problems:
        log.warning(problem.text, topic=problem.topic)
    runtime = await asyncio.to_thread(load_model, settings) if settings.model is not None else None
    await asyncio.to_thread(warm_up, settings, runtime)
    app = create_app(settings, runtime, partitions=await partitions_of(settings))
    if runtime is not None:
        name, _, version = runtime.label.partition("@")
        app.pipeline.metrics.set_model(name, version, str(runtime.device))
    await serve(settings, app)


async def serve(settings: Settings, app: faust.App) -> None:
    """Runs a worker's app until SIGINT or SIGTERM. Raises WorkerError where it stops by itself."""
    app.pipeline.health.set_model(None)
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()  # what the libraries hold is never garbage: a collection need not look through it
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    log.info(
        "worker starts", brokers=settings.bootstrap, group=settings.group, model=app.pipeline.engine.label
    )
    try:
        await app.start()
    except OSError as error:
        raise WorkerError(
            f"cannot serve metrics and health at {settings.web}: {os.strerror(error.errno or 0)}; "
            "set FORECLICK_WEB to another host:port"
        ) from error
    await _first(stop.wait(), app.wait_until_stopped(), app._crashed.wait())
    try:
        await asyncio.wait_for(app.stop(), STOP_LIMIT_S)
    except TimeoutError:
        # Threads of the Kafka clients may wait for a broker that is gone; nothing that counts is in them.
        log.error("worker did not stop in time and is ended", limit_s=STOP_LIMIT_S)
        logging.shutdown()
        os._exit(1)
    if app.crash_reason is not None:
        reason: Any = app.crash_reason
        if isinstance(reason, ForeclickError):  # says itself what to do
            raise WorkerError(f"the worker stopped: {reason}") from reason
        raise WorkerError(
            f"the worker stopped: {reason or type(reason).__name__}; nothing is lost, start it again"
        )


def load_model(settings: Settings) -> Runtime:
    """The settings' model. Raises ModelError where the folder is missing or damaged."""
    assert settings.model is not None
    # A step is many small operations: a second thread gains little on an idle machine, and on a busy one
    # each operation waits for it (measured: 9 us an event with one thread, 240 with two beside a broker).
    torch.set_num_threads(1)
    return Runtime.load(settings.model, settings.device)


async def partitions_of(settings: Settings) -> int:
    """How many partitions the input topics have."""
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(bootstrap_servers=list(settings.brokers))
    await admin.start()
    try:
        described = await admin.describe_topics([settings.inputs[0]])
        return len(described[0]["partitions"])
    finally:
        await admin.close()


async def _first(*waits: Any) -> None:
    tasks = [asyncio.ensure_future(w) for w in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
