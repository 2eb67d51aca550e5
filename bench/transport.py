"""The cost per record below the application: unpacking a fetch, packing a batch, reading a changelog back.

    python bench/transport.py [--records 20000] [--kafka]

Prints microseconds per record, the best of some runs, and those of aiokafka's own reader and builder for the same
records in the same run; `batches of 1` are those of producers without linger. `--kafka` also reads a
topic of each size from a broker on this machine with `ChangelogReader` and with a bare aiokafka loop. Prints JSON.
"""

import argparse
import asyncio
import json
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from confluent_kafka.admin import AdminClient, NewTopic

from stream_app.contract.record_columns import RecordColumns
from stream_app.kafka.record_batches.builder import SealedBatch, build
from stream_app.kafka.record_batches.fetch_reader import read
from stream_app.lab.broker import EmbeddedKafka
from stream_app.worker.changelog_reader import FETCH_BYTES, ChangelogReader

KEY = b"user%04d"
LIMIT = 512 * 1024
NOW = 1_767_225_660_000


def best_us(work: Callable[[], Any], n: int, runs: int = 5) -> float:
    """Return the microseconds per record for n records, in the best run."""
    work()
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best / n * 1e6


def messages(n: int, value_bytes: int) -> tuple[np.ndarray, ...]:
    """Return columns of n records, in the form that `build` takes."""
    keys = np.frombuffer(b"".join(KEY % (i % 10_000) for i in range(n)), np.uint8)
    size = len(KEY % 0)
    values = np.random.default_rng(1).integers(0, 256, n * value_bytes, np.uint8)
    at = np.arange(n, dtype=np.int64)
    return (
        keys, at * size, np.full(n, size, np.int32), values, at * value_bytes, np.full(n, value_bytes, np.int32),
    )  # fmt: skip


def placed(batches: list[SealedBatch]) -> bytes:
    """Return the bytes of a fetch with these batches."""
    parts: list[bytes | memoryview] = []
    base = 0
    for batch in batches:
        parts += (struct.pack(">q", base), batch._build()[8:])
        base += batch.record_count()
    return b"".join(parts)


def parsing(n: int, value_bytes: int, limit: int, compression: int = 0) -> dict[str, float]:
    raw = placed(build(*messages(n, value_bytes), timestamp=NOW, limit=limit, compression=compression))
    tp = TopicPartition("t", 0)

    def theirs() -> None:
        records = PartitionRecords(tp, MemoryRecords(raw), None, 0, None, None, True, READ_COMMITTED)
        assert sum(1 for _ in records) == n

    return compared(best_us(lambda: list(read(raw, 0)), n), best_us(theirs, n, 2), len(raw) / n)


def building(n: int, value_bytes: int) -> dict[str, float]:
    columns = messages(n, value_bytes)
    keys = [KEY % (i % 10_000) for i in range(n)]
    whole = columns[3].tobytes()
    values = [whole[i : i + value_bytes] for i in range(0, len(whole), value_bytes)]

    def ours() -> int:
        return sum(len(batch._build()) for batch in build(*columns, timestamp=NOW, limit=LIMIT))

    def theirs() -> int:
        size, batch = 0, BatchBuilder(LIMIT, 0)
        for key, value in zip(keys, values, strict=True):
            if batch.append(key=key, value=value, timestamp=NOW, headers=[]) is None:
                size += len(batch._build())
                batch = BatchBuilder(LIMIT, 0)
                batch.append(key=key, value=value, timestamp=NOW, headers=[])
        return size + len(batch._build())

    assert ours() == theirs()
    return compared(best_us(ours, n), best_us(theirs, n, 2), ours() / n)


def compared(ours_us: float, theirs_us: float, size: float) -> dict[str, float]:
    return {
        "us": round(ours_us, 4),
        "aiokafka_us": round(theirs_us, 4),
        "times": round(theirs_us / ours_us, 1),
        "bytes": round(size),
    }


async def reading(bootstrap: str, topic: str, n: int, value_bytes: int) -> dict[str, float]:
    """Read a topic of two partitions back; return microseconds of wall time per record."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, 2, 1)]).values():
        future.result(30)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, max_request_size=4 << 20) as producer:
        for partition in (0, 1):
            for batch in build(*messages(n // 2, value_bytes), timestamp=NOW, limit=LIMIT):
                await (await producer.send_batch(batch, topic, partition=partition))
    reader = ChangelogReader(topic, bootstrap_servers=bootstrap)
    await reader.start()

    async def nothing(partition: int, records: RecordColumns, count: int, total: int) -> None:
        pass

    async def ours() -> float:
        start = time.perf_counter()
        count, _ = await reader.read([0, 1], nothing)
        assert count == n
        return time.perf_counter() - start

    async def theirs() -> float:
        async with AIOKafkaConsumer(
            bootstrap_servers=bootstrap, enable_auto_commit=False, max_partition_fetch_bytes=FETCH_BYTES
        ) as consumer:
            tps = [TopicPartition(topic, p) for p in (0, 1)]
            consumer.assign(tps)
            for tp in tps:
                consumer.seek(tp, 0)
            start, count = time.perf_counter(), 0
            while count < n:
                count += sum(map(len, (await consumer.getmany(timeout_ms=500)).values()))
            return time.perf_counter() - start

    try:
        mine = min([await ours() for _ in range(3)])
    finally:
        await reader.stop()
    return {
        **compared(mine / n * 1e6, await theirs() / n * 1e6, value_bytes),
        "records_per_s": round(n / mine),
        "MB_per_s": round(n * value_bytes / mine / 1e6),
    }


async def from_kafka() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, EmbeddedKafka(Path(folder)) as kafka:
        small = await reading(kafka.bootstrap, "small", 2_000_000, 30)
        large = await reading(kafka.bootstrap, "large", 200_000, 1_500)
    return {"changelog, 30 bytes": small, "changelog, 1,500 bytes": large}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--kafka", action="store_true")
    args = parser.parse_args()
    n = args.records
    figures: dict[str, Any] = {
        "parse, 30 bytes": parsing(n, 30, LIMIT),
        "parse, 150 bytes": parsing(n, 150, LIMIT),
        "parse, 150 bytes, batches of 1": parsing(n, 150, 1),
        "parse, 150 bytes, lz4": parsing(n, 150, LIMIT, 3),
        "parse, 1,500 bytes": parsing(n, 1_500, LIMIT),
        "build, 30 bytes": building(n, 30),
        "build, 150 bytes": building(n, 150),
        "build, 1,500 bytes": building(n, 1_500),
    }
    if args.kafka:
        figures |= asyncio.run(from_kafka())
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
