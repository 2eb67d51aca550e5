"""Guarantee 4: an idle topic or partition delays no event for longer than `max_idle_ms`, on a real broker."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from stream_app.contract.records import Record
from stream_app.lab.broker import EmbeddedKafka
from tests.integration.answered import ids
from tests.integration.harness import Reader, Start, make_topics, produce, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(150)]

#: How long an answer may take in addition to its waiting time: a machine with other load is slow.
SLACK_S = 10.0


class Shop:
    """Sends events of two partitions, one at a time, and remembers them."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.bootstrap, self.prefix = bootstrap, prefix
        self.sent: list[str] = []
        self._offsets: Counter[tuple[str, int]] = Counter()

    def send(self, topic: str, partition: int, *times: int) -> None:
        """Send events of one user of a partition with these times, Unix ms."""
        user = f"u{partition}"
        records = []
        for ts in times:
            offset = self._offsets[topic, partition]
            self._offsets[topic, partition] += 1
            self.sent.append(f"{self.prefix}{topic}-{partition}-{offset}")
            body = json.dumps({"user_id": user, "ts": ts, "item_id": "i1"}).encode()
            records.append(Record(topic, partition, offset, 0, user.encode(), body, ()))
        produce(self.bootstrap, self.prefix, records)

    def answered(self, reader: Reader, limit_s: float) -> None:
        """Fail if an event is not answered in time, or answered twice."""
        reader.read_until("the answers", lambda m: len(m) >= len(self.sent), limit_s)
        assert ids(reader.messages) == Counter(self.sent)


async def test_an_idle_partition_and_idle_topics_stop_nobody(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """If only one topic of one partition has traffic, each event is answered immediately and moves the watermark."""
    await make_topics(kafka.bootstrap, prefix, partitions=2)
    worker = start(tmp_path, kafka.bootstrap, prefix, max_idle_ms=500).wait_ready(90)
    shop, reader = Shop(kafka.bootstrap, prefix), Reader(kafka.bootstrap, f"{prefix}predictions")
    for _ in range(5):
        now = int(time.time() * 1000)
        shop.send("clicks", 0, now, now + 1)
        shop.answered(reader, 0.5 + SLACK_S)
    assert worker.metric("foreclick_out_of_order_events_total") == 0
    last = now / 1000

    def watermark() -> float:
        return time.time() - worker.metric("foreclick_watermark_delay_seconds", partition="0")

    wait_for("the watermark of partition 0", lambda: watermark() >= last - 0.5, 0.5 + SLACK_S)
    assert 'foreclick_watermark_delay_seconds{partition="1"}' not in worker.get("/metrics")[1]
    # The other partition gets traffic and is answered as quickly; its watermark is its own, hours behind.
    shop.send("purchases", 1, now - 7_200_000)
    shop.answered(reader, 0.5 + SLACK_S)
    assert worker.metric("foreclick_late_events_total") == 0
    assert worker.stop() == 0
    reader.close()


async def test_a_topic_falls_idle_and_wakes_up(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """The others wait for a silent topic once, at most `max_idle_ms`; later it is merged in order, or counted."""
    await make_topics(kafka.bootstrap, prefix, partitions=2)
    max_idle_s = 2.0
    worker = start(tmp_path, kafka.bootstrap, prefix, max_idle_ms=int(1000 * max_idle_s)).wait_ready(90)
    shop, reader = Shop(kafka.bootstrap, prefix), Reader(kafka.bootstrap, f"{prefix}predictions")
    t = int(time.time() * 1000) - 600_000

    for topic in ("purchases", "browses", "clicks"):
        shop.send(topic, 0, t, t + 10)
    shop.answered(reader, max_idle_s + SLACK_S)
    # Browses and purchases become idle.
    for n in range(1, 4):
        shop.send("clicks", 0, t + 1000 * n)
        shop.answered(reader, max_idle_s + SLACK_S)
    assert worker.metric("foreclick_out_of_order_events_total") == 0
    # Browses are back, in order.
    shop.send("browses", 0, t + 4000, t + 5000)
    shop.answered(reader, max_idle_s + SLACK_S)
    assert worker.metric("foreclick_out_of_order_events_total") == 0
    # Purchases are back with one event that is older than the processed ones, and one that is not.
    shop.send("purchases", 0, t + 4500, t + 6000)
    shop.answered(reader, max_idle_s + SLACK_S)
    assert worker.metric("foreclick_out_of_order_events_total") == 1
    assert worker.metric("foreclick_late_events_total") == 0
    # In the order of the merge, except for the one that came too late for it.
    times = [json.loads(m.value())["ts"] - t for m in reader.messages]
    assert times[6:] == [1000, 2000, 3000, 4000, 5000, 4500, 6000]
    assert worker.get("/users/u0/")[1]["events"] == len(shop.sent)
    wait_for("no lag", lambda: worker.metric("foreclick_consumer_lag_records") == 0, 20)
    assert worker.stop() == 0
    reader.close()
