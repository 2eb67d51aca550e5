"""aiokafka's consumer, on the model: positions, fetches of committed records, offsets of the group."""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaConnectionError, KafkaError

from stream_app.contract.record_columns import RecordColumns
from tests.simulation.broker import Broker
from tests.simulation.network import Link, Reply

_BACKOFF_S = 0.1
_POLL_S = 0.01


class _State:
    """The state of one partition of a consumer."""

    def __init__(self) -> None:
        self.position = -1
        self.lso: int | None = None
        self.highwater = 0
        self.timestamp: int | None = None

    @property
    def has_valid_position(self) -> bool:
        return self.position >= 0


class _Assignment:
    def __init__(self, tps: Iterable[TopicPartition]) -> None:
        self._states = {tp: _State() for tp in tps}

    @property
    def tps(self) -> set[TopicPartition]:
        return set(self._states)

    def state_value(self, tp: Any) -> _State | None:
        return self._states.get(TopicPartition(*tp))


class SimConsumer:
    """Replaces `AIOKafkaConsumer`. It is in a group if it has a coordinator."""

    def __init__(self, broker: Broker, link: Link, *, fetch: int = 1_000_000) -> None:
        """`fetch`: largest number of batches of one partition in one answer."""
        self._broker, self._link, self._batches = broker, link, fetch
        self._subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=None))
        self._coordinator: Any = None
        self._fetcher = None

    async def start(self) -> None:
        """Connect."""
        await asyncio.sleep(0)

    async def stop(self) -> None:
        """Disconnect."""

    async def ask(self, call: Any) -> Any:
        """Return the answer to a request that changes nothing; repeat it until it is answered."""
        while True:
            try:
                return await self._link.ask(lambda reply: reply(call()), plain=True)
            except KafkaConnectionError:
                await asyncio.sleep(_BACKOFF_S)

    # --- partitions

    def assign(self, tps: Iterable[TopicPartition]) -> None:
        """Replace the assignment."""
        self._subscription.subscription.assignment = _Assignment(TopicPartition(*tp) for tp in tps)

    def unsubscribe(self) -> None:
        """Remove the assignment."""
        self._subscription.subscription.assignment = None

    @property
    def _now(self) -> _Assignment | None:
        found: _Assignment | None = self._subscription.subscription.assignment
        return found

    def assignment(self) -> set[TopicPartition]:
        """Return the assigned partitions."""
        return self._now.tps if self._now is not None else set()

    def _state(self, tp: Any) -> _State:
        state = self._now.state_value(tp) if self._now is not None else None
        if state is None:
            raise IllegalStateError(f"{tp} is not assigned")
        return state

    def seek(self, tp: Any, offset: int) -> None:
        """Set where the next fetch begins."""
        self._state(tp).position = offset

    async def position(self, tp: Any) -> int:
        """Return where the next fetch begins."""
        return self._state(tp).position

    async def beginning_offsets(self, tps: Iterable[Any]) -> dict[TopicPartition, int]:
        """Return 0 for each partition, since nothing is ever deleted."""
        tps = list(tps)
        found: dict[TopicPartition, int] = await self.ask(lambda: {TopicPartition(*tp): 0 for tp in tps})
        return found

    async def end_offsets(self, tps: Iterable[Any]) -> dict[TopicPartition, int]:
        """Return the last stable offsets: committed records can be read up to there."""
        tps = [TopicPartition(*tp) for tp in tps]
        logs = self._broker.logs
        found: dict[TopicPartition, int] = await self.ask(lambda: {tp: logs[tp].stable for tp in tps})
        return found

    # --- records

    async def getmany(self, *tps: Any, timeout_ms: int = 0) -> dict[TopicPartition, list[RecordColumns]]:
        """Return columns of committed records."""
        return await self.fetched_records(tps or self.assignment(), timeout_ms / 1000)

    async def fetched_records(
        self, active: Iterable[Any], timeout: float
    ) -> dict[TopicPartition, list[RecordColumns]]:
        """Like aiokafka's fetcher with `install_fetch_hook`, which returns columns."""
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + timeout, _POLL_S
        while True:
            found = await self._fetch([TopicPartition(*tp) for tp in active])
            if found or loop.time() >= end:
                return found
            await asyncio.sleep(min(pause, max(end - loop.time(), 0.001)))
            pause *= 2

    async def _fetch(self, active: list[TopicPartition]) -> dict[TopicPartition, list[RecordColumns]]:
        before = self._now
        if before is None:
            return {}
        states = {tp: state for tp in active if (state := before.state_value(tp)) and state.position >= 0}
        asked = {tp: state.position for tp, state in states.items()}
        if not asked:
            return {}
        logs = self._broker.logs
        try:
            answer = await self._link.ask(
                lambda reply: reply(
                    {tp: (*logs[tp].read(at, self._batches), logs[tp].stable) for tp, at in asked.items()}
                ),
                plain=True,
            )
        except KafkaConnectionError:
            return {}
        found = {}
        for tp, (records, after, stable) in answer.items():
            state = states[tp]
            if self._now is not before or state.position != asked[tp]:
                continue  # its assignment or position is no longer valid
            state.position, state.lso = after, stable
            state.highwater, state.timestamp = stable, int(asyncio.get_running_loop().time() * 1000)
            if records:
                found[tp] = [RecordColumns.of(records)]
        return found

    # --- offsets

    async def committed(self, tp: Any) -> int | None:
        """Return the committed offset of the group."""
        key = TopicPartition(*tp)
        found: int | None = await self.ask(lambda: self._broker.group.offsets.get(key))
        return found

    async def commit(self, offsets: Mapping[Any, Any]) -> None:
        """Commit with the member id and generation at the time of sending. Raises KafkaError."""
        for tp in offsets:
            self._state(tp)
        plain = {TopicPartition(*tp): each.offset for tp, each in offsets.items()}
        member = self._coordinator
        while True:
            name, generation = member.member_id, member.generation
            try:
                code = await self._link.ask(
                    partial(self._commit, name, generation, plain),
                    lambda _: 14,
                )
            except KafkaError:
                code = 14
            if code in (22, 25, 27):
                member.refused(code)
                raise CommitFailedError("the group has already rebalanced")
            if not code:
                return
            await asyncio.sleep(_BACKOFF_S)

    def _commit(self, name: str, generation: int, offsets: dict[TopicPartition, int], reply: Reply) -> None:
        reply(self._broker.group.commit(name, generation, offsets))
