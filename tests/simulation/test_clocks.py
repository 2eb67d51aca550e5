"""A sender whose clock is ahead, beside others in one partition: with the simulation's clock, to the millisecond."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest

from stream_app.settings import Rules
from tests.simulation.log import Entry, Log
from tests.simulation.loop import EPOCH_S
from tests.simulation.schedule import Schedule
from tests.simulation.worker import on_the_model
from tests.simulation.world import World, settings_of

MAX_IDLE_MS = 20
#: Simulated milliseconds: of the traffic, between two browses, and until all is answered.
LENGTH_MS, BROWSE_MS, REST_MS = 1500, 2, 1000
AHEAD_MS = 29_990  # as far as an event may be ahead

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


class Outcome(NamedTuple):
    """What came of the events of all but the attacker, by `event_id`."""

    answered_ms: dict[str, float]  # when the broker got the prediction
    flags: dict[str, list[str]]
    late: int


class Shop:
    """Steady browses, a click now and then, a bot; all of them reach the broker `delay_ms` after they happen."""

    def __init__(self, delay_ms: int, attack: bool) -> None:
        self._delay_ms, self._attack = delay_ms, attack
        self.world = World(Schedule(b""), "at_least_once")
        self.world.settings = msgspec.structs.replace(
            settings_of("at_least_once"),
            max_idle_ms=MAX_IDLE_MS,
            max_batch=1000,
            buffered_records=20_000,
            rules=Rules(clicks_1m=30),
        )
        self._count = self._late = 0
        self._seen: dict[str, float] = {}
        self._watch(self.world.broker.logs["predictions", 0])

    def _watch(self, log: Log) -> None:
        add: Callable[[Entry], int] = log._add

        def timed(entry: Entry) -> int:
            for _, value, _ in entry.records:
                said: Any = json.loads(value or b"")
                self._seen.setdefault(said["event_id"], 1000 * self.world.loop.time())
            return add(entry)

        log._add = timed  # type: ignore[method-assign]

    def run(self) -> Outcome:
        """All of it."""
        world = self.world
        asyncio.set_event_loop(None)
        with on_the_model(world.loop, world.note):
            try:
                world.loop.run_until_complete(self._traffic())
            finally:
                world.loop.shut_down()
        flags = {}
        for record in world.broker.logs["flags", 0].read(0)[0]:
            said = json.loads(record.value)
            flags[said["event_id"]] = [reason["code"] for reason in said["reasons"]]
        others = {name: at for name, at in self._seen.items() if not name.startswith("mallory")}
        return Outcome(others, {n: f for n, f in flags.items() if not n.startswith("mallory")}, self._late)

    def _count_late(self) -> int:
        pipeline: Any = self.world.workers[0].app.pipeline  # type: ignore[union-attr]
        engine = pipeline.engine
        held = engine.users.mapping(0)
        return sum(int(engine.users.rows["late"][slot]) for name, slot in held.items() if name != "mallory")

    async def _traffic(self) -> None:
        world = self.world
        world.start()
        await asyncio.sleep(3)  # simulated: it joins its group
        for ms in range(0, LENGTH_MS, BROWSE_MS):
            self._send("browses", f"b{ms % 14}", -self._delay_ms)
            if ms % 60 == 30:
                self._send("clicks", f"c{ms % 7}", -self._delay_ms)
            if ms % 20 == 10:
                self._send("clicks", "bot", -self._delay_ms)
            if self._attack and ms % 100 == 50:
                self._send("clicks", "mallory", (AHEAD_MS, 0, 5)[ms % 3])
                self._send("browses", "mallory", AHEAD_MS if ms % 300 == 50 else -200_000)
            await asyncio.sleep(BROWSE_MS / 1000)
        await asyncio.sleep(REST_MS / 1000)
        self._late = self._count_late()

    def _send(self, topic: str, user: str, off_ms: int) -> None:
        now_ms = round(1000 * (EPOCH_S + self.world.loop.time()))
        name = f"{user}-{self._count}" if user == "mallory" else f"{user}-{topic}-{now_ms}"
        self._count += 1
        value = {"user_id": user, "ts": now_ms + off_ms, "item_id": "i1", "event_id": name}
        log = self.world.broker.logs[topic, 0]
        log.put([(user.encode(), json.dumps(value).encode(), ())], now_ms)


@pytest.mark.parametrize("delay_ms", [0, 15, 300])
def test_a_clock_ahead_harms_nobody(delay_ms: int) -> None:
    """Nobody's event is answered later than `max_idle_ms` after it would be without the attacker, and no flag is lost.

    Where events need longer than that to reach the broker, the bound is their own delay: an event that is there at
    once, whoever sends it, has those behind it in its topic wait until the other topics come to its time.
    """
    quiet, attacked = Shop(delay_ms, attack=False).run(), Shop(delay_ms, attack=True).run()
    assert quiet.answered_ms.keys() == attacked.answered_ms.keys()
    assert len(quiet.answered_ms) == LENGTH_MS // BROWSE_MS + LENGTH_MS // 60 + LENGTH_MS // 20
    waited = {name: at - quiet.answered_ms[name] for name, at in attacked.answered_ms.items()}
    assert max(waited.values()) <= max(MAX_IDLE_MS, delay_ms)
    assert quiet.flags == attacked.flags
    assert ["click_rate"] in quiet.flags.values()
    assert quiet.late == attacked.late == 0
