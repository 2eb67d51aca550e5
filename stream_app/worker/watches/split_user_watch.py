"""Warns of users with events in more than one partition."""

import structlog

from stream_app.worker.context import WorkerContext
from stream_app.worker.watches.split_user_finder import SplitUsers

log = structlog.stdlib.get_logger(__name__)


class SplitWatch:
    """Counts such users, and warns of the first one. Used in the thread that owns the rows."""

    def __init__(self, context: WorkerContext) -> None:
        self._users = SplitUsers(context.processor.rows, len(context.processor.watermark))
        self._metrics, self._health = context.metrics, context.health
        self._count = 0

    def look(self) -> None:
        """Checks the users that are new; call it about once per second."""
        found = self._users.look()
        if not found:
            return
        if not self._count:
            user, partitions = found[0].user, found[0].partitions
            log.warning(
                "a user has events in more than one partition, so their state is split: let all producers use the "
                "same partitioner (librdkafka: partitioner=murmur2_random)",
                user_id=user,
                partitions=list(partitions),
            )
        self._count += len(found)
        self._metrics.split_users.inc(len(found))
        self._health.set_split_users(self._count)
