"""What the parts of a pipeline share."""

from dataclasses import dataclass

import faust

from stream_app.contract.topics import Topics
from stream_app.ops.health import Health
from stream_app.ops.metrics import Metrics
from stream_app.processing.processor import Processor
from stream_app.worker.transport.consumer import BatchConsumer


@dataclass(frozen=True)
class WorkerContext:
    """What every part of a pipeline may use."""

    app: faust.App
    processor: Processor
    metrics: Metrics
    health: Health

    @property
    def topics(self) -> Topics:
        """The topics of the processor."""
        return self.processor.topics

    @property
    def consumer(self) -> BatchConsumer:
        """The consumer of the app, which exists once the app has started."""
        return self.app.consumer
