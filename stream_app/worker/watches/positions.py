"""Compares the state with the group's offsets from time to time."""

import structlog
from faust.types import TP

from stream_app.state.topic_identity import RecordsBehindOpenTransaction, StateAheadOfLog, compare
from stream_app.worker.context import WorkerContext

log = structlog.stdlib.get_logger(__name__)


class Positions:
    """Compares the positions of the processor's partitions with the logs and with the group's offsets."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._behind, self._held = StateAheadOfLog(), RecordsBehindOpenTransaction()

    def forget(self) -> None:
        """Forgets everything, because partitions have changed hands."""
        self._behind.forget()
        self._held.forget()
        self._context.health.set_behind_open_transaction()

    def look(self) -> None:
        """Logs the differences. Raises TopicError if a log ends before the state; call it about once a second.

        If the group's offsets were reset to before the state, the records in between are skipped. The position of the
        state is then committed again, because lag would otherwise count those records until the next event.
        """
        consumer, processor = self._context.consumer, self._context.processor
        longest: tuple[str, int, float] = ("", 0, 0.0)
        for partition in processor.partitions:
            if not processor.is_restored(partition):
                continue
            places = {topic: TP(topic, partition) for topic in self._context.topics.inputs}
            positions = processor.merge(partition).positions
            for (topic, tp), position in zip(places.items(), positions, strict=True):
                end = consumer.log_end(tp)
                self._behind.look(topic, partition, position, end)
                waiting, seconds = self._held.look(topic, partition, end)
                self._context.metrics.behind_open_transaction.labels(topic, str(partition)).set(waiting)
                if waiting and seconds >= longest[2]:
                    longest = f"{topic}-{partition}", waiting, seconds
        self._context.health.set_behind_open_transaction(*longest)
        self.compare()

    def compare(self) -> None:
        """Logs how the group's offsets differ from the state, once for each state that was read back.

        Call it before the group's offsets are asked for again, because by then this worker may have committed more.
        """
        consumer, processor = self._context.consumer, self._context.processor
        for partition in processor.partitions:
            places = {topic: TP(topic, partition) for topic in self._context.topics.inputs}
            if not processor.is_restored(partition) or not processor.is_fresh(partition):
                continue
            if consumer.found.keys() >= set(places.values()):
                offsets = {topic: consumer.found[tp] for topic, tp in places.items()}
                comparison = compare(
                    partition, self._context.topics.inputs, processor.written(partition), offsets
                )
                for sentence in comparison.sentences:
                    log.warning(sentence)
                processor.compared(partition, comparison.again)
