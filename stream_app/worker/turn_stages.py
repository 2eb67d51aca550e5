"""The two stages of a turn, as they run in their threads: from records to applied rows, and to record batches."""

import time
from collections.abc import Callable
from typing import NamedTuple

import structlog
from faust.types import TP

from stream_app.contract.events import BadRecord
from stream_app.contract.record_columns import RecordColumns
from stream_app.processing.micro_batch import Outputs, StepOutput
from stream_app.worker.context import WorkerContext
from stream_app.worker.producers.partition_producers import PartitionProducers
from stream_app.worker.transport.consumer_thread import FetchedBatch
from stream_app.worker.transport.producer import BatchProducer, Built

log = structlog.stdlib.get_logger(__name__)

#: Topic, partition, record batches.
BuiltFor = tuple[str, int, list[Built]]


class Applied(NamedTuple):
    """What the apply stage leaves."""

    output: StepOutput | None  #: the micro-batch, to be predicted; None if no event was ready
    bad: list[BadRecord]
    dead_letters: list[BuiltFor]

    def dead_letter_bytes(self) -> int:
        """Bytes of the record batches of dead letters."""
        return sum(batch.batch.size() for _, _, batches in self.dead_letters for batch in batches)


def joined(batches: list[FetchedBatch]) -> list[FetchedBatch]:
    """Joins consecutive batches of a partition, because decoding costs almost the same for one event as for hundreds.

    The batches of each partition keep their order.
    """
    runs: dict[TP, list[list[FetchedBatch]]] = {}
    for batch in batches:
        of_partition = runs.setdefault(batch.tp, [])
        if of_partition and of_partition[-1][-1].next == batch.start:
            of_partition[-1].append(batch)
        else:
            of_partition.append([batch])
    return [
        run[0]._replace(records=RecordColumns.concat([b.records for b in run]), next=run[-1].next)
        for of_partition in runs.values()
        for run in of_partition
    ]


class TurnStages:
    """Calls the processor with the records of Kafka, and builds the record batches that go there."""

    def __init__(
        self, context: WorkerContext, producer: Callable[[], BatchProducer | PartitionProducers]
    ) -> None:
        """`producer` returns the one that will send, which builds the batches."""
        self._context, self._producer = context, producer

    def both(self, incoming: list[FetchedBatch], few: float) -> tuple[Applied, list[BuiltFor] | None]:
        """The apply stage, and the predict stage in the same thread if the micro-batch has fewer than `few` events.

        For a small micro-batch a change of threads costs as much as its rows do. None if the predict stage did not
        run.
        """
        applied = self.apply(incoming)
        output = applied.output
        return applied, self.predict(output) if output is not None and output.events < few else None

    def apply(self, incoming: list[FetchedBatch]) -> Applied:
        """The apply stage, in the thread that owns the rows."""
        context = self._context
        context.health.beat(context.health.PROCESSING)
        bad: list[BadRecord] = []
        start = time.perf_counter()
        for batch in joined(incoming):
            index = context.topics.index[batch.tp.topic]
            expected = context.processor.merge(batch.tp.partition).read(index)
            if 0 < expected < batch.start:
                # The transport loses nothing, so the topic did: retention, or offsets moved by hand.
                log.warning(
                    "records were deleted before they were read",
                    topic=batch.tp.topic,
                    partition=batch.tp.partition,
                    expected=expected,
                    found=batch.start,
                )
            bad += context.processor.ingest(batch.tp.partition, index, batch.records, batch.next)
        decoded = time.perf_counter()
        now = time.monotonic()
        self._mark_idle(now)
        output = context.processor.apply_batch(now)
        if output is not None:
            output.seconds["decode"] = decoded - start
        return Applied(output, bad, self._build(context.processor.dead_letters()))

    def predict(self, output: StepOutput) -> list[BuiltFor]:
        """The predict stage, in the thread of the model."""
        self._context.processor.predict_batch(output)
        columns = [
            (topic, partition, self._producer().build_columns(messages, topic))
            for topic, partition, messages in output.columns
        ]
        return [*columns, *self._build(output.others)]

    def _build(self, messages: Outputs) -> list[BuiltFor]:
        return [
            (topic, partition, self._producer().build(few, topic))
            for (topic, partition), few in messages.items()
        ]

    def _mark_idle(self, now: float) -> None:
        """Tells the merges which topics have nothing more to read."""
        consumer, processor = self._context.consumer, self._context.processor
        for partition in processor.partitions:
            merge = processor.merge(partition)
            for topic, index in self._context.topics.index.items():
                # The end is known from the fetch that brought the last records, so records on their way from that
                # fetch to here count as something to read.
                end = consumer.end_of(TP(topic, partition))
                merge.idle(index, end is not None and merge.read(index) >= end, now)
