"""Watches that the topics stay those that a worker started with.

A Kafka client notices none of this. An input that was deleted just brings nothing more; one that was made again has
other records at offsets which the state takes for applied, so they would be passed over; and added partitions move
users away from their state. An output that was made again does no harm.
"""

import asyncio
import contextlib
from collections.abc import Container, Iterable, Mapping
from io import BytesIO
from typing import Any, NamedTuple

import faust
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)
from mode import Service

from stream_app.kafka.errors import TopicError
from stream_app.kafka.security import kafka_options
from stream_app.kafka.topics import admin_client, topic_specs
from stream_app.ops.logging import get_logger
from stream_app.settings import Settings
from stream_app.state.topic_identity import made_again

log = get_logger(__name__)

#: Seconds between two looks.
LOOK_EVERY_S = 3.0
#: Looks in a row that must show the same: a broker that has just started may not know all topics yet.
LOOKS = 3

_OK, _UNKNOWN_TOPIC, _LEADER_NOT_AVAILABLE = 0, 3, 5
_TAGS = ("tags", TaggedFields)
_STRING = CompactString("utf-8")


class Topic(NamedTuple):
    """What makes a topic the one that it is."""

    id: bytes  #: 16 bytes, another one each time that a topic of this name is made
    partitions: int


class TopicWatch(Service):
    """Stops the worker with a TopicError once a topic was deleted, made again or given more partitions.

    Topics that are missing at the start are not watched.
    """

    mundane_level = "debug"  # of "Starting..." and "Stopping..."

    def __init__(self, app: faust.App, settings: Settings, first: Mapping[str, Topic | None]) -> None:
        """`first`: what `look` found before the worker started; empty where it found nothing out."""
        super().__init__(loop=app.loop, beacon=app.beacon)
        self._app = app
        self._first = first
        self._options = kafka_options(settings)
        self._names = [spec.name for spec in topic_specs(settings)]
        self._kept = frozenset([*settings.inputs, settings.changelog])

    @Service.task
    async def _watch(self) -> None:
        first = self._as_started(self._first)
        before, seen = "", 0
        client = AIOKafkaAdminClient(**self._options)
        started = False
        try:
            while not self.should_stop:
                # A broker that does not answer is the consumer's and the producer's affair.
                with contextlib.suppress(KafkaError, asyncio.TimeoutError, OSError):
                    if not started:
                        await client.start()
                        started = True
                    found = await describe(client, self._names)
                    first = first or self._as_started(found)
                    problem = "; ".join(changes(first, found, self._kept))
                    seen = seen + 1 if problem == before else 1
                    before = problem
                    if problem and seen >= LOOKS:
                        log.error("topics changed", problem=problem)
                        await self._app.crash(TopicError(problem))
                        return
                await self.sleep(LOOK_EVERY_S)
        finally:
            await client.close()

    def _as_started(self, found: Mapping[str, Topic | None]) -> dict[str, Topic]:
        # They may have grown between the start and this look.
        partitions = self._app.conf.topic_partitions
        return {
            name: topic._replace(partitions=partitions) for name, topic in found.items() if topic is not None
        }


async def look(settings: Settings, *, wait_s: float = 10.0) -> dict[str, Topic | None]:
    """The topics of a worker as they are now; empty where the broker is older than Kafka 2.8, which has no ids.

    Raises BrokerUnreachable after `wait_s`.
    """
    async with admin_client(settings, wait_s) as client:
        try:
            return await describe(client, [spec.name for spec in topic_specs(settings)])
        except (NotImplementedError, IncompatibleBrokerVersion):
            return {}


def input_ids(settings: Settings, found: Mapping[str, Topic | None]) -> list[bytes]:
    """The ids of the input topics, in their order; empty where one is not known."""
    topics = [found.get(name) for name in settings.inputs]
    ids = [topic.id for topic in topics if topic is not None and any(topic.id)]
    return ids if len(ids) == len(topics) else []


def changes(first: Mapping[str, Topic], now: Mapping[str, Topic | None], kept: Container[str]) -> list[str]:
    """What is no longer as it was at `first`, a sentence each.

    `now` lacks the topics that nothing is known of. Those `kept` must be the very same, not only of the same name.
    """
    found = []
    for name, was in first.items():
        topic = now.get(name, was)
        if topic is None:
            found.append(
                f"topic {name} was deleted: make the topics with `foreclick topics --create` and start with "
                "another FORECLICK_GROUP, whose state begins empty"
            )
        elif name in kept and topic.id != was.id:
            found.append(made_again(name))
        elif topic.partitions != was.partitions:
            found.append(
                f"topic {name} has {topic.partitions} partitions now, {was.partitions} when the worker started, so "
                "users are sent where their state is not: make topics with that many partitions under another "
                "FORECLICK_TOPIC_PREFIX and copy the events"
            )
    return found


async def describe(client: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, Topic | None]:
    """The topics of these names, None where there is none; those that the broker does not tell about are left out."""
    answer = await client._send_request(_Metadata(names))
    found: dict[str, Topic | None] = {}
    for code, name, topic_id, _, partitions, *_ in answer.topics:
        if code == _UNKNOWN_TOPIC:
            found[name] = None
        elif code in (_OK, _LEADER_NOT_AVAILABLE):
            found[name] = Topic(topic_id, len(partitions))
    return found


class _Uuid(AbstractType[bytes]):
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


class _MetadataResponse(Response):
    """Source: Kafka's protocol guide, Metadata, version 12: the first one whose ids are dependable."""

    API_KEY, API_VERSION = 3, 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(("node_id", Int32), ("host", _STRING), ("port", Int32), ("rack", _STRING), _TAGS),
        ),
        ("cluster_id", _STRING),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", _STRING),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("in_sync", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        _TAGS,
                    ),
                ),
                ("operations", Int32),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _Metadata12(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION = 3, 12
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", _STRING), _TAGS)),
        ("allow_creation", Boolean),
        ("with_operations", Boolean),
        _TAGS,
    )


class _Metadata(Request[_Metadata12]):
    """Which topics there are, by name."""

    API_KEY = 3

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)

    def build(self, request_struct_class: type[_Metadata12]) -> Any:
        """The request; it makes no topic."""
        return request_struct_class([(bytes(16), name, {}) for name in self._names], False, False, {})
