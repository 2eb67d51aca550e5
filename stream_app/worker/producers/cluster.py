"""The Kafka client that all partition producers of a worker share: connections, leaders, coordinators."""

import asyncio
from collections.abc import Iterable
from typing import Any

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaError,
    NodeNotReadyError,
    NoError,
    StaleMetadata,
    for_code,
)

from stream_app.kafka.protocol.transactions import ApiVersions, transaction_version
from stream_app.worker.errors import NotSentError, UnansweredError

TRANSACTION = CoordinationType.TRANSACTION
GROUP = CoordinationType.GROUP
#: Seconds between two attempts.
BACKOFF_S = 0.02


class Cluster:
    """One client for many transactional ids."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client
        self._coordinators: dict[tuple[CoordinationType, str], int] = {}
        #: Whether transactions use the second form of the protocol (see `kafka.protocol.transactions`).
        self.implicit = False

    async def start(self, topics: Iterable[str]) -> None:
        """Connects, and finds out which form of transactions the cluster uses. Raises KafkaError."""
        await self._client.bootstrap()
        await self._client.set_topics(list(topics))
        try:
            versions = await self._client.send(self._client.get_random_node(), ApiVersions())
        except (NotImplementedError, IncompatibleBrokerVersion):
            return  # older than Kafka 2.4
        self.implicit = transaction_version(versions) >= 2

    async def stop(self) -> None:
        """Disconnects."""
        await self._client.close()

    def leader(self, tp: TopicPartition) -> int:
        """The node that leads a partition. Raises NotSentError if none does."""
        node: int | None = self._client.cluster.leader_for_partition(tp)
        if node is None or node < 0:
            raise NotSentError(f"no broker leads {tp.topic}-{tp.partition}")
        return node

    async def refresh(self) -> None:
        """Asks for the leaders again."""
        await self._client.force_metadata_update()

    async def coordinator(self, coordinator_type: CoordinationType, key: str) -> int:
        """The node that coordinates a transactional id or a group. Raises NotSentError."""
        node = self._coordinators.get((coordinator_type, key))
        if node is None:
            try:
                node = await self._client.coordinator_lookup(coordinator_type, key)
            except KafkaError as error:
                if not error.retriable:
                    raise
                await self.refresh()
                raise NotSentError(f"no coordinator for {key} ({error!r})") from error
            self._coordinators[coordinator_type, key] = node
        return node

    def forget_coordinator(self, coordinator_type: CoordinationType, key: str) -> None:
        """Forgets the coordinator of a key, because it has changed or cannot be reached."""
        self._coordinators.pop((coordinator_type, key), None)

    async def ask(self, node: int, request: Any, *, of_coordinator: bool = False) -> Any:
        """Sends a request and returns the answer. Raises NotSentError or UnansweredError."""
        group = ConnectionGroup.COORDINATION if of_coordinator else ConnectionGroup.DEFAULT
        try:
            return await self._client.send(node, request, group=group)
        except (NodeNotReadyError, StaleMetadata) as error:
            await asyncio.sleep(BACKOFF_S)
            raise NotSentError(f"no connection to broker {node}") from error
        except IncompatibleBrokerVersion:
            raise
        except (TimeoutError, KafkaError, OSError) as error:
            raise UnansweredError(f"broker {node} did not answer ({error!r})") from error


def name_of(code: int) -> str:
    """The name of an error code."""
    error = for_code(code)
    return error.__name__ if error is not NoError else "no error"
