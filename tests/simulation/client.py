"""The layer below a worker's transport: aiokafka's client and idempotent producer, on the model."""

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    for_code,
)
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.protocol.types import CompactArray, CompactString, Int16, TaggedFields

from stream_app.contract.message_columns import MessageColumns
from stream_app.kafka.protocol.transactions import ApiVersions, Produce
from stream_app.worker.transport.producer import Built, Message, columns_built, messages_built
from tests.simulation.broker import Broker
from tests.simulation.network import Link
from tests.simulation.records import builder

_STRING = CompactString("utf-8")
_FEATURES = CompactArray(("name", _STRING), ("max", Int16), ("min", Int16), ("tags", TaggedFields))
_BACKOFF_S = 0.1
_POLL_S = 0.01


class SimClient:
    """Replaces `AIOKafkaClient`: a cluster of one node, 0."""

    def __init__(self, broker: Broker, link: Link) -> None:
        self._broker, self._link = broker, link
        self.cluster = SimpleNamespace(leader_for_partition=lambda tp: 0)

    async def bootstrap(self) -> None:
        """Connect."""
        await asyncio.sleep(0)

    async def set_topics(self, topics: list[str]) -> None:
        """Do nothing: the topics are known."""

    def get_random_node(self) -> int:
        """Return the only node."""
        return 0

    async def close(self) -> None:
        """Disconnect."""

    async def force_metadata_update(self) -> None:
        """Ask for the leaders."""
        await asyncio.sleep(0.001)

    async def coordinator_lookup(self, kind: Any, key: str) -> int:
        """Ask for the coordinator."""
        try:
            await self._link.ask(lambda reply: reply(None), plain=True)
        except KafkaConnectionError as error:
            raise for_code(15)() from error
        return 0

    async def send(self, node: int, request: Any, *, group: Any = None) -> Any:
        """Return the answer of the model. Raises KafkaError."""
        if isinstance(request, ApiVersions):
            if not self._broker.implicit:
                raise IncompatibleBrokerVersion("an old broker")
            features = _FEATURES.encode([("transaction.version", 2, 2, {})])
            return SimpleNamespace(tags={2: features})
        act, put_off = self._broker.act(request)
        kind = type(request).__name__
        if isinstance(request, Produce):
            kind = f"{kind} {next(iter(request._batches)).topic}"
        return await self._link.ask(lambda reply: reply(act()), put_off, kind=kind)


class SimProducer:
    """Replaces the idempotent `BatchProducer`, which writes outputs at least once."""

    def __init__(self, client: SimClient) -> None:
        self._client = client
        self._id: tuple[int, int] | None = None
        self._queues: dict[TopicPartition, deque[tuple[Any, asyncio.Future[Any]]]] = {}
        self._sequences: dict[TopicPartition, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def build(self, messages: list[Message], topic: str = "") -> list[Built]:
        """Like `BatchProducer.build`."""
        return messages_built(builder, messages)

    def build_columns(self, messages: MessageColumns, topic: str = "") -> list[Built]:
        """Like `BatchProducer.build_columns`."""
        return columns_built(messages, compression=0, transactional=False)

    async def send_built(
        self, topic: str, partition: int, batches: list[Built]
    ) -> list["asyncio.Future[Any]"]:
        """Like `BatchProducer.send_built`."""
        tp = TopicPartition(topic, partition)
        queue = self._queues.setdefault(tp, deque())
        futures = []
        for built in batches:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            queue.append((built, future))
            futures.append(future)
            if len(queue) == 1:
                task = asyncio.create_task(self._send(tp))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        return futures

    async def flush(self) -> None:
        """Wait until everything is acknowledged."""
        while any(self._queues.values()):
            await asyncio.sleep(_POLL_S)

    async def _send(self, tp: TopicPartition) -> None:
        queue = self._queues[tp]
        while queue:
            built, future = queue[0]
            sealed: list[Any] = []
            loop = asyncio.get_running_loop()
            end = loop.time() + 40.0
            while not future.done():
                try:
                    future.set_result(await self._try(tp, built, sealed))
                except KafkaError as error:
                    if not error.retriable:
                        future.set_exception(error)
                    elif loop.time() > end:
                        future.set_exception(KafkaTimeoutError())
                    else:
                        await asyncio.sleep(_BACKOFF_S)
            queue.popleft()

    async def _try(self, tp: TopicPartition, built: Built, sealed: list[Any]) -> Any:
        if self._id is None:
            made = await self._client.send(0, InitProducerIdRequest(None, 60_000))
            if made.error_code:
                raise for_code(made.error_code)()
            self._id = self._id or (made.producer_id, made.producer_epoch)
        first = self._sequences.get(tp, 0)
        if not sealed:
            built.batch._set_producer_state(*self._id, first)
            sealed.append(built.batch._build())
        answer = await self._client.send(0, Produce(False, None, 10_000, {tp: sealed[0]}))
        ((_, ((_, code, offset),), _),) = answer.responses
        if code:
            raise for_code(code)()
        self._sequences[tp] = first + built.size
        return SimpleNamespace(offset=offset)
