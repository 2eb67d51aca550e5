"""A worker's membership: aiokafka's coordination, Faust's way through a rebalance, the transport's own consumer."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service

from stream_app.worker.transport.consumer import BatchConsumer
from stream_app.worker.transport.consumer_thread import BatchConsumerThread
from tests.simulation.broker import Broker
from tests.simulation.consumer import SimConsumer
from tests.simulation.network import Link

_BACKOFF_S = 0.1


class Coordination:
    """aiokafka's group coordinator: heartbeats, and a rebalance whenever the group requires one."""

    def __init__(
        self, broker: Broker, link: Link, consumer: SimConsumer, topics: tuple[str, ...], listener: Any
    ) -> None:
        """`listener` is called when partitions are revoked or assigned."""
        self.group_id, self.generation, self.member_id = "g", -1, ""
        self._group_instance_id = None
        self._broker, self._link, self._consumer, self._topics, self._listener = (
            broker, link, consumer, topics, listener,
        )  # fmt: skip
        self._rejoin = True

    async def run(self, heartbeat_s: float) -> None:
        """Run as long as the process lives."""
        prepared = False
        while True:
            if not self._rejoin:
                ok = await self._do_heartbeat()
                await asyncio.sleep(heartbeat_s if ok else _BACKOFF_S)
                continue
            if not prepared:
                await self._while_alive(self._listener.on_partitions_revoked(self._consumer.assignment()))
                prepared = True
            if await self._join():
                prepared = False

    async def _while_alive(self, callback: Any) -> None:
        """Send heartbeats while partitions are being revoked too."""
        work = asyncio.ensure_future(callback)
        while not (await asyncio.wait([work], timeout=1.0))[0]:
            if self.member_id:
                await self._do_heartbeat()
        await work

    async def _join(self) -> bool:
        try:
            code, name, generation, numbers, standbys = await self._link.ask(
                lambda reply: self._broker.group.join(self.member_id, lambda *all_: reply(all_)),
                lambda _: (14, "", -1, [], []),
            )
        except KafkaError:
            await asyncio.sleep(_BACKOFF_S)
            return False
        if code:
            if code != 14:
                self.reset_generation()
            await asyncio.sleep(_BACKOFF_S)
            return False
        self._rejoin = False
        self.member_id, self.generation = name, generation
        assigned = {TP(topic, p) for topic in self._topics for p in numbers}
        self._consumer.assign(assigned)
        self._listener.consumer._thread.assignor.standbys = standbys
        await self._listener.on_partitions_assigned(assigned)
        return True

    async def _do_heartbeat(self) -> bool:
        name, generation = self.member_id, self.generation
        try:
            code = await self._link.ask(
                lambda reply: reply(self._broker.group.heartbeat(name, generation)), lambda _: 14
            )
        except KafkaError:
            return False
        if code in (22, 25, 27):
            self.refused(code)
        return code in (0, 27)

    def refused(self, code: int) -> None:
        """React to an error code: the group does not accept this member or its generation."""
        if code == 27:
            self._rejoin = True
        else:
            self.reset_generation()

    def reset_generation(self) -> None:
        """Make this a new member, which has to join."""
        self.generation, self.member_id, self._rejoin = -1, "", True


class _BaseThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread without a thread."""

    def __init__(self, consumer: Any, loop: Any = None, beacon: Any = None) -> None:
        self.consumer, self.transport, self.app = consumer, consumer.transport, consumer.transport.app
        self.parent_loop = self.thread_loop = asyncio.get_running_loop()
        Service.__init__(self, beacon=beacon)
        self._consumer = self.app.sim_consumer
        self.assignor: Any = SimpleNamespace(standbys=[])  # the only part of the transport's that is used
        self.tp_last_committed_at: dict[TP, float] = {}

    def __post_init__(self) -> None: ...

    async def on_start(self) -> None: ...

    async def call_thread(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        made = fun(*args, **kwargs)
        return await made if asyncio.iscoroutine(made) else made

    async def crash(self, reason: BaseException) -> None:
        await self.app.crash(reason)

    async def _fetch_records(
        self, consumer: Any, active_partitions: Any, timeout: Any = None, max_records: Any = None
    ) -> Any:
        if not self.consumer.flow_active:
            return {}
        return await consumer.fetched_records(active_partitions, timeout)


class Thread(BatchConsumerThread, _BaseThread):
    """The transport's thread, based on the one above."""


class Consumer(BatchConsumer):
    """The transport's consumer."""

    def _new_consumer_thread(self) -> Any:
        return Thread(self, beacon=self.beacon)


