"""A loop without an engine: aiokafka reads, orjson decodes, a smaller JSON is sent in batches. It keeps no counts."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

BROKER, SOURCE, OUT = os.environ["BROKER"], os.environ["IN"], os.environ["OUT"]
COMMIT_EVERY = 100_000


def answer(value: bytes) -> bytes:
    """Return the output for an event."""
    event = orjson.loads(value)
    start = int(event["ts"] // 60) * 60
    return orjson.dumps({"event_id": event["event_id"], "user_id": event["user_id"], "window_start": start})


async def publish(producer: AIOKafkaProducer, partition: int, records: Sequence[Any]) -> list[Any]:
    """Send the answers of a partition in as few batches as possible; return the futures of their acknowledgements."""
    sent: list[Any] = []
    batch = producer.create_batch()
    for record in records:
        value = answer(record.value)
        if batch.append(key=record.key, value=value, timestamp=None) is None:  # the batch is full
            sent.append(await producer.send_batch(batch, OUT, partition=partition))
            batch = producer.create_batch()
            batch.append(key=record.key, value=value, timestamp=None)
    if batch.record_count():
        sent.append(await producer.send_batch(batch, OUT, partition=partition))
    return sent


async def main() -> None:
    """Run until killed."""
    consumer = AIOKafkaConsumer(
        SOURCE,
        bootstrap_servers=BROKER,
        group_id=os.environ["RID"],
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=2 << 20,
    )
    producer = AIOKafkaProducer(bootstrap_servers=BROKER, acks="all", linger_ms=0, max_batch_size=256 << 10)
    await consumer.start()
    await producer.start()
    sent: list[Any] = []
    uncommitted = 0
    while True:
        fetched = await consumer.getmany(timeout_ms=200, max_records=8_000)
        for place, records in fetched.items():
            sent += await publish(producer, place.partition, records)
            uncommitted += len(records)
        if uncommitted >= COMMIT_EVERY:
            await asyncio.gather(*sent)
            await consumer.commit()
            sent, uncommitted = [], 0


uvloop.run(main())
