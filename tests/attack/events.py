"""Valid events that once stopped or slowed down the events of other users, or hid other flags."""

import json
import time

from tests.attack.worker import Attacked
from tests.stream_app.colliding_names import colliding, ending_alike
from tests.stream_app.raw_batches import record, stored, zstd

#: Events in one batch.
PER_BATCH = 10_000


def _click(user: bytes, ts: int, item: bytes, number: int = 0) -> bytes:
    value = b'{"user_id":"%s","ts":%d,"item_id":"%s"}' % (user, ts, item)
    return record(number, user, value)


def _clicks(it: Attacked, users: list[bytes], items: list[bytes]) -> float:
    """Send one click per user and item; return the seconds until all were processed."""
    now, before, n = int(time.time() * 1000), it.events(), len(users)
    batches = []
    for start in range(0, n, PER_BATCH):
        some = zip(users[start : start + PER_BATCH], items[start : start + PER_BATCH], strict=True)
        body = [_click(user, now, item, i) for i, (user, item) in enumerate(some)]
        batches.append(stored(zstd(b"".join(body)), len(body), 4, first_ms=now))
    began = time.monotonic()
    it.send(*batches)
    it.waits(f"{n} clicks", before + n, 120)
    return time.monotonic() - began


def long_names(it: Attacked) -> None:
    """2,000 clicks on items with names of 60 kB, then 50,000 on items with names of the largest length allowed."""
    now = int(time.time() * 1000)
    for start in range(0, 2_000, 100):
        body = [_click(b"m", now, b"%060000d" % (start + i), i) for i in range(100)]
        it.send(stored(zstd(b"".join(body)), len(body), 4, first_ms=now))
    it.answers("clicks with long names")
    _clicks(it, [b"m"] * 50_000, [b"%0256d" % i for i in range(50_000)])
    it.within_memory()


def a_clock_ahead(it: Attacked) -> None:
    """One click from the future, within the limit, and a bot after it, while browses continue steadily."""
    now, before = int(time.time() * 1000), it.events()
    it.send(stored(_click(b"mallory", now + 29_000, b"i1"), 1, first_ms=now))
    sent, deadline = 1, time.monotonic() + 15
    for i in range(100):
        now = int(time.time() * 1000)
        it.send(stored(_click(b"bot", now, b"i%d" % i), 1, first_ms=now))
        it.send(stored(record(0, b"b", b'{"user_id":"b","ts":%d}' % now), 1, first_ms=now), topic="browses")
        sent += 2
    while it.events() < before + sent:
        assert time.monotonic() < deadline, (
            "clicks wait for one from the future although other topics continue"
        )
        it.good("browses")
        sent += 1
    flagged = {json.loads(value)["user_id"] for value in it.outputs("flags")}
    assert "bot" in flagged, "one click from the future hides a bot"


def collisions(it: Attacked) -> None:
    """20,000 users with one hash, on 20,000 items whose hashes end alike, cost about as much as ordinary ones."""
    n = 20_000
    ordinary = _clicks(it, [b"user-%011d" % i for i in range(n)], [b"item-%011d" % i for i in range(n)])
    took = _clicks(it, colliding(n), ending_alike(n))
    assert took < 4 * max(ordinary, 1.0), f"{took:.1f} s, and {ordinary:.1f} s for ordinary names"


ALL = (long_names, a_clock_ahead, collisions)
