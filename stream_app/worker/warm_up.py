"""Compiles everything that a worker calls, before the first live event."""

import msgspec

from model.serving.api import Runtime
from stream_app.contract.events import MIN_TS_MS, Event, encode_json, encode_msgpack
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.kafka.record_batches.builder import build
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.settings import Settings


def warm_up(settings: Settings, runtime: Runtime | None) -> None:
    """Compiles all kernels, or loads them from the cache, so that no live event waits for the compiler."""
    if runtime is not None:
        runtime.warm_up()
    small = msgspec.structs.replace(settings, resident_users=16, max_batch=16, topic_prefix="")
    processor = ShopProcessor(small, runtime, partitions=1)
    processor.assign(0, [0] * len(INPUT_TOPICS))
    processor.restored(0)
    for topic_index, topic in enumerate(INPUT_TOPICS):
        events = [Event(user_id="warm", ts=MIN_TS_MS + i, item_id="up", price=1.0) for i in (1, 2)]
        values = [*map(encode_json, events), encode_msgpack(events[0])]  # both ways through the decoder
        records = [Record(topic, 0, i, MIN_TS_MS + 2, b"warm", value) for i, value in enumerate(values)]
        processor.ingest(0, topic_index, RecordColumns.of(records), len(records))
    output, checkpoint = processor.step(0.0, ended=True), processor.checkpoint(0, 0)
    if output is None or checkpoint is None:
        raise AssertionError("the events of the warm-up were not processed")
    for messages in (*(columns for *_, columns in output.columns), checkpoint.records):
        for batch in build(*messages.arrays(), timestamp=0, limit=1024, compression=0, transactional=False):
            batch._build()  # its checksum, as the producer does
    processor.look_up("warm")
    log = [Record("", 0, i, 0, key, value) for i, (key, value) in enumerate(checkpoint.records.each())]
    processor.restore(0, RecordColumns.of(log))
