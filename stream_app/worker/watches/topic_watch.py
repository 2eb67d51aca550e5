"""Checks that the topics remain the ones that a worker started with.

A Kafka client does not notice any of these changes. An input that was deleted just delivers nothing more; one that
was deleted and created again has other records at offsets that the state counts as applied, so they would be skipped;
and added partitions move users away from their state. An output that was created again does no harm.
"""

import asyncio
import contextlib
from collections.abc import Container, Mapping
from typing import Any

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from mode import Service

from stream_app.kafka.errors import TopicError
from stream_app.kafka.topic_ids import Topic, describe
from stream_app.state.topic_identity import made_again
from stream_app.worker.context import WorkerContext

log = structlog.stdlib.get_logger(__name__)

#: Seconds between two checks.
LOOK_EVERY_S = 3.0
#: Consecutive checks that must find the same problem: a broker that has just started may not know all topics yet.
LOOKS = 3


class TopicWatch(Service):
    """Stops the worker with a TopicError once a topic was deleted, created again or given more partitions.

    Topics that are missing at the start are not checked.
    """

    mundane_level = "debug"  # of "Starting..." and "Stopping..."

    def __init__(
        self, context: WorkerContext, client: Mapping[str, Any], first: Mapping[str, Topic | None]
    ) -> None:
        """`client`: brokers and security. `first`: the topics before the worker started, empty if unknown."""
        super().__init__(loop=context.app.loop, beacon=context.app.beacon)
        self._app, self._client, self._first = context.app, client, first
        topics = context.topics
        self._names = topics.all
        self._kept = frozenset([*topics.inputs, topics.changelog])

    @Service.task
    async def _watch(self) -> None:
        first = self._as_started(self._first)
        before, seen = "", 0
        client = AIOKafkaAdminClient(**self._client)
        started = False
        try:
            while not self.should_stop:
                # If the broker does not answer, the consumer and the producer deal with it.
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
        # Topics may have got more partitions between the start and this check.
        partitions = self._app.conf.topic_partitions
        return {
            name: topic._replace(partitions=partitions) for name, topic in found.items() if topic is not None
        }


def changes(first: Mapping[str, Topic], now: Mapping[str, Topic | None], kept: Container[str]) -> list[str]:
    """The changes since `first`, one sentence each.

    `now` lacks topics about which the broker did not answer. The topics in `kept` must have the same id, not only the
    same name.
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