class App:
    """The part of a Faust app that the pipeline and the consumer use, and its handling of a rebalance."""

    def __init__(
        self, name: str, settings: Any, sim_consumer: SimConsumer, producer: Any, on_crash: Any
    ) -> None:
        self.name, self.settings, self.sim_consumer, self.producer = name, settings, sim_consumer, producer
        self.conf = SimpleNamespace(
            id=settings.group,
            broker_session_timeout=settings.session_timeout_ms / 1000,
            broker_commit_every=None,
            broker_commit_interval=1e9,
            broker_commit_livelock_soft_timeout=1e9,
            broker_request_timeout=40.0,
            stream_wait_empty=True,
            ConsumerScheduler=lambda: None,
            consumer_group_instance_id=None,
        )
        self.consumer_generation_id = 0
        self.crash_reason: BaseException | None = None
        self.rebalancing = False
        self.should_stop = self.client_only = self.in_transaction = False
        self.gather_s = settings.max_delay_ms / 1000
        self._on_crash = on_crash
        nothing: Any = lambda *_, **__: None  # noqa: E731
        self.sensors = SimpleNamespace(
            on_message_in=nothing, on_commit_initiated=nothing, on_commit_completed=nothing
        )
        self.tracer = None
        self._attachments = SimpleNamespace(publish_for_tp_offset=self._no_attachments)
        transport = SimpleNamespace(app=self, create_transaction_manager=nothing)
        self.consumer: Any = Consumer(
            transport, self._deliver, self._on_partitions_revoked, self._on_partitions_assigned
        )
        self.pipeline: Any = None
        self.agents: dict[str, Any] = {}
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._busy = False
        self._ending: asyncio.Task[None] | None = None

    @staticmethod
    async def _no_attachments(*_: Any) -> list[Any]:
        return []

    def _start_span_from_rebalancing(self, _: str) -> Any:
        from faust.utils.tracing import noop_span

        return noop_span()

    def on_rebalance_return(self) -> None: ...

    async def crash(self, reason: BaseException) -> None:
        """End the worker."""
        if self.crash_reason is None:
            self.crash_reason = reason
            self._on_crash(reason)

    # --- the agent

    async def _deliver(self, message: Any) -> None:
        self.consumer.track_message(message)
        self._queue.put_nowait(message)

    async def agent(self) -> None:
        """Pass records to the pipeline."""
        while True:
            message = await self._queue.get()
            if not self.consumer.flow_active:  # flow control holds the records, and drops them at a rebalance
                self.consumer.ack(message)
                continue
            self._busy = True
            await self.pipeline.receive(message.value)
            self._busy = False
            self.consumer.ack(message)

    async def drain(self) -> None:
        """Run the transport's loop."""
        await self.consumer._drain_messages(SimpleNamespace(_stopped=asyncio.Event()))

    def _clear(self) -> None:
        while not self._queue.empty():
            self.consumer.ack(self._queue.get_nowait())

    # --- rebalances, in Faust's order

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Handle the first call of aiokafka in a rebalance."""
        self.rebalancing = True
        await self.consumer.on_partitions_revoked({TP(*tp) for tp in revoked})

    async def _on_partitions_revoked(self, revoked: set[TP]) -> None:
        try:
            assignment = self.consumer.assignment()
            if assignment:
                self.consumer.stop_flow()
                self.consumer.pause_partitions(assignment)
                self._clear()
                while self._busy:
                    await asyncio.sleep(0.01)
                await self.consumer.wait_empty()
            await self.pipeline.on_revoked(self, revoked)
        except Exception as error:
            await self.crash(error)

    async def on_partitions_assigned(self, assigned: set[TP]) -> None:
        """Handle the second call of aiokafka in a rebalance."""
        generation = self.sim_consumer._coordinator.generation
        self.consumer_generation_id = generation
        await self.consumer.on_partitions_assigned(assigned, generation)

    async def _on_partitions_assigned(self, assigned: set[TP], generation: int = 0) -> None:
        try:
            await asyncio.sleep(0)
            self.consumer.pause_partitions(assigned)
            # Faust runs the recovery of its tables (there are none here) parallel to the signal.
            if self._ending is not None:
                self._ending.cancel()
            self._ending = asyncio.create_task(self._end_rebalance(generation))
            await self.pipeline.on_assigned(self, assigned)
        except Exception as error:
            await self.crash(error)

    async def _end_rebalance(self, generation: int) -> None:
        try:
            await asyncio.sleep(0)
            if self.consumer_generation_id != generation:
                return
            assignment = self.consumer.assignment()
            if assignment:
                self.consumer.resume_partitions(assignment)
                await self.consumer.perform_seek()
            self._clear()
            self.consumer.resume_flow()
            self.rebalancing = False
        except Exception as error:
            await self.crash(error)
