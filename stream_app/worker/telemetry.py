"""Updates the metrics after each turn of the pipeline, and the gauges about once per second."""

import time
from collections.abc import Iterable, Sequence

import structlog
from faust.types import TP

from stream_app.contract.events import BadRecord
from stream_app.contract.times import shown
from stream_app.processing.micro_batch import StepOutput
from stream_app.worker.context import WorkerContext
from stream_app.worker.turn_stages import BuiltFor

log = structlog.stdlib.get_logger(__name__)

_STAGES = ("decode", "state", "model", "encode")


def turn(
    context: WorkerContext, output: StepOutput | None, bad: Sequence[BadRecord], publish_s: float
) -> None:
    """Counts one turn: its bad records and, if a micro-batch was processed, its events and stages."""
    metrics = context.metrics
    for reason, count in metrics.bad_records.add(bad).items():
        metrics.dead_letters.labels(reason).inc(count)
    if output is None:
        return
    metrics.stage_seconds.observe(publish_s, "publish")
    for stage in _STAGES:
        if stage in output.seconds:
            metrics.stage_seconds.observe(output.seconds[stage], stage)
    for batch in output.batches:
        metrics.count_events(batch.events.data["event_type"])
    metrics.late.inc(output.late)
    metrics.duplicates.inc(output.duplicates)
    metrics.out_of_order.inc(output.out_of_order)
    metrics.evictions.labels("count").inc(output.evicted)
    metrics.degraded.inc(output.degraded)
    metrics.hidden_resets.inc(output.hidden_resets)
    metrics.model_failures.inc(output.model_failures)


def acknowledged(context: WorkerContext, output: StepOutput | None, built: Sequence[BuiltFor]) -> None:
    """Counts outputs that the broker has acknowledged, and the latency of their events."""
    for topic, _, batches in built:
        context.metrics.outputs.labels(topic).inc(sum(b.size for b in batches))
    now_ms = time.time() * 1000
    for batch in output.batches if output is not None else ():
        context.metrics.observe_latency(batch.events.data["timestamp"], now_ms)


def warn_of_older_model(context: WorkerContext, partitions: Iterable[int]) -> None:
    """Warns of partitions whose state a newer model wrote: the folder may have been replaced by an old one."""
    processor = context.processor
    for partition in partitions:
        newer = processor.newer_model(partition)
        if newer is not None:
            log.warning(
                "the model is older than the one before it",
                partition=partition,
                model=processor.label,
                made=shown(processor.created_ms) if processor.created_ms else "unknown",
                before=shown(newer),
            )


def gauges(context: WorkerContext) -> None:
    """Sets lag, watermark delay, users and readiness; tells health the age of the oldest waiting record."""
    processor, metrics, health = context.processor, context.metrics, context.health
    now_ms = time.time() * 1000
    oldest: list[int] = []
    for partition in processor.partitions:
        merge = processor.merge(partition)
        head = merge.oldest_timestamp()
        if head is not None:
            oldest.append(head)
        watermark = int(processor.watermark[partition])
        if watermark >= 0:
            metrics.watermark_delay.labels(str(partition)).set((now_ms - watermark) / 1000)
        for topic, index in context.topics.index.items():
            end = context.consumer.end_of(TP(topic, partition))
            if end is not None:
                metrics.lag.labels(topic, str(partition)).set(max(0, end - merge.positions[index]))
    health.set_oldest(min(oldest) if oldest else None)
    health.set_model(processor.trouble)
    metrics.model_trouble.set(processor.trouble is not None)
    metrics.model_older.set(any(processor.newer_model(p) is not None for p in processor.partitions))
    metrics.resident_users.set(len(processor.rows))
    metrics.ready.set(health.ready()[0])
