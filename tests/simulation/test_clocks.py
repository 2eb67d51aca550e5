"""A sender whose clock is ahead, with others in one partition, on a simulated clock, exact to the millisecond."""

import json
from typing import Any, NamedTuple

import numpy as np
import pytest

from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.settings import Rules, Settings

T0 = 1_700_000_000_000
MAX_IDLE_MS = 20
#: Simulated milliseconds: duration of the traffic, between two browses, and until all is answered.
LENGTH_MS, BROWSE_MS, REST_MS = 3000, 2, 1000
AHEAD_MS = 29_990  # almost the largest allowed
SETTINGS = Settings(max_idle_ms=MAX_IDLE_MS, rules=Rules(clicks_1m=30))


class Outcome(NamedTuple):
    """The results of the events of all users except the attacker, by `event_id`."""

    answered_ms: dict[str, int]
    flags: dict[str, list[str]]
    late: int


class Shop:
    """Steady browses, a few clicks, a bot; all of them reach the broker `delay_ms` after they happen.

    In each millisecond the processor gets the broker's records, and steps like a worker that is never busy.
    """

    def __init__(self, delay_ms: int, attack: bool) -> None:
        self._delay_ms, self._attack = delay_ms, attack
        self._processor = ShopProcessor(SETTINGS, partitions=1)
        self._processor.assign(0, [0] * len(INPUT_TOPICS))
        self._processor.restored(0)
        self._arriving: list[list[Record]] = [[] for _ in INPUT_TOPICS]
        self._offsets = [0] * len(INPUT_TOPICS)
        self._seen: dict[str, int] = {}
        self._flags: dict[str, list[str]] = {}

    def run(self) -> Outcome:
        """Run everything."""
        for ms in range(LENGTH_MS + REST_MS):
            if ms < LENGTH_MS:
                self._traffic(ms)
            self._work(ms)
        held, rows = self._processor.users.mapping(0), self._processor.users.rows
        late = sum(int(rows["late"][slot]) for name, slot in held.items() if name != "mallory")
        return Outcome(_others(self._seen), _others(self._flags), late)

    def _traffic(self, ms: int) -> None:
        if ms % BROWSE_MS == 0:
            self._send(ms, "browses", f"b{ms % 14}", -self._delay_ms)
        if ms % 60 == 31:
            self._send(ms, "clicks", f"c{ms % 7}", -self._delay_ms)
        if ms % 17 == 10:
            self._send(ms, "clicks", "bot", -self._delay_ms)
        if self._attack and ms % 50 == 25:
            self._send(ms, "clicks", "mallory", (AHEAD_MS, 0, 5)[ms % 3])
            self._send(ms, "browses", "mallory", (AHEAD_MS, 0, -200_000)[ms % 4 % 3])

    def _send(self, ms: int, topic: str, user: str, off_ms: int) -> None:
        topic_index = INPUT_TOPICS.index(topic)
        value = {"user_id": user, "ts": T0 + ms + off_ms, "item_id": "i1", "event_id": f"{user}-{topic}-{ms}"}
        body = json.dumps(value).encode()
        self._arriving[topic_index].append(
            Record(topic, 0, self._offsets[topic_index], T0 + ms, user.encode(), body)
        )
        self._offsets[topic_index] += 1

    def _work(self, ms: int) -> None:
        processor, now = self._processor, ms / 1000
        for topic_index, records in enumerate(self._arriving):
            if records:
                processor.ingest(0, topic_index, RecordColumns.of(records), self._offsets[topic_index])
                records.clear()
            processor.merge(0).idle(topic_index, True, now)
        while (output := processor.step(now)) is not None:
            for (topic, _), messages in output.outputs.items():
                for _, body, _ in messages:
                    said: Any = json.loads(body or b"")
                    if topic == "predictions":
                        self._seen[said["event_id"]] = ms
                    else:
                        self._flags[said["event_id"]] = [reason["code"] for reason in said["reasons"]]


def _others(found: dict[str, Any]) -> dict[str, Any]:
    return {name: what for name, what in found.items() if not name.startswith("mallory")}


@pytest.mark.parametrize("delay_ms", [0, 50, 700])
def test_a_clock_ahead_harms_nobody(delay_ms: int) -> None:
    """Without the attacker an event would be answered at most `max_idle_ms` earlier, and with the same flags.

    If events need some time to reach the broker, this time may be added: after an event that arrives immediately,
    whoever sends it, the next events of its topic wait until the other topics reach its time.
    """
    quiet, attacked = Shop(delay_ms, attack=False).run(), Shop(delay_ms, attack=True).run()
    assert quiet.answered_ms.keys() == attacked.answered_ms.keys()
    waited = np.array([at - quiet.answered_ms[name] for name, at in attacked.answered_ms.items()])
    assert len(waited) > LENGTH_MS // BROWSE_MS
    assert waited.max() <= MAX_IDLE_MS + delay_ms
    assert quiet.flags == attacked.flags
    assert ["click_rate"] in quiet.flags.values()
    assert quiet.late == attacked.late == 0
