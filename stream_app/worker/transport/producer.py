"""The producer: idempotent, acknowledged by all in-sync replicas, and able to send ready-made record batches.

A batch never has more bytes than its topic accepts: see `size_limits`.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import aiokafka
from aiokafka import TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder
from faust.transport.drivers import aiokafka as driver

from stream_app.contract.message_columns import MessageColumns
from stream_app.kafka.record_batches.builder import SealedBatch, build
from stream_app.kafka.record_batches.size_limits import BATCH_BYTES, SizeLimits
from stream_app.worker.transport.aiokafka_internals import batching_of, builder_of, queue_batch

MAX_REQUEST_BYTES = 4 * 1024 * 1024

Message = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]


class Built(NamedTuple):
    """A finished record batch, to which no records are added."""

    batch: BatchBuilder | SealedBatch
    size: int  #: records in it


class BatchProducer(driver.Producer):
    """Faust's producer with `acks=all`, idempotence and a batch interface."""

    mundane_level = "debug"  # of "Starting..." and "Stopping..."

    def _settings_default(self) -> Mapping[str, Any]:
        return {
            **super()._settings_default(),
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": 0,
            "max_batch_size": BATCH_BYTES,
            "max_request_size": MAX_REQUEST_BYTES,
        }

    async def on_start(self) -> None:
        """Connects, and asks which brokers lead the output topics.

        aiokafka would ask at its first write to each topic. If no broker answered at that moment, the error would
        stop the worker in the middle of its work.
        """
        await super().on_start()
        partitions_for = self._ensure_producer().partitions_for
        await asyncio.gather(*map(partitions_for, getattr(self.app, "output_topics", ())))

    async def flush(self) -> None:
        """Does nothing. Faust calls this at a revoke, but checkpoints wait for the outputs, and with a time limit."""

    @property
    def sizes(self) -> SizeLimits:
        """The largest batches that the topics accept."""
        sizes: SizeLimits = getattr(self.app, "size_limits", None) or _DEFAULT_SIZES
        return sizes

    def build(self, messages: Sequence[Message], topic: str = "") -> list[Built]:
        """Builds record batches of messages (key, value, headers) for a topic, in order.

        Use `build_columns` for messages without headers, which are most of them. May be called in any thread.
        """
        new_batch = builder_of(self._ensure_producer(), self.sizes.batch(topic))
        return messages_built(new_batch, [self.sizes.fitted(topic, each) for each in messages])

    def build_columns(self, messages: MessageColumns, topic: str = "") -> list[Built]:
        """Builds record batches of messages for a topic, in order, with the current time as timestamp.

        A batch has at most `BATCH_BYTES`; a larger record gets its own batch. May be called in any thread. Raises
        ValueError if a record is outside its buffer.
        """
        compression, transactional = batching_of(self._ensure_producer())
        return columns_built(
            self.sizes.fitted_columns(topic, messages),
            compression=compression, transactional=transactional, limit=self.sizes.batch(topic),
        )  # fmt: skip

    async def send_built(
        self, topic: str, partition: int, batches: Sequence[Built]
    ) -> list["asyncio.Future[Any]"]:
        """Queues record batches for one partition, in order; returns a future of the acknowledgement of each.

        The future's result has the offset of the batch's first record. A batch that the broker refuses as too large
        is sent again as smaller batches; a single record that is too large is cut.
        """
        producer: aiokafka.AIOKafkaProducer = self._ensure_producer()
        await producer.partitions_for(topic)  # known already, unless the topic was created again
        tp = TopicPartition(topic, partition)

        def smaller(batch: Any) -> list[Any]:
            return [built.batch for built in self.build(self.sizes.refused(topic, batch), topic)]

        return [queue_batch(producer, tp, built.batch, smaller) for built in batches]


#: For a producer whose app does not know the limits of its topics.
_DEFAULT_SIZES = SizeLimits()


def messages_built(new_batch: Callable[[], BatchBuilder], messages: Sequence[Message]) -> list[Built]:
    """Builds record batches of messages, in order. `new_batch` returns an empty batch."""
    built = []
    i = 0
    while i < len(messages):
        batch = new_batch()
        first = i
        append = batch.append
        while i < len(messages):
            key, value, headers = messages[i]
            if append(key=key, value=value, timestamp=None, headers=headers) is None:
                break
            i += 1
        batch.close()
        built.append(Built(batch, i - first))
    return built


def columns_built(
    messages: MessageColumns, *, compression: int, transactional: bool, limit: int = BATCH_BYTES
) -> list[Built]:
    """Builds record batches of messages, with the current time as timestamp."""
    batches = build(
        *messages.arrays(),
        timestamp=int(time.time() * 1000),
        limit=limit,
        compression=compression,
        transactional=transactional,
    )
    return [Built(batch, batch.record_count()) for batch in batches]
