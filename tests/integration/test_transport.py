"""The transport on a real Kafka: reads whole batches, commits ranges, loses nothing whatever the group does."""

import asyncio
import contextlib
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from faust.transport.drivers import by_url
from faust.types import TP
from yarl import URL

from stream_app.lab.broker import EmbeddedKafka
from stream_app.worker.transport import Transport
from tests.integration.faust_member import Join, Member, end_offset, in_order, make, numbers, send, until
from tests.integration.harness import committed, read_all

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


async def test_an_agent_gets_whole_batches(kafka: EmbeddedKafka, prefix: str, join: Join) -> None:
    """The scheme `batch` selects the transport; 30,000 records of two partitions arrive in order, in few batches."""
    assert by_url(URL("batch://127.0.0.1")) is Transport
    topic = f"{prefix}in"
    make(kafka.bootstrap, topic, partitions=2)
    for partition in (0, 1):
        # Without idempotence the first batches to a new topic may be retried out of order.
        send(kafka.bootstrap, topic, numbers(15_000), partition, **{"enable.idempotence": True})
    member = await join(f"{prefix}group", topic)
    await until("30,000 records", lambda: len(member.values()) >= 30_000)
    assert in_order(member.batches)
    assert len(member.batches) < 100, f"{len(member.batches)} batches for 30,000 records"
    for partition in (0, 1):
        values = [r.value for b in member.batches if b.tp.partition == partition for r in b.records]
        assert values == numbers(15_000)


async def test_nothing_is_kept_of_what_was_delivered(kafka: EmbeddedKafka, prefix: str, join: Join) -> None:
    """However many batches arrive, Faust's lists of acknowledged messages contain at most the last one."""
    topic = f"{prefix}in"
    make(kafka.bootstrap, topic)
    member = await join(f"{prefix}group", topic)
    for i in range(5):
        send(kafka.bootstrap, topic, numbers(10, 10 * i))
        await until("a batch", lambda n=10 * i + 10: len(member.values()) >= n)
    assert len(member.batches) >= 5
    consumer, tp = member.consumer, TP(topic, 0)
    assert len(consumer._acked_index[tp]) <= 1
    assert len(consumer._acked[tp]) <= 1
    assert len(consumer._unacked_messages) <= 1


async def test_the_last_batch_of_a_partition_comes_again_where_it_was_dropped(
    kafka: EmbeddedKafka, prefix: str, join: Join
) -> None:
    """A batch dropped while the flow is stopped, as in a rebalance, is read again, even if it is the last one."""
    topic = f"{prefix}in"
    make(kafka.bootstrap, topic)
    member = await join(f"{prefix}group", topic)
    await until("the assignment", member.settled)
    consumer = member.consumer
    belongs = consumer._belongs

    def drop_once(_: object) -> bool:
        consumer._belongs = belongs
        consumer.stop_flow()
        asyncio.get_running_loop().call_later(0.1, consumer.resume_flow)
        return False

    consumer._belongs = drop_once
    send(kafka.bootstrap, topic, numbers(100))
    await until("100 records", lambda: len(member.values()) >= 100)
    assert member.values() == numbers(100)


async def test_exactly_what_is_done_is_committed(kafka: EmbeddedKafka, prefix: str, join: Join) -> None:
    """Nothing is committed before `done` moves, then exactly `done`; a restart continues there."""
    topic, group = f"{prefix}in", f"{prefix}group"
    make(kafka.bootstrap, topic)
    send(kafka.bootstrap, topic, numbers(100))
    first = await join(group, topic, moves=False)
    await until("100 records", lambda: len(first.values()) == 100)
    assert await first.consumer.commit() is False
    assert committed(kafka.bootstrap, group, [topic], 1)[topic] == [-1001]
    first.consumer.done[TP(topic, 0)] = 37
    assert await first.consumer.commit() is True
    assert await first.consumer.commit() is False, "there is nothing new to commit"
    assert committed(kafka.bootstrap, group, [topic], 1)[topic] == [37]
    await first.app.stop()
    assert committed(kafka.bootstrap, group, [topic], 1)[topic] == [37]
    second = await join(group, topic)
    await until("the rest", lambda: len(second.values()) >= 63)
    assert second.values() == numbers(63, 37)
    await second.app.stop()
    assert committed(kafka.bootstrap, group, [topic], 1)[topic] == [100]


