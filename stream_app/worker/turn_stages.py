"""The two halves of a turn, as they run in their threads: records to applied rows, applied rows to record batches."""

import time
from collections.abc import Callable

import faust
from faust.types import TP

from stream_app.contract.events import BadRecord
from stream_app.contract.record_columns import RecordColumns
from stream_app.ops.health import PROCESSING, Health
from stream_app.ops.logging import get_logger
from stream_app.processing.micro_batch import Outputs, StepOutput
from stream_app.processing.processor import Processor
from stream_app.settings import Settings
from stream_app.worker.transactions.partition_producers import Lanes
from stream_app.worker.transport.consumer import BatchConsumer, FetchedBatch
from stream_app.worker.transport.producer import BatchProducer, Built

log = get_logger(__name__)

#: Topic, partition, record batches.
BuiltFor = tuple[str, int, list[Built]]
#: What a first half leaves: the rows' part of a micro-batch, bad records, dead letters.
Advanced = tuple[StepOutput | None, list[BadRecord], list[BuiltFor]]


def joined(batches: list[FetchedBatch]) -> list[FetchedBatch]:
    """Batches of a partition that follow on each other as one: to decode it costs much the same for one event as for
    hundreds. Batches of each partition keep their order."""
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


class Halves:
    """Calls the processor with what came of Kafka, and builds what goes there."""

    def __init__(
        self,
        app: faust.App,
        settings: Settings,
        processor: Processor,
        health: Health,
        producer: Callable[[], BatchProducer | Lanes],
    ) -> None:
        """`producer`: gives the one that is to send, which builds the batches."""
        self._app = app
        self._producer_now = producer
        self.processor = processor
        self.health = health
        self._topic_index = {name: index for index, name in enumerate(settings.inputs)}

    def whole(self, incoming: list[FetchedBatch], few: float) -> tuple[Advanced, list[BuiltFor] | None]:
        """The first half, and the second in the same thread where the micro-batch has fewer than `few` events.

        To change threads costs a small micro-batch as much as its rows do. None where no second half was run.
        """
        advanced = self.advance(incoming)
        output = advanced[0]
        return advanced, self.finish(output) if output is not None and output.events < few else None

    def advance(self, incoming: list[FetchedBatch]) -> Advanced:
        """The first half of a turn, in the thread that owns the rows."""
        self.health.beat(PROCESSING)
        bad: list[BadRecord] = []
        start = time.perf_counter()
        for batch in joined(incoming):
            topic_index = self._topic_index[batch.tp.topic]
            expected = self.processor.merge(batch.tp.partition).read(topic_index)
            if 0 < expected < batch.start:
                # The transport loses nothing, so the topic did: retention, or offsets moved by hand.
                log.warning(
                    "records are gone before they were read",
                    topic=batch.tp.topic,
                    partition=batch.tp.partition,
                    expected=expected,
                    found=batch.start,
                )
            bad += self.processor.ingest(batch.tp.partition, topic_index, batch.records, batch.next)
        decoded = time.perf_counter()
        now = time.monotonic()
        self._mark_idle(now)
        output = self.processor.apply_batch(now)
        if output is not None:
            output.seconds["decode"] = decoded - start
        return output, bad, self._build(self.processor.dead_letters())

    def finish(self, output: StepOutput) -> list[BuiltFor]:
        """The second half, in the thread of the model."""
        self.processor.predict_batch(output)
        columns = [
            (topic, partition, self._producer.build_columns(messages, topic))
            for topic, partition, messages in output.columns
        ]
        return [*columns, *self._build(output.others)]

    def _build(self, messages: Outputs) -> list[BuiltFor]:
        return [
            (topic, partition, self._producer.build(few, topic))
            for (topic, partition), few in messages.items()
        ]

    def _mark_idle(self, now: float) -> None:
        """Tells the merges which topics have nothing more to read."""
        for partition in self.processor.partitions:
            merge = self.processor.merge(partition)
            for topic, topic_index in self._topic_index.items():
                # The end is known from the fetch that brought the last records, so what is on its way
                # between that fetch and here counts as something to read.
                end = self._consumer.end_of(TP(topic, partition))
                merge.idle(topic_index, end is not None and merge.read(topic_index) >= end, now)

    @property
    def _consumer(self) -> BatchConsumer:
        return self._app.consumer

    @property
    def _producer(self) -> BatchProducer | Lanes:
        return self._producer_now()
