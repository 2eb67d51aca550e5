"""What a turn of the pipeline leaves in the metrics, and the gauges that are set now and then."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from faust.types import TP

from stream_app.contract.events import BadRecord
from stream_app.contract.times import shown
from stream_app.ops.health import Health
from stream_app.ops.logging import get_logger
from stream_app.ops.metrics import Metrics
from stream_app.processing.micro_batch import StepOutput
from stream_app.processing.processor import Processor
from stream_app.worker.turn_stages import BuiltFor

log = get_logger(__name__)

_STAGES = ("decode", "state", "model", "encode")


def turn(metrics: Metrics, output: StepOutput | None, bad: Sequence[BadRecord], publish_s: float) -> None:
    """Counts one turn: its bad records and, where a micro-batch was processed, its events and stages."""
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


def acknowledged(metrics: Metrics, output: StepOutput | None, built: Sequence[BuiltFor]) -> None:
    """Counts outputs that the broker has taken, and how long their events were under way."""
    for topic, _, batches in built:
        metrics.outputs.labels(topic).inc(sum(b.size for b in batches))
    now_ms = time.time() * 1000
    for batch in output.batches if output is not None else ():
        metrics.observe_latency(batch.events.data["received"], now_ms)


def tell_older_model(processor: Processor, partitions: Iterable[int]) -> None:
    """Warns of partitions whose state a newer model wrote: the folder may have been replaced by an old one."""
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


def gauges(
    processor: Processor,
    end_of: Callable[[TP], int | None],
    topic_indexes: Mapping[str, int],
    metrics: Metrics,
    health: Health,
) -> None:
    """Sets lag, watermark delay, users and readiness; tells health the age of the oldest waiting record."""
    now_ms = time.time() * 1000
    oldest: list[int] = []
    for partition in processor.partitions:
        merge = processor.merge(partition)
        head = merge.oldest_received()
        if head is not None:
            oldest.append(head)
        watermark = int(processor.watermark[partition])
        if watermark >= 0:
            metrics.watermark_delay.labels(str(partition)).set((now_ms - watermark) / 1000)
        for topic, topic_index in topic_indexes.items():
            end = end_of(TP(topic, partition))
            if end is not None:
                metrics.lag.labels(topic, str(partition)).set(max(0, end - merge.positions[topic_index]))
    health.set_oldest(min(oldest) if oldest else None)
    health.set_model(processor.trouble)
    metrics.model_trouble.set(processor.trouble is not None)
    metrics.model_older.set(any(processor.newer_model(p) is not None for p in processor.partitions))
    metrics.resident_users.set(len(processor.rows))
    metrics.ready.set(health.ready()[0])
