"""Watches a worker's membership of its group.

aiokafka joins a group in a task that nobody awaits. If the broker refuses, aiokafka keeps the error until somebody
reads it and does nothing more until then, and Faust never reads it. An unexpected error ends the task. So this module
checks the task: it tries again if that may help, and otherwise stops the worker with the reason.

It also intercepts the requests between aiokafka's coordinator and the broker:
- a member with an instance id sends the id in its heartbeats. So it learns that another worker has taken its place,
  and does not take the place back;
- metadata from other members is checked before aiokafka decodes it, so that invalid bytes cannot stop the member that
  leads the group.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import faust
import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, SyncGroupRequest

from stream_app.worker.errors import GroupRefusal
from stream_app.worker.transport.aiokafka_internals import Coordination, coordination_of
from stream_app.worker.transport.group_refusals import REBALANCING, UNKNOWN_MEMBER, Patience, Who, meaning
from stream_app.worker.transport.group_requests import StaticHeartbeat

log = structlog.stdlib.get_logger(__name__)

#: Seconds between two checks.
LOOK_EVERY_S = 0.2
#: The broker is asked again for unknown topics at every n-th check.
LOOKS_AT_TOPICS = 5
#: Kafka's error codes that are normal in the life of a group. aiokafka handles them.
_ORDINARY = frozenset({0, 14, 15, 16, 22, UNKNOWN_MEMBER, REBALANCING, 79})


class GroupWatch:
    """Watches one consumer, in the thread and on the loop of that consumer."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        *,
        trouble: Callable[[str | None], None],
        ended: Callable[[GroupRefusal], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`trouble` gets each refusal, and None once the group accepts this worker; `ended` gets the final refusal.

        The consumer must have started and must not have joined its group yet. Raises IncompatibleAiokafka.
        """
        self._group: Coordination = coordination_of(consumer)
        self._who = Who(self._group.name, self._group.instance or "", self._group.session_ms)
        self._trouble, self._ended, self._now = trouble, ended, clock
        self._patience = Patience()
        self._code: int | None = None  # of the last refusal
        self._said = ""  # the sentence that was logged last
        self._send = self._group.put_between(self._ask)

    async def run(self) -> None:
        """Checks until the membership has ended for good, or until it is cancelled."""
        for look in itertools.count(1):
            await asyncio.sleep(LOOK_EVERY_S)
            error = self._group.failure()
            if error is None:
                if look % LOOKS_AT_TOPICS == 0:
                    self._group.ask_for_unknown_topics()
                continue
            found = meaning(self._code_of(error), self._who, _words(error))
            pause = self._patience.next_pause(self._now()) if found.passes else None
            if pause is None:
                self._ended(GroupRefusal(found.sentence))
                return
            self._trouble(found.sentence)
            if found.sentence != self._said:
                log.warning("the group refuses this worker: trying again", why=found.sentence)
                self._said = found.sentence
            await asyncio.sleep(pause)
            self._code = None
            self._group.go_on()

    @property
    def in_trouble(self) -> bool:
        """Whether an error has stopped the coordination. aiokafka raises this error also where records are read."""
        return self._group.failure() is not None

    def _code_of(self, error: BaseException) -> int | None:
        code = getattr(error, "errno", None)  # -1: unknown, 0: a KafkaError that no broker sent
        return code if isinstance(code, int) and code > 0 else self._code

    # --- between aiokafka and the broker

    async def _ask(self, request: Any) -> Any:
        if isinstance(request, HeartbeatRequest) and self._who.instance:
            request = StaticHeartbeat(self._who.group, *self._group.membership, self._who.instance)
        answer = await self._send(request)
        if isinstance(request, OffsetCommitRequest):
            if self._who.instance:
                _join_under_the_same_id(answer)
            return answer
        code = getattr(answer, "error_code", 0)
        if code not in _ORDINARY:
            self._code = code
        if isinstance(request, JoinGroupRequest) and not code:
            answer.members = [(*rest, readable(said, self._group.topics)) for *rest, said in answer.members]
        if isinstance(request, SyncGroupRequest) and not code:
            self._patience.renew()
            self._said = ""
            self._trouble(None)
        return answer


def watch_group(app: faust.App, loop: asyncio.AbstractEventLoop, consumer: AIOKafkaConsumer) -> GroupWatch:
    """The watch of a worker's consumer: reports trouble to the worker's health, and stops the app on a final refusal.

    The app runs on `loop`.
    """
    health = getattr(app, "health", None)  # apps other than a worker's have none

    def trouble(why: str | None) -> None:
        if health is not None:
            health.set_group_trouble(why)

    def ended(error: GroupRefusal) -> None:
        if health is not None:
            health.end_group(str(error))
        asyncio.run_coroutine_threadsafe(app.crash(error), loop)

    return GroupWatch(consumer, trouble=trouble, ended=ended)


def readable(said: Any, topics: Iterable[str]) -> bytes:
    """A member's join metadata with only what the group leader can use: valid, and restricted to our `topics`.

    Any client with the right to join may be a member, and it may send any bytes.
    """
    try:
        metadata = ConsumerProtocolMemberMetadata.decode(said or b"")
        version, wanted, user_data = metadata.version, metadata.subscription, metadata.user_data
    # On invalid bytes aiokafka's decoder can raise any of these.
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError):
        version, wanted, user_data = 0, None, None
    ours = set(topics)
    kept = sorted({topic for topic in wanted or () if topic in ours})
    return ConsumerProtocolMemberMetadata(version, kept, user_data or b"").encode()


def _join_under_the_same_id(answer: Any) -> None:
    """Changes "unknown member" in the answer to a commit, so that a member with an instance id keeps its member id.

    aiokafka's commits do not carry the instance id, so the broker cannot say that another worker has taken it: it
    answers "unknown member", and aiokafka would join as a new member and take the instance id back. If it joins with
    its present member id instead, the broker tells it what has happened.
    """
    answer.topics = [
        (topic, [(p, REBALANCING if code == UNKNOWN_MEMBER else code) for p, code in partitions])
        for topic, partitions in answer.topics
    ]


def _words(error: BaseException) -> str:
    cause = error.__cause__ or error
    return str(cause) or type(cause).__name__
