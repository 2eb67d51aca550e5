"""A small Faust app on the transport, and functions that give it records."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import faust
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec
from faust.types import TP
from yarl import URL

from stream_app.worker.transport import BatchConsumer, BatchProducer, FetchedBatch


class Member:
    """A small Faust app with one agent that keeps the records it gets and, on request, advances `done` after them."""

    def __init__(
        self,
        bootstrap: str,
        folder: Path,
        group: str,
        topics: Iterable[str],
        *,
        moves: bool = True,
        **settings: Any,
    ) -> None:
        self.app = faust.App(
            group,
            broker=URL(f"batch://{bootstrap}"),
            store=URL("memory://"),
            datadir=folder / uuid.uuid4().hex,
            key_serializer="raw",
            value_serializer="raw",
            topic_allow_declare=False,
            topic_disable_leader=True,
            stream_recovery_delay=0,
            stream_wait_empty=True,
            broker_commit_interval=0.1,
            broker_session_timeout=6.0,
            broker_heartbeat_interval=0.5,
            broker_rebalance_timeout=6.0,
            web_enabled=False,
            **settings,
        )
        self.moves = moves
        self.batches: list[FetchedBatch] = []

        @self.app.agent(self.app.topic(*topics, key_serializer=None, value_serializer=None))
        async def receive(stream: Any) -> None:
            async for event in stream.events():
                batch: FetchedBatch = event.value
                self.batches.append(batch)
                if self.moves:
                    self.consumer.done[batch.tp] = batch.next

    @property
    def consumer(self) -> BatchConsumer:
        return self.app.consumer

    @property
    def producer(self) -> BatchProducer:
        return self.app.producer

    def values(self) -> list[bytes]:
        """Return the values of all records in the order of arrival."""
        return [r.value for batch in self.batches for r in batch.records]

    def settled(self) -> bool:
        """Whether the last rebalance is over, so that records may arrive."""
        if self.app.crash_reason is not None:
            raise self.app.crash_reason
        return self.app.started and not self.app.rebalancing and self.consumer.flow_active


#: The fixture `join`: starts a member of a group on some topics.
Join = Callable[..., Awaitable[Member]]


async def until(what: str, condition: Callable[[], Any], limit_s: float = 40.0) -> None:
    """Return once `condition` is true; after the time limit, fail and name `what`."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"waited {limit_s:.0f} s for {what}"
        await asyncio.sleep(0.01)


def make(bootstrap: str, *topics: str, partitions: int = 1, **config: str) -> None:
    """Create topics."""
    config = {name.replace("_", "."): value for name, value in config.items()}
    new = [NewTopic(topic, partitions, 1, config=config) for topic in topics]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics(new).values():
        future.result(30)


def send(bootstrap: str, topic: str, values: Iterable[bytes], partition: int = 0, **config: Any) -> None:
    """Append records to one partition and wait until they are acknowledged."""
    producer = Producer({"bootstrap.servers": bootstrap, **config})
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(30) == 0, "records were not acknowledged within 30 s"


def end_offset(bootstrap: str, topic: str) -> int:
    """Return the end of partition 0 as the broker gives it."""
    admin, tp = AdminClient({"bootstrap.servers": bootstrap}), TopicPartition(topic, 0)
    return admin.list_offsets({tp: OffsetSpec.latest()})[tp].result(20).offset


def numbers(n: int, start: int = 0) -> list[bytes]:
    return [b"%d" % i for i in range(start, start + n)]


def in_order(batches: Iterable[FetchedBatch], *, may_go_back: bool = False) -> bool:
    """Whether each batch begins where the previous one of its partition ended, with rising offsets."""
    at: dict[TP, int] = {}
    for b in batches:
        offsets = [r.offset for r in b.records]
        before = at.get(b.tp, b.start)
        if b.start > before or (b.start < before and not may_go_back) or offsets != sorted(set(offsets)):
            return False
        if offsets and not b.start <= offsets[0] <= offsets[-1] < b.next:
            return False
        if any((r.topic, r.partition) != b.tp for r in b.records):
            return False
        at[b.tp] = b.next
    return True
