"""Runs a recording through a processor without a broker, for `foreclick run`, training and evaluation."""

from collections import Counter
from collections.abc import Callable, Iterator

from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import INPUT_TOPICS, by_partition
from stream_app.processing.micro_batch import StepOutput
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.recordings.errors import RecordingMismatchError
from stream_app.recordings.recording import RecordingReader

#: Records read at a time.
CHUNK = 8192

ReadProgress = Callable[[int, int], None]  # records done, records in all


def partitions_of(reader: RecordingReader) -> int:
    """Return the number of partitions of the recorded inputs. Raises an error if they differ or are absent."""
    counts = {topic: n for topic, n in reader.topics.items() if topic in INPUT_TOPICS}
    if not counts:
        raise RecordingMismatchError(f"{reader.path} holds none of the topics {', '.join(INPUT_TOPICS)}")
    if len(set(counts.values())) > 1:
        raise RecordingMismatchError(
            f"{reader.path}: the input topics have different numbers of partitions: {counts}"
        )
    return next(iter(counts.values()))


def drive(
    processor: ShopProcessor, reader: RecordingReader, progress: ReadProgress | None = None
) -> Iterator[StepOutput | None]:
    """Feed a whole recording to a processor; yield the output of each micro-batch, None if it had none.

    Here the end of each topic is known. So events are merged as in a worker that never has to give up waiting for a
    topic.
    """
    ahead = Counter((r.topic, r.partition) for r in reader)
    total = sum(ahead.values())
    for partition in range(partitions_of(reader)):
        processor.assign(partition, [0] * len(INPUT_TOPICS))
        processor.restored(partition)
        for topic_index, topic in enumerate(INPUT_TOPICS):
            if not ahead[topic, partition]:
                processor.merge(partition).finish(topic_index)
    done = 0
    for chunk in reader.batches(CHUNK):
        for (topic, partition), records in by_partition(chunk).items():
            if topic not in INPUT_TOPICS:
                continue
            topic_index = INPUT_TOPICS.index(topic)
            processor.ingest(partition, topic_index, RecordColumns.of(records), records[-1].offset + 1)
            ahead[topic, partition] -= len(records)
            if not ahead[topic, partition]:
                processor.merge(partition).finish(topic_index)
        yield processor.step(0.0)
        yield from _rest(processor)
        done += len(chunk)
        if progress:
            progress(done, total)
    yield from _rest(processor)
    yield None  # everything is processed now


def _rest(processor: ShopProcessor) -> Iterator[StepOutput]:
    while (output := processor.step(0.0)) is not None:
        yield output
