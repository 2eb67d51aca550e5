"""The partitions of a cluster's topics, compared with those of a recording."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, NodeNotReadyError

from stream_app.kafka.errors import TopicError
from stream_app.kafka.security import explain, require_rights
from stream_app.kafka.security.rights import Operation
from stream_app.kafka.topic_problems import missing
from stream_app.kafka.waiting import waiting_for


async def partition_counts(
    brokers: Sequence[str], security: Mapping[str, Any], topics: Iterable[str], operation: Operation
) -> dict[str, int]:
    """The number of partitions of each topic that we may see.

    Raises `RightsError` if we may not do the operation on one of `topics`, `BrokerUnreachable` if no broker answers,
    `SecurityError` if the connection or the login is refused.
    """
    client = AIOKafkaAdminClient(bootstrap_servers=list(brokers), **security)
    try:
        with waiting_for(brokers):
            await client.start()
        options = {"bootstrap_servers": list(brokers), **security}
        await require_rights(options, "this client", dict.fromkeys(topics, (operation,)))
        # Ask for all topics: to ask for a name would create the topic on a broker that creates topics automatically.
        return {each["topic"]: len(each["partitions"]) for each in await client.describe_topics()}
    except (KafkaConnectionError, KafkaTimeoutError, NodeNotReadyError) as error:
        raise await explain(brokers, security) from error
    finally:
        await client.close()


def require_all(counts: Mapping[str, int], topics: Sequence[str]) -> None:
    """Raises `TopicError` with all topics that are missing."""
    absent = [topic for topic in topics if topic not in counts]
    if absent:
        raise TopicError(missing(absent))


def require(counts: Mapping[str, int], topic: str, partitions: int = 1) -> int:
    """The number of partitions of the topic. Raises `TopicError` if it is missing or has too few."""
    have = counts.get(topic)
    if have is None:
        raise TopicError(missing([topic]))
    if have < partitions:
        raise TopicError(
            f"topic {topic} has {have} partitions but the recording has {partitions}: "
            f"create it again with {partitions}, or use another FORECLICK_TOPIC_PREFIX"
        )
    return have


def require_alike(
    counts: Mapping[str, int], prefix: str, recorded: Mapping[str, int], repartition: bool
) -> None:
    """Raises `TopicError` if a topic is missing, or has another number of partitions than the recording."""
    require_all(counts, [prefix + topic for topic in recorded])
    for topic, partitions in recorded.items():
        have = counts[prefix + topic]
        if have != partitions and not repartition:
            raise TopicError(
                f"topic {prefix + topic} has {have} partitions but the recording has {partitions}, so keys would be "
                "in other partitions than a producer chooses: give --repartition to place the records by their keys, "
                "or use another FORECLICK_TOPIC_PREFIX"
            )
