"""Checks our rights (ACLs) in Kafka before they are needed (KIP-430), and names all that are missing."""

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

from stream_app.kafka.errors import RightsError
from stream_app.kafka.protocol.metadata import GroupRights, TopicRights

__all__ = ["Operation", "RightsError", "require_rights"]


class Operation(IntEnum):
    """An operation on a topic or a group; the number is its bit in the answers."""

    READ = 3
    WRITE = 4
    DESCRIBE = 8


Needs = Mapping[str, Iterable[Operation]]


async def require_rights(options: Mapping[str, Any], who: str, topics: Needs, group: str = "") -> None:
    """Raises RightsError, which names all missing rights. `options` are those of an aiokafka client.

    `who` describes us in the error. `topics` have their full names. A `group` needs READ on the group, and WRITE on
    the transactional ids that begin with its name. Topics that do not exist are not checked, and nothing is checked
    if the broker is older than Kafka 2.3. Raises KafkaError if the broker does not answer.
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
    except (IncompatibleBrokerVersion, NotImplementedError):  # the latter: no common version
        return
    finally:
        await client.close()
    if missing:
        raise RightsError(
            f"{who} lacks rights in Kafka: {', '.join(missing)}; grant them as docs/security.md shows"
        )


async def _missing_of_topics(client: AIOKafkaClient, topics: Needs) -> dict[str, list[Operation]]:
    answer = await client.send(client.get_random_node(), TopicRights(list(topics)))
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
        answer = await client.send(node, GroupRights(group))
    except GroupAuthorizationFailedError:
        return False
    except GroupCoordinatorNotAvailableError:  # no group in this cluster yet: the join will show
        return True
    code, *_, allowed = answer.groups[0]
    if code == GroupAuthorizationFailedError.errno:
        return False
    # With any other error, for example of a coordinator that is loading, the rights are unknown.
    return bool(code) or bool(allowed >> Operation.READ & 1)


async def _may_initialise(client: AIOKafkaClient, transactional_id: str) -> bool:
    try:
        await client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
    except TransactionalIdAuthorizationFailed:
        return False
    except GroupCoordinatorNotAvailableError:  # the cluster has had no transactional id yet
        return True
    return True
