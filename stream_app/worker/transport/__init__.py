"""A transport driver for Faust that hands an agent whole record batches instead of single records.

Chosen by the URL scheme (`broker="batch://host:9092"`) through the entry point group `faust.transports`.
An agent's event then holds a `FetchedBatch`: everything that one fetch returned for one partition. Offsets are not
acknowledged per message: the application moves `consumer.done[tp]` once the work below that offset is durable, and
Faust's own commit path commits it. The app needs `value_serializer="raw"`, since Faust cannot decode a batch.
"""

from faust.transport.drivers import aiokafka as driver

from stream_app.worker.transport.assignor import CopartitionedAssignor
from stream_app.worker.transport.consumer import BatchConsumer
from stream_app.worker.transport.consumer_thread import FetchedBatch
from stream_app.worker.transport.producer import BatchProducer

__all__ = ["BatchConsumer", "BatchProducer", "CopartitionedAssignor", "FetchedBatch", "Transport"]


class Transport(driver.Transport):
    """aiokafka transport with a batching consumer and a producer that sends ready-made batches."""

    Consumer = BatchConsumer
    Producer = BatchProducer
