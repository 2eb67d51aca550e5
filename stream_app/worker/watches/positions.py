"""What the state and the group's offsets make of each other, looked at now and then."""

import structlog
from faust.types import TP

from stream_app.state.topic_identity import HeldBackRecords, StateAheadOfLog, compare
from stream_app.worker.context import WorkerContext

log = structlog.stdlib.get_logger(__name__)


class Positions:
    """Compares the positions of an processor's partitions with the logs and with the group's offsets."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._behind, self._held = StateAheadOfLog(), HeldBackRecords()

    def forget(self) -> None:
        """Partitions have changed hands."""
        self._behind.forget()
        self._held.forget()
        self._context.health.set_held_back()

    def look(self) -> None:
        """Says what differs. Raises TopicError where a log ends before the state; call it about once a second.

        Offsets that were put back lie before records that are passed over: they are committed again where the state
        stands, or lag would count those records until the next event.
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
                self._context.metrics.held_back.labels(topic, str(partition)).set(waiting)
                if waiting and seconds >= longest[2]:
                    longest = f"{topic}-{partition}", waiting, seconds
        self._context.health.set_held_back(*longest)
        self.compare()

    def compare(self) -> None:
        """Says once of each state that was read back how the group's offsets of that time differ from it.

        To be called before those offsets are asked for again: by then this worker may have committed more.
        """
        consumer, processor = self._context.consumer, self._context.processor
        for partition in processor.partitions:
            places = {topic: TP(topic, partition) for topic in self._context.topics.inputs}
            if not processor.is_restored(partition) or not processor.is_fresh(partition):
                continue
            if consumer.found.keys() >= set(places.values()):
                offsets = {topic: consumer.found[tp] for topic, tp in places.items()}
                told = compare(partition, self._context.topics.inputs, processor.written(partition), offsets)
                for sentence in told.sentences:
                    log.warning(sentence)
                processor.compared(partition, told.again)
