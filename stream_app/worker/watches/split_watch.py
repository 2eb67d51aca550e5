"""Says that users have events in more than one partition."""

from stream_app.ops.health import Health
from stream_app.ops.logging import get_logger
from stream_app.ops.metrics import Metrics
from stream_app.processing.processor import Processor
from stream_app.state.split import SplitUsers

log = get_logger(__name__)


class SplitWatch:
    """Counts such users, and warns of the first one. Used in the processor's thread."""

    def __init__(self, processor: Processor, metrics: Metrics, health: Health) -> None:
        self._users = SplitUsers(processor.rows, len(processor.watermark))
        self._metrics, self._health = metrics, health
        self._count = 0

    def look(self) -> None:
        """Looks at the users that are new; call it about once a second."""
        found = self._users.look()
        if not found:
            return
        if not self._count:
            user, partitions = found[0].user, found[0].partitions
            log.warning(
                "a user has events in more than one partition, so their state is in pieces: let all producers place "
                "keys by the same partitioner (of librdkafka: partitioner=murmur2_random)",
                user_id=user,
                partitions=list(partitions),
            )
        self._count += len(found)
        self._metrics.split_users.inc(len(found))
        self._health.set_split_users(self._count)
