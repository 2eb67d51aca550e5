"""A loop without an engine: librdkafka reads, orjson decodes, a smaller JSON is sent. It keeps no counts."""

import os

import orjson
from confluent_kafka import Consumer, Producer

BROKER, SOURCE, OUT = os.environ["BROKER"], os.environ["IN"], os.environ["OUT"]
COMMIT_EVERY = 100_000


def answer(value: bytes) -> bytes:
    """Return the output for an event."""
    event = orjson.loads(value)
    start = int(event["ts"] // 60) * 60
    return orjson.dumps({"event_id": event["event_id"], "user_id": event["user_id"], "window_start": start})


def main() -> None:
    """Run until killed."""
    consumer = Consumer(
        {
            "bootstrap.servers": BROKER,
            "group.id": os.environ["RID"],
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "queued.min.messages": 200_000,
            "fetch.message.max.bytes": 4 << 20,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": BROKER,
            "enable.idempotence": True,
            "linger.ms": 20,
            "batch.size": 256 << 10,
            "queue.buffering.max.messages": 500_000,
        }
    )
    consumer.subscribe([SOURCE])
    uncommitted = 0
    while True:
        messages = consumer.consume(5_000, 0.1)
        for message in messages:
            value = answer(message.value())
            while True:
                try:
                    producer.produce(OUT, value, message.key())
                    break
                except BufferError:  # the queue is full
                    producer.poll(0.05)
        producer.poll(0)
        uncommitted += len(messages)
        if uncommitted >= COMMIT_EVERY:
            producer.flush()
            consumer.commit(asynchronous=True)
            uncommitted = 0


main()
