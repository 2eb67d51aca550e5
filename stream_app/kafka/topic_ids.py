"""The topics of a worker and their ids: a topic that was deleted and created again has another id."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IncompatibleBrokerVersion

from stream_app.contract.topics import Topics
from stream_app.kafka.protocol.metadata import TopicIds
from stream_app.kafka.topics import admin_client
from stream_app.settings import Settings

_OK, _UNKNOWN_TOPIC, _LEADER_NOT_AVAILABLE = 0, 3, 5


class Topic(NamedTuple):
    """What identifies a topic."""

    id: bytes  #: 16 bytes, different each time that a topic of this name is created
    partitions: int


async def look(settings: Settings, topics: Topics, *, wait_s: float = 10.0) -> dict[str, Topic | None]:
    """The current topics of a worker; empty if the broker is older than Kafka 2.8 and so has no topic ids.

    Raises BrokerUnreachable after `wait_s`.
    """
    async with admin_client(settings, wait_s) as client:
        try:
            return await describe(client, topics.all)
        except (NotImplementedError, IncompatibleBrokerVersion):
            return {}


def input_ids(topics: Topics, found: Mapping[str, Topic | None]) -> list[bytes]:
    """The ids of the input topics, in their order; empty if any of them is unknown."""
    inputs = [found.get(name) for name in topics.inputs]
    ids = [topic.id for topic in inputs if topic is not None and any(topic.id)]
    return ids if len(ids) == len(inputs) else []


async def describe(client: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, Topic | None]:
    """The topics of these names, None for a missing one. Topics about which the broker says nothing are left out."""
    answer = await client._send_request(TopicIds(names))
    found: dict[str, Topic | None] = {}
    for code, name, topic_id, _, partitions, *_ in answer.topics:
        if code == _UNKNOWN_TOPIC:
            found[name] = None
        elif code in (_OK, _LEADER_NOT_AVAILABLE):
            found[name] = Topic(topic_id, len(partitions))
    return found
