"""What a Kafka cluster holds, and the sentence for one that does not answer."""

from collections.abc import Mapping, Sequence

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError

from stream_app.errors import BrokerUnreachable, TopicError


def unreachable(brokers: Sequence[str]) -> BrokerUnreachable:
    """The error for brokers of which none answers."""
    return BrokerUnreachable(
        f"no Kafka broker answers at {','.join(brokers)}: start one, for instance with "
        "`foreclick broker start`, or set FORECLICK_BROKERS"
    )


async def partition_counts(brokers: Sequence[str]) -> dict[str, int]:
    """How many partitions each topic has; raises `BrokerUnreachable` where no broker answers."""
    client = AIOKafkaAdminClient(bootstrap_servers=list(brokers))
    try:
        await client.start()
        # All topics are asked for: asking by name would make a missing one where the broker does that.
        return {each["topic"]: len(each["partitions"]) for each in await client.describe_topics()}
    except (KafkaConnectionError, KafkaTimeoutError) as error:
        raise unreachable(brokers) from error
    finally:
        await client.close()


def require(counts: Mapping[str, int], topic: str, partitions: int = 1) -> int:
    """How many partitions the topic has; raises `TopicError` where it is missing or has less than needed."""
    have = counts.get(topic)
    if have is None:
        raise TopicError(f"topic {topic} is missing: run `foreclick topics --create`")
    if have < partitions:
        raise TopicError(
            f"topic {topic} has {have} partitions but the recording has {partitions}: "
            f"make it anew with {partitions}, or use another FORECLICK_TOPIC_PREFIX"
        )
    return have
