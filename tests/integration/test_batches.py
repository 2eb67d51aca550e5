"""Record batches to and from a real Kafka, written and read by other clients too."""

import asyncio
import random
import time
from typing import Any

import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka import Producer
from faust.types import TP

from stream_app.contract.message_columns import MessageColumns
from stream_app.kafka.record_batches.builder import build
from stream_app.lab.broker import EmbeddedKafka
from stream_app.worker.errors import IncompatibleAiokafka
from stream_app.worker.transport.fetch_hook import install_fetch_hook
from tests.integration.faust_member import Join, end_offset, in_order, make, send, until
from tests.integration.harness import read_all

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


def packed(parts: list[bytes | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return one buffer, the start of each part in it, and its length: -1 for none."""
    sizes = np.array([-1 if p is None else len(p) for p in parts], np.int32)
    at = np.cumsum(np.maximum(sizes, 0), dtype=np.int64) - np.maximum(sizes, 0)
    return np.frombuffer(b"".join(p or b"" for p in parts), np.uint8), at, sizes


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_every_codec_of_two_clients(kafka: EmbeddedKafka, prefix: str, join: Join, codec: str) -> None:
    """Records of librdkafka and aiokafka become columns: keys, values, times, headers; None and empty differ."""
    topic = f"{prefix}in"
    make(kafka.bootstrap, topic)
    wanted: list[tuple[Any, ...]] = []
    texts: list[bytes | None] = [None, b"", b"short", b"long " * 60]
    for n in range(400):
        headers = [("h", b"%d" % n), ("empty", b"")] if n % 7 == 0 else []
        key, value = texts[n % 3], texts[n // 3 % 4]
        value = b"" if key is value is None else value  # aiokafka sends no record without key and value
        wanted.append((1_700_000_000_000 + n, key, value, tuple(headers)))

    def librdkafka() -> None:
        producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "compression.type": codec,
                "linger.ms": 50,
                "enable.idempotence": True,
            }
        )
        for timestamp, key, value, headers in wanted:
            producer.produce(topic, value, key, partition=0, timestamp=timestamp, headers=list(headers))
        assert producer.flush(30) == 0

    await asyncio.to_thread(librdkafka)
    compression = None if codec == "none" else codec
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, compression_type=compression) as producer:
        for timestamp, key, value, headers in wanted:
            await producer.send(topic, value, key, 0, timestamp, list(headers))
        await producer.flush()
    member = await join(f"{prefix}group", topic)
    await until("800 records", lambda: len(member.values()) >= 800)
    records = [r for b in member.batches for r in b.records]
    assert [(r.timestamp, r.key, r.value, r.headers) for r in records] == 2 * wanted
    assert in_order(member.batches)


async def test_the_brokers_time(kafka: EmbeddedKafka, prefix: str, join: Join) -> None:
    """A topic with LogAppendTime gives the broker's time, not the producer's."""
    topic = f"{prefix}in"
    make(kafka.bootstrap, topic, message_timestamp_type="LogAppendTime")
    before = time.time() * 1000
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic, b"x", partition=0, timestamp=1_500_000_000_000)
    assert producer.flush(30) == 0
    member = await join(f"{prefix}group", topic)
    await until("the record", member.values)
    (record,) = member.batches[-1].records
    assert abs(record.timestamp - before) < 60_000


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_columns_are_written(kafka: EmbeddedKafka, prefix: str, join: Join, codec: str | None) -> None:
    """`build_columns` makes batches that librdkafka reads in order; a large record has its own batch."""
    topic = f"{prefix}out"
    make(kafka.bootstrap, topic)
    member = await join(f"{prefix}group", f"{prefix}in", producer_compression_type=codec)
    draw = random.Random(5)
    keys: list[bytes | None] = [None if n % 11 == 0 else b"k%d" % n for n in range(3000)]
    values: list[bytes | None] = [
        None if n % 13 == 0 else draw.randbytes(draw.randrange(300)) + b"v" * draw.randrange(300)
        for n in range(3000)
    ]
    values[700] = draw.randbytes(600_000)
    before = time.time() * 1000
    messages = MessageColumns.of(list(zip(keys, values, strict=True)))
    built = await asyncio.to_thread(member.producer.build_columns, messages)
    assert sum(b.size for b in built) == 3000
    assert [b.size for b in built if b.batch.size() > 512 * 1024] == [1]
    futures = await member.producer.send_built(topic, 0, built)
    offsets = [(await asyncio.wait_for(future, 30)).offset for future in futures]
    assert offsets == [sum(b.size for b in built[:i]) for i in range(len(built))]
    found = await asyncio.to_thread(read_all, kafka.bootstrap, topic)
    assert [(m.key(), m.value()) for m in found] == list(zip(keys, values, strict=True))
    assert all(abs(m.timestamp()[1] - before) < 60_000 and m.headers() is None for m in found)


async def test_columns_in_transactions(kafka: EmbeddedKafka, prefix: str, join: Join) -> None:
    """Built batches of a transactional producer are visible if their transaction is committed, otherwise never."""
    topic = f"{prefix}in"
    make(kafka.bootstrap, topic)
    member = await join(f"{prefix}group", topic)
    wanted: list[bytes] = []
    async with AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap, transactional_id=f"{prefix}writer", compression_type="lz4"
    ) as producer:
        for turn in range(12):
            values = [b"%d-%d " % (turn, i) * 9 for i in range(50)]
            await producer.begin_transaction()
            batches = build(
                *packed([None] * 50), *packed(values), timestamp=int(time.time() * 1000), limit=2000,
                compression=3 * (turn % 2), transactional=True,
            )  # fmt: skip
            for built in batches:
                await (await producer.send_batch(built, topic, partition=0))
            if turn % 3 == 1 or turn == 11:
                await producer.abort_transaction()
            else:
                await producer.commit_transaction()
                wanted += values
    end = end_offset(kafka.bootstrap, topic)
    await until("the position after the last marker", lambda: member.consumer.done.get(TP(topic, 0)) == end)
    assert member.values() == wanted
    assert in_order(member.batches)


async def test_a_consumer_in_use_is_refused(kafka: EmbeddedKafka, prefix: str) -> None:
    """Records that aiokafka has already unpacked are not lost silently: the hook raises an error."""
    topic = f"{prefix}in"
    make(kafka.bootstrap, topic)
    send(kafka.bootstrap, topic, [b"x"])
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest"
    ) as consumer:
        await until("the first fetch", lambda: consumer._fetcher._records)
        with pytest.raises(IncompatibleAiokafka, match=r"install aiokafka 0\.14"):
            install_fetch_hook(consumer)