async def test_transactions(kafka: EmbeddedKafka, prefix: str, join: Join) -> None:
    """Records of aborted transactions never arrive, the others arrive once; markers leave no lag."""
    topic, group = f"{prefix}in", f"{prefix}group"
    make(kafka.bootstrap, topic)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{prefix}writer"})
    producer.init_transactions(30)
    wanted: list[bytes] = []
    member = await join(group, topic)

    def write(turns: int, draw: random.Random) -> None:
        for turn in range(turns):
            producer.begin_transaction()
            values = [b"%d-%d" % (turn, i) for i in range(draw.randrange(1, 30))]
            for value in values:
                producer.produce(topic, value, partition=0)
            if turn % 3 == 1 or turn == turns - 1:
                producer.flush(30)
                producer.abort_transaction(30)
            else:
                producer.commit_transaction(30)
                wanted.extend(values)

    await asyncio.to_thread(write, 40, random.Random(1))
    tp = TP(topic, 0)
    await until("all committed records", lambda: len(member.values()) >= len(wanted))
    # The log ends with the records of an aborted transaction and its marker.
    end = end_offset(kafka.bootstrap, topic)
    await until("the position after the last marker", lambda: member.consumer.done.get(tp) == end)
    assert member.consumer.end_of(tp) == end
    assert member.values() == wanted
    assert in_order(member.batches)
    await member.app.stop()
    assert committed(kafka.bootstrap, group, [topic], 1)[topic] == [end]


async def test_compacted_topic(prefix: str, join: Join, tmp_path: Path) -> None:
    """Gaps from compaction are skipped: the remaining records arrive once, and all are committed."""
    topic, group = f"{prefix}in", f"{prefix}group"
    with EmbeddedKafka(tmp_path / "kafka", properties={"log.cleaner.backoff.ms": "100"}) as kafka:
        make(
            kafka.bootstrap, topic, cleanup_policy="compact", min_cleanable_dirty_ratio="0.001",
            segment_bytes="1048576",
        )  # fmt: skip
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
        for i in range(4000):
            producer.produce(topic, os.urandom(1000) + b"%d" % i, key=b"%d" % (i % 37), partition=0)
        assert producer.flush(30) == 0
        left: list[Any] = []

        def compacted() -> bool:
            left[:] = read_all(kafka.bootstrap, topic)
            return len(left) < 3000

        end = time.monotonic() + 60
        while not await asyncio.to_thread(compacted):
            assert time.monotonic() < end, "waited 60 s for the log cleaner"
        member = await join(group, topic, bootstrap=kafka.bootstrap)
        tp = TP(topic, 0)
        await until("the end", lambda: member.consumer.done.get(tp) == 4000)
        offsets = [r.offset for b in member.batches for r in b.records]
        assert offsets == sorted(set(offsets))
        assert set(offsets) <= {m.offset() for m in left}, "a record arrived that is not in the log"
        assert len({r.key for b in member.batches for r in b.records}) == 37
        assert member.consumer.end_of(tp) == 4000
        assert in_order(member.batches)
        await member.app.stop()
        assert committed(kafka.bootstrap, group, [topic], 1)[topic] == [4000]


@pytest.mark.parametrize("moves", [True, False], ids=["committing", "nothing ever committed"])
async def test_no_record_is_lost_in_rebalances(
    kafka: EmbeddedKafka, prefix: str, join: Join, moves: bool
) -> None:
    """Members join and leave during traffic; the records of each batch that is dropped then are read again."""
    topic, group, partitions = f"{prefix}in", f"{prefix}group", 3
    make(kafka.bootstrap, topic, partitions=partitions)
    draw = random.Random(7)
    sent = [0] * partitions
    writing = True

    def write() -> None:
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 1})
        while writing:
            for p in range(partitions):
                for _ in range(50):
                    producer.produce(topic, b"%d" % sent[p], partition=p)
                    sent[p] += 1
            producer.flush(30)
            time.sleep(0.005)  # a steady stream, so that records are in flight at each rebalance

    writer = asyncio.create_task(asyncio.to_thread(write))
    members = [await join(group, topic, moves=moves)]
    gone: list[Member] = []
    try:
        for _ in range(8):
            if len(members) == 1 or (len(members) < 4 and draw.random() < 0.6):
                members.append(await join(group, topic, moves=moves))
            else:
                gone.append(members.pop(draw.randrange(len(members))))
                await gone[-1].app.stop()
            await asyncio.sleep(draw.random() * 1.2)  # some rebalances overlap with the one before
        await until("the group to settle", lambda: all(m.settled() for m in members))
    finally:
        writing = False
        await writer

    def missing() -> list[int]:
        everyone = [*members, *gone] if moves else members
        got = {(b.tp.partition, r.offset) for m in everyone for b in m.batches for r in b.records}
        return [len({(p, o) for o in range(sent[p])} - got) for p in range(partitions)]

    if not moves:  # then all records are read again after each rebalance
        for m in members:
            m.batches = [b for b in m.batches if b.generation == m.app.consumer_generation_id]
    with contextlib.suppress(AssertionError):
        await until("all records", lambda: not any(missing()), 20)
    assert missing() == [0] * partitions, f"lost of {sent}"
    for m in [*members, *gone]:
        for generation in {b.generation for b in m.batches}:
            assert in_order((b for b in m.batches if b.generation == generation), may_go_back=True)


