"""Which rights (ACLs) we have in Kafka, asked before they are needed (KIP-430): all that are missing are named."""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    IncompatibleBrokerVersion,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.protocol.admin import DescribeGroupsRequest_v0, DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from stream_app.kafka.errors import RightsError

__all__ = ["Operation", "RightsError", "require_rights"]

_TEXT = String("utf-8")


class Operation(IntEnum):
    """What may be allowed on a topic or a group; the number is its bit in an answer."""

    READ = 3
    WRITE = 4
    DESCRIBE = 8


Needs = Mapping[str, Iterable[Operation]]


class _MetadataResponse(Response):
    API_KEY, API_VERSION = 3, 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT))),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", _TEXT),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _MetadataStruct(RequestStruct):
    API_KEY, API_VERSION = 3, 8
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        ("topics", Array(_TEXT)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _Topics(Request[_MetadataStruct]):
    """Asks what we may do with topics, without making those that are missing."""

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request: type[_MetadataStruct]) -> _MetadataStruct:
        return request(self._topics, False, False, True)


class _GroupStruct(RequestStruct):
    API_KEY, API_VERSION = 15, 3
    RESPONSE_TYPE = DescribeGroupsResponse_v3  # aiokafka's own request takes the answer for one of version 2
    SCHEMA = Schema(("groups", Array(_TEXT)), ("include_authorized_operations", Boolean))


class _Group(Request[_GroupStruct]):
    """Asks what we may do with a group; it need not be there."""

    API_KEY = DescribeGroupsRequest_v0.API_KEY

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request: type[_GroupStruct]) -> _GroupStruct:
        return request([self._group], True)


async def require_rights(options: Mapping[str, Any], who: str, topics: Needs, group: str = "") -> None:
    """Raise RightsError, which names all rights that are missing; `options` are those of an aiokafka client.

    `who` we are, in words; `topics` by full name; for `group` READ is needed, and WRITE on the transactional ids that
    begin with its name. Topics that do not exist are passed
    over, and so is the whole question where the broker is older than Kafka 2.3. Raises KafkaError where the broker
    does not answer.
    """
    client = AIOKafkaClient(**options)
    try:
        await client.bootstrap()
        missing = [
            f"{operation.name.capitalize()} on topic {topic}"
            for topic, operations in (await _missing_of_topics(client, topics)).items()
            for operation in operations
        ]
        if group and not await _may_read_group(client, group):
            missing.append(f"Read on group {group}")
        if group and not await _may_initialise(client, f"{group}-0"):
            missing.append(f"Write on transactional ids {group}-*")
    except (IncompatibleBrokerVersion, NotImplementedError):  # the latter: no version in common
        return
    finally:
        await client.close()
    if missing:
        raise RightsError(
            f"{who} lacks rights in Kafka: {', '.join(missing)}; grant them as docs/security.md shows"
        )


async def _missing_of_topics(client: AIOKafkaClient, topics: Needs) -> dict[str, list[Operation]]:
    answer = await client.send(client.get_random_node(), _Topics(list(topics)))
    missing = {}
    for code, topic, _, _, allowed in answer.topics:
        if code == TopicAuthorizationFailedError.errno:
            missing[topic] = list(topics[topic])
        elif code == 0:
            missing[topic] = [each for each in topics[topic] if not allowed >> each & 1]
    return missing


async def _may_read_group(client: AIOKafkaClient, group: str) -> bool:
    try:
        node = await client.coordinator_lookup(CoordinationType.GROUP, group)
        answer = await client.send(node, _Group(group))
    except GroupAuthorizationFailedError:
        return False
    except GroupCoordinatorNotAvailableError:  # nobody has had a group in this cluster yet: joining will tell
        return True
    code, *_, allowed = answer.groups[0]
    if code == GroupAuthorizationFailedError.errno:
        return False
    # With another error, say of a coordinator that is loading, nothing is known.
    return bool(code) or bool(allowed >> Operation.READ & 1)


async def _may_initialise(client: AIOKafkaClient, transactional_id: str) -> bool:
    try:
        await client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
    except TransactionalIdAuthorizationFailed:
        return False
    except GroupCoordinatorNotAvailableError:  # nobody has had such an id in this cluster yet
        return True
    return True
