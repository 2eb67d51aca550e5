"""Loads the worker's model, and after a failure checks whether the folder holds another one."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import structlog
import torch

from model.serving.api import ModelError, Runtime, Wanted, label_of
from stream_app.processing.model_breaker import FIRST_WAIT_S, LONGEST_WAIT_S
from stream_app.settings import Settings
from stream_app.worker.context import WorkerContext
from stream_app.worker.telemetry import warn_of_older_model
from stream_app.worker.warm_up import warm_up

log = structlog.stdlib.get_logger(__name__)


class HorizonError(ModelError):
    """The settings name another horizon than the model's: the settings are wrong, not the model."""


def load_model(settings: Settings) -> Runtime:
    """Loads the settings' model. Raises ModelError if it is missing, damaged, or does not fit the settings."""
    assert settings.model is not None
    # A step is many small operations: a second thread gains little on an idle machine, and on a busy one
    # each operation waits for it (measured: 9 us per event with one thread, 240 with two beside a broker).
    torch.set_num_threads(1)
    runtime = Runtime.load(
        settings.model,
        settings.device,
        model_key=settings.model_key,
        wanted=Wanted(settings.model_name, settings.model_not_before_ms),
    )
    if settings.horizon_ms is not None and settings.horizon_ms != runtime.horizon_ms:
        raise HorizonError(
            f"horizon_ms is {settings.horizon_ms}, and the model at {settings.model} was trained to look "
            f"{runtime.horizon_ms} ms ahead: leave FORECLICK_HORIZON_MS out, or train a model for it."
        )
    return runtime


def try_model(settings: Settings) -> tuple[Runtime | None, str]:
    """Loads and warms up the settings' model; None and the reason if it cannot be used. Raises HorizonError."""
    try:
        runtime = load_model(settings)
        runtime.probe()
        warm_up(settings, runtime)
    except HorizonError:
        raise
    except ModelError as error:
        return None, str(error)
    except Exception as error:  # any error that torch raises for a broken model or a full device
        log.error("the model cannot be used", exc_info=error)
        said = str(error).strip().splitlines()
        return None, f"{type(error).__name__}: {said[0] if said else 'no message'}"
    return runtime, ""


def show_model(context: WorkerContext, runtime: Runtime) -> None:
    """Names the model in the metrics."""
    name, _, version = runtime.label.partition("@")
    context.metrics.set_model(name, version, str(runtime.device), runtime.created_ms)
    if runtime.created_ms:
        made = datetime.fromtimestamp(runtime.created_ms / 1000, UTC).isoformat(timespec="seconds")
        log.info("the model was made", model=runtime.label, at=made)


async def watch_model(settings: Settings, context: WorkerContext) -> None:
    """While the breaker is open, offers the processor the model in the folder if it is another one. Never ends."""
    assert settings.model is not None
    processor: Any = context.processor  # a processor with a model
    wait_s, shown = FIRST_WAIT_S, processor.label
    while True:
        await asyncio.sleep(wait_s)
        if processor.trouble is None:
            wait_s = FIRST_WAIT_S
            if processor.runtime is not None and processor.label != shown:
                show_model(context, processor.runtime)
                warn_of_older_model(context, processor.partitions)
                shown = processor.label
            continue
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        if processor.runtime is not None and not _another(settings, processor.label):
            continue  # the processor probes its own model by itself
        try:
            runtime, why = await asyncio.to_thread(try_model, settings)
        except HorizonError as error:
            runtime, why = None, str(error)
        if runtime is not None:
            processor.offer(runtime)
            wait_s = FIRST_WAIT_S
        elif processor.runtime is None:
            processor.survive_trouble(why)


def _another(settings: Settings, label: str) -> bool:
    assert settings.model is not None
    try:
        return label_of(settings.model) != label
    except ModelError:
        return False