async def test_pause_and_resume(kafka: EmbeddedKafka, prefix: str, join: Join) -> None:
    """A paused partition gives no records while others continue, and continues immediately when it is resumed."""
    topic = f"{prefix}in"
    make(kafka.bootstrap, topic, partitions=3)  # partition 2 stays empty
    member = await join(f"{prefix}group", topic)
    await until("the assignment", member.settled)

    def got(partition: int) -> int:
        return sum(len(b.records) for b in member.batches if b.tp.partition == partition)

    cycles, tp, took_s = 50, TP(topic, 0), 0.0
    for n in range(cycles):
        member.consumer.pause_partitions({tp})
        send(kafka.bootstrap, topic, [b"others"], 1)  # ends the fetch in progress
        await until("the other partition", lambda n=n: got(1) == 2 * n + 1)
        send(kafka.bootstrap, topic, [b"paused"], 0)
        send(kafka.bootstrap, topic, [b"others"], 1)
        await until("the other partition", lambda n=n: got(1) == 2 * n + 2)
        assert got(0) == n, "a record of a paused partition arrived"
        start = time.monotonic()
        member.consumer.resume_partitions({tp})
        await until("the resumed partition", lambda n=n: got(0) == n + 1)
        took_s += time.monotonic() - start
    assert took_s < cycles * 0.15, f"{cycles} resumes took {took_s:.1f} s"


async def test_all_paused_wakes_up_at_once(kafka: EmbeddedKafka, prefix: str, join: Join) -> None:
    """With every partition paused there is no second of sleep (Faust's own consumer has one)."""
    topic, tp = f"{prefix}in", TP(f"{prefix}in", 0)
    make(kafka.bootstrap, topic)
    member = await join(f"{prefix}group", topic)
    await until("the assignment", member.settled)
    took_s = 0.0
    for n in range(50):
        member.consumer.pause_partitions({tp})
        send(kafka.bootstrap, topic, [b"x"])
        await asyncio.sleep(0.02)
        start = time.monotonic()
        member.consumer.resume_partitions({tp})
        await until("the resumed partition", lambda n=n: len(member.values()) == n + 1)
        took_s += time.monotonic() - start
    assert took_s < 7.5, f"50 resumes took {took_s:.1f} s"


async def test_partitions_of_one_number_stay_together(kafka: EmbeddedKafka, prefix: str, join: Join) -> None:
    """Partition p of all topics belongs to the same member, and each partition to exactly one."""
    topics = [f"{prefix}{name}" for name in ("clicks", "browses", "purchases")]
    make(kafka.bootstrap, *topics, partitions=5)
    members = [await join(f"{prefix}group", *topics)]
    members.append(await join(f"{prefix}group", *topics))

    def shared() -> bool:
        held = [m.consumer.assignment() for m in members]
        return all(held) and sum(map(len, held)) == 15 and all(m.settled() for m in members)

    await until("both to have a share", shared)
    homes = [{tp.partition for tp in m.consumer.assignment()} for m in members]
    assert sorted(map(len, homes)) == [2, 3]
    for member, partitions in zip(members, homes, strict=True):
        assert member.consumer.assignment() == {TP(t, p) for t in topics for p in partitions}


async def test_more_members_than_partitions(kafka: EmbeddedKafka, prefix: str, join: Join) -> None:
    """A member that loses all its partitions during traffic keeps running and takes over when the other leaves."""
    topic = f"{prefix}in"
    make(kafka.bootstrap, topic, partitions=1)
    members = [await join(f"{prefix}group", topic)]
    await until("the assignment", members[0].settled)
    members.append(await join(f"{prefix}group", topic))
    send(kafka.bootstrap, topic, numbers(1000))
    await until("1,000 records", lambda: sum(len(m.values()) for m in members) == 1000)
    await until("both to settle", lambda: all(m.settled() for m in members))
    owner = next(m for m in members if m.consumer.assignment())
    idle = members[1 - members.index(owner)]
    assert not idle.consumer.assignment()
    await owner.app.stop()
    send(kafka.bootstrap, topic, numbers(1000, 1000))
    await until("the other to take over", lambda: len(idle.values()) >= 1000)
    assert owner.values() + idle.values() == numbers(2000)
