"""Sends events at a steady rate with almost no CPU, so that a measurement of latency measures the worker."""

import asyncio
import time
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from aiokafka import AIOKafkaProducer, TopicPartition

from stream_app.contract.message_columns import MessageColumns
from stream_app.contract.partitioner import partitions_of
from stream_app.kafka.record_batches.builder import build
from stream_app.worker.transport.aiokafka_internals import queue_batch

#: Seconds between two sends, like a producer with `linger.ms` = 5.
TICK_S = 0.005
_CHUNK = 100_000
_LIMIT_BYTES = 512 * 1024

#: Messages of one partition, and the number of each among all.
PartitionRecords = tuple[int, MessageColumns, npt.NDArray[np.int64]]


def by_partition(
    records: Iterable[tuple[bytes, bytes, int]], partitions: int
) -> list[list[PartitionRecords]]:
    """Return chunks of (key, value, ms), each arranged by partition."""
    chunks = []
    source = iter(records)
    first = 0
    while chunk := list(islice(source, _CHUNK)):
        places = partitions_of([key for key, *_ in chunk], partitions)
        parts = []
        for partition in range(partitions):
            mine = np.flatnonzero(places == partition)
            columns = MessageColumns.of([chunk[i][:2] for i in mine.tolist()])
            parts.append((partition, columns, first + mine))
        chunks.append(parts)
        first += len(chunk)
    return chunks


async def send(bootstrap: str, topic: str, chunks: list[list[PartitionRecords]], rate: float) -> float:
    """Send everything at `rate` events/s; return the seconds until all records were acknowledged."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks=1)
    await producer.start()
    try:
        await producer.partitions_for(topic)
        start = time.perf_counter()
        waiting: list[asyncio.Future[Any]] = []
        for parts in chunks:
            done = [0] * len(parts)
            while any(done[p] < len(numbers) for p, _, numbers in parts):
                due = (time.perf_counter() - start) * rate
                for p, columns, numbers in parts:
                    end = int(np.searchsorted(numbers, due))
                    if end > done[p]:
                        part = columns.take(slice(done[p], end)).arrays()
                        now_ms = int(time.time() * 1000)
                        built = build(
                            *part, timestamp=now_ms, limit=_LIMIT_BYTES, compression=0, transactional=False
                        )
                        tp = TopicPartition(topic, p)
                        waiting.extend(queue_batch(producer, tp, batch) for batch in built)
                        done[p] = end
                await asyncio.sleep(TICK_S)
            await asyncio.gather(*waiting)
            waiting.clear()
        return time.perf_counter() - start
    finally:
        await producer.stop()
