"""The commit path with one deliberate mistake, to test that the simulation finds it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from aiokafka.protocol.transaction import InitProducerIdRequest
from faust.types import TP

from stream_app.worker.checkpoints import Checkpoints
from stream_app.worker.errors import UnansweredError
from stream_app.worker.pipeline import Pipeline
from stream_app.worker.producers import fenced_producer as fenced
from stream_app.worker.producers.partition_producers import PartitionProducers
from stream_app.worker.producers.transactional_producer import TransactionalProducer


@contextmanager
def offsets_before_state() -> Iterator[None]:
    """Source offsets are committed before the state is written."""
    write = Checkpoints._write_state

    async def write_state(self: Any, part: Any) -> bool:
        checkpoint, _ = part
        consumer = self._context.consumer
        consumer.done.update({TP(*tp): offset for tp, offset in self._offsets(checkpoint).items()})
        await consumer.commit()
        return await write(self, part)

    with patch.object(Checkpoints, "_write_state", write_state):
        yield


@contextmanager
def outputs_not_awaited() -> Iterator[None]:
    """State and offsets are written before the outputs are acknowledged."""
    make = Checkpoints._in_order

    async def in_order(self: Any) -> None:
        self.in_flight.clear()
        await make(self)

    with patch.object(Checkpoints, "_in_order", in_order):
        yield


@contextmanager
def producers_not_fenced() -> Iterator[None]:
    """Each producer gets its own id, so that no epoch distinguishes an earlier owner from a later one."""

    def nameless(_: str, timeout_ms: int) -> Any:
        return InitProducerIdRequest(None, timeout_ms)

    with patch.object(fenced, "InitProducerIdRequest", nameless):
        yield


@contextmanager
def end_sent_again() -> Iterator[None]:
    """The request that ends a transaction is sent again with the same epoch if it was not answered."""
    end = TransactionalProducer._end

    async def again(self: Any) -> None:
        while True:
            try:
                return await end(self)
            except UnansweredError:
                pass

    with patch.object(TransactionalProducer, "_end", again):
        yield


@contextmanager
def lost_producer_keeps_its_state() -> Iterator[None]:
    """After a lost transaction the producer gets a new epoch, but the state in memory stays."""

    async def keep(self: Any) -> None:
        if self._settled.is_set():
            await self._producers.open(self._checkpoints.lost())

    with patch.object(Pipeline, "_read_back_lost", keep):
        yield


@contextmanager
def outputs_outside_of_the_transaction() -> Iterator[None]:
    """With exactly_once, outputs are still sent immediately, outside the transaction."""
    with patch.object(Pipeline, "_producer", property(lambda self: self.app.producer)):
        yield


@contextmanager
def given_up_keeps_its_state() -> Iterator[None]:
    """A checkpoint is given up at a revoke, but the state in memory counts as saved."""
    with patch.object(PartitionProducers, "lose_all", lambda *_: None):
        yield
