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

from stream_app.kafka.errors import RightsError
from stream_app.kafka.protocol.metadata import GroupRights, TopicRights

__all__ = ["Operation", "RightsError", "require_rights"]


class Operation(IntEnum):
    """What may be allowed on a topic or a group; the number is its bit in an answer."""

    READ = 3
    WRITE = 4
    DESCRIBE = 8


Needs = Mapping[str, Iterable[Operation]]


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
