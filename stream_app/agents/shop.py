"""The topology on one screen: topics, agent, pages."""

from typing import Any

import faust
from faust.types import EventT, StreamT
from yarl import URL

from model.serving.api import Runtime
from stream_app.kafka.record_batches.size_limits import SizeLimits
from stream_app.kafka.record_batches.truncation import cut_dead_letter, cut_prediction
from stream_app.ops.health import Health
from stream_app.ops.metrics import Metrics
from stream_app.ops.web import add_pages, web_options
from stream_app.processing.processor import Processor
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.settings import Settings
from stream_app.worker.context import WorkerContext
from stream_app.worker.no_tables import NoTables
from stream_app.worker.options import WorkerOptions
from stream_app.worker.pipeline import Pipeline
from stream_app.worker.producers.partition_producers import PartitionProducers
from stream_app.worker.transport.credentials import faust_credentials

#: Faust's own commit timer and its watchdog are not needed: the pipeline commits after each checkpoint.
_NEVER_S = 10 * 365 * 86_400.0


def create_app(settings: Settings, runtime: Runtime | None, *, partitions: int) -> faust.App:
    """The Faust app of a worker; `partitions` is how many each input topic has.

    The pipeline is at `app.pipeline`.
    """
    return app_around(
        settings, ShopProcessor(settings, runtime, partitions=partitions), partitions=partitions
    )


def app_around(settings: Settings, processor: Processor, *, partitions: int) -> faust.App:
    """The Faust app that drives a processor. The pipeline is at `app.pipeline`."""
    topics = processor.topics
    app = faust.App(
        settings.group,
        broker=[URL(f"batch://{broker}") for broker in settings.brokers],
        broker_credentials=faust_credentials(settings),
        store=URL("memory://"),
        datadir=settings.data_dir,
        TableManager=NoTables,
        key_serializer="raw",
        value_serializer="raw",
        topic_partitions=partitions,
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_recovery_delay=0,
        stream_wait_empty=True,
        broker_commit_interval=_NEVER_S,
        consumer_group_instance_id=settings.instance_id or None,
        broker_session_timeout=settings.session_timeout_ms / 1000,
        broker_heartbeat_interval=settings.heartbeat_ms / 1000,
        broker_rebalance_timeout=settings.session_timeout_ms / 1000,
        broker_request_timeout=max(40.0, settings.session_timeout_ms / 1000),
        producer_compression_type=None if settings.compression == "none" else settings.compression,
        **web_options(settings),
    )
    app.gather_s = settings.max_delay_ms / 1000  # these are for the transport
    app.standby_replicas = settings.standby_replicas
    app.output_topics = tuple(topics.outputs.values()) if settings.guarantee == "at_least_once" else ()
    metrics = Metrics()
    app.size_limits = SizeLimits(
        {topics.outputs["predictions"]: cut_prediction, topics.outputs["dead-letters"]: cut_dead_letter},
        lambda topic: metrics.cut_outputs.labels(topic).inc(),
    )
    options = WorkerOptions.of(settings)
    app.health = Health(settings.ready_max_age_ms)
    context = WorkerContext(app, processor, metrics, app.health)
    producers = PartitionProducers(options.producers, topics, app.size_limits)
    app.pipeline = pipeline = Pipeline(context, options, producers)

    events = app.topic(*topics.inputs, key_serializer=None, value_serializer=None)

    @app.agent(events)
    async def process(stream: StreamT[Any]) -> None:
        """Whole record batches of clicks, browses and purchases."""
        event: EventT[Any]
        async for event in stream.events():
            await pipeline.receive(event.value)

    app.on_partitions_assigned.connect(pipeline.on_assigned)
    app.on_partitions_revoked.connect(pipeline.on_revoked)
    app.on_before_shutdown.connect(pipeline.before_shutdown)
    app.service(pipeline)
    add_pages(app, pipeline, settings)
    return app
