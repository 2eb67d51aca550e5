"""What the state and the group's offsets make of each other, looked at now and then."""

import faust
from faust.types import TP

from stream_app.ops.health import Health, HeldFor
from stream_app.ops.logging import get_logger
from stream_app.ops.metrics import Metrics
from stream_app.processing.processor import Processor
from stream_app.settings import Settings
from stream_app.state.topic_identity import HeldBackRecords, StateAheadOfLog, compare
from stream_app.worker.transport.consumer import BatchConsumer

log = get_logger(__name__)


class Positions:
    """Compares the positions of a processor's partitions with the logs and with the group's offsets."""

    def __init__(
        self, app: faust.App, settings: Settings, processor: Processor, metrics: Metrics, health: Health
    ) -> None:
        self._app, self._inputs, self._processor = app, settings.inputs, processor
        self._metrics, self._health = metrics, health
        self._behind, self._held = StateAheadOfLog(), HeldBackRecords()

    def forget(self) -> None:
        """Partitions have changed hands."""
        self._behind.forget()
        self._held.forget()
        self._health.set_held_back(None)

    def look(self) -> None:
        """Says what differs. Raises TopicError where a log ends before the state; call it about once a second.

        Offsets that were put back lie before records that are passed over: they are committed again where the state
        stands, or lag would count those records until the next event.
        """
        consumer: BatchConsumer = self._app.consumer
        longest: HeldFor | None = None
        for partition in self._processor.partitions:
            if not self._processor.is_restored(partition):
                continue
            places = {topic: TP(topic, partition) for topic in self._inputs}
            positions = self._processor.merge(partition).positions
            for (topic, tp), position in zip(places.items(), positions, strict=True):
                end = consumer.log_end(tp)
                self._behind.look(topic, partition, position, end)
                waiting, seconds = self._held.look(topic, partition, end)
                self._metrics.held_back.labels(topic, str(partition)).set(waiting)
                if waiting and (longest is None or seconds > longest.seconds):
                    longest = HeldFor(f"{topic}-{partition}", waiting, seconds)
        self._health.set_held_back(longest)
        self.compare()

    def compare(self) -> None:
        """Says once of each state that was read back how the group's offsets of that time differ from it.

        To be called before those offsets are asked for again: by then this worker may have committed more.
        """
        consumer: BatchConsumer = self._app.consumer
        for partition in self._processor.partitions:
            places = {topic: TP(topic, partition) for topic in self._inputs}
            if not self._processor.is_restored(partition) or not self._processor.is_fresh(partition):
                continue
            if consumer.found.keys() >= set(places.values()):
                offsets = {topic: consumer.found[tp] for topic, tp in places.items()}
                told = compare(partition, self._inputs, self._processor.written(partition), offsets)
                for sentence in told.sentences:
                    log.warning(sentence)
                self._processor.compared(partition, told.again)
