"""The fenced producers on a real Kafka: late requests, owners that do not know of a change, broken connections."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from aiokafka.errors import MessageSizeTooLargeError

from stream_app.lab.broker import EmbeddedKafka
from stream_app.worker.errors import ProducerLostError
from stream_app.worker.producers.fenced_producer import FencedProducer
from stream_app.worker.producers.partition_producers import FENCE_KEY
from stream_app.worker.producers.transactional_producer import Member, TransactionalProducer
from tests.faults.steps import END_TXN, PRODUCE
from tests.integration.faust_member import make, numbers, until
from tests.integration.harness import read_all
from tests.integration.holding import Holding, holding_before, kafka_for_a_proxy
from tests.integration.producer_bed import (
    IMPATIENT_MS,
    OPEN_MS,
    PATIENT_MS,
    Bed,
    batch,
    client,
    messages,
    partition_producers,
)

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(120)]

FORMS = pytest.mark.parametrize("implicit", [True, False], ids=["second form", "first form"])


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker with a second listener."""
    with kafka_for_a_proxy(tmp_path_factory.mktemp("kafka")) as made:
        yield made


@pytest.fixture
async def gate(broker: EmbeddedKafka) -> AsyncIterator[Holding]:
    """The proxy in front of that listener."""
    async with holding_before(broker) as holding:
        yield holding


@pytest.fixture
def bed(broker: EmbeddedKafka, prefix: str) -> Bed:
    """Topics on the broker with a second listener."""
    return Bed(broker, prefix)


async def lose_the_end(producer: TransactionalProducer, bed: Bed, gate: Holding, member: Member) -> None:
    """Start a transaction of the records 0 to 9 and hold its EndTxn for longer than the client waits."""
    await producer.initialise()
    gate.hold_next(END_TXN)
    with pytest.raises(ProducerLostError, match="did not answer"):
        await producer.commit([(bed.tp, batch(numbers(10)))], bed.offsets(1), member)
    assert gate.held.is_set()


@FORMS
async def test_a_late_end_ends_no_other_transaction(bed: Bed, gate: Holding, implicit: bool) -> None:
    """An unanswered EndTxn loses the producer; if it arrives after `initialise`, it ends no later transaction."""
    async with bed.member() as member, client(gate.port, bed.topic, implicit, IMPATIENT_MS) as cluster:
        producer = TransactionalProducer(cluster, bed.group, OPEN_MS)
        await lose_the_end(producer, bed, gate, member())
        with pytest.raises(ProducerLostError):
            await producer.queue(bed.tp, batch([b"lost"]))
        with pytest.raises(ProducerLostError):
            await producer.commit([(bed.tp, batch([b"lost"]))], bed.offsets(2), member())
        await producer.initialise()
        first = await asyncio.to_thread(bed.values)
        assert first in ([], numbers(10)), "a transaction is visible in part"
        assert bed.committed() == (1 if first else -1001)
        begin = await producer.queue(bed.tp, batch(numbers(10, 10)))
        gate.let_go()
        await until("the late EndTxn to be answered", gate.answered.is_set)
        await bed.settled(cluster, member())
        assert bed.end() == begin.offset, "the late EndTxn ended the open transaction"
        assert await asyncio.to_thread(bed.values) == first
        await producer.commit([(bed.tp, batch(numbers(10, 20)))], bed.offsets(3), member())
        await until("the last transaction to end", lambda: not bed.hangs())
        assert await asyncio.to_thread(bed.values) == first + numbers(20, 10)
        assert bed.committed() == 3


async def test_a_late_end_ends_another_transaction_of_its_epoch(bed: Bed, gate: Holding) -> None:
    """Without that rule, the next transaction of a client that sends EndTxn again with the same epoch is ended."""
    async with bed.member() as member, client(gate.port, bed.topic, False, IMPATIENT_MS) as cluster:
        producer = TransactionalProducer(cluster, bed.group, OPEN_MS)
        await lose_the_end(producer, bed, gate, member())
        producer.lost = None  # as if it were not lost: EndTxn is sent again, the next transaction begins
        await producer._end()
        begin = await producer.queue(bed.tp, batch(numbers(10, 10)))
        await bed.settled(cluster, member())
        assert bed.end() == begin.offset
        gate.let_go()
        await until("the late EndTxn to end the open transaction", lambda: bed.end() > begin.offset + 9)
        assert await asyncio.to_thread(bed.values) == numbers(20)


@FORMS
async def test_an_end_without_an_answer(bed: Bed, gate: Holding, implicit: bool) -> None:
    """A transaction that ended without an answer to its producer exists once and completely."""
    async with bed.member() as member, client(gate.port, bed.topic, implicit, IMPATIENT_MS) as cluster:
        producer = TransactionalProducer(cluster, bed.group, OPEN_MS)
        await producer.initialise()
        gate.hold_next(END_TXN, answer=True)
        with pytest.raises(ProducerLostError, match="did not answer"):
            await producer.commit([(bed.tp, batch(numbers(10)))], bed.offsets(1), member())
        await producer.initialise()
        assert await asyncio.to_thread(bed.values) == numbers(10)
        assert bed.committed() == 1
        await producer.commit([(bed.tp, batch(numbers(10, 10)))], bed.offsets(2), member())
        await until("the transaction to end", lambda: not bed.hangs())
        assert await asyncio.to_thread(bed.values) == numbers(20)


@FORMS
async def test_two_owners(bed: Bed, broker: EmbeddedKafka, implicit: bool) -> None:
    """Once the second owner of a partition has opened its producer, nothing of the first is committed."""
    async with (
        bed.member() as member,
        partition_producers(bed, broker.port, True) as first,
        partition_producers(bed, broker.port, True) as second,
    ):
        for each in (first, second):
            each._cluster.implicit = implicit
        await first.open([0])
        await asyncio.gather(*await first.send_built(bed.topic, 0, first.build(messages([b"open"]))))
        await second.open([0])
        assert await asyncio.to_thread(bed.values) == []
        with pytest.raises(ProducerLostError):
            await first.commit(0, first.build(messages([b"late"])), bed.offsets(1), member())
        assert not first.is_open(0) and second.is_open(0)
        await second.commit(0, second.build(messages([b"good"])), bed.offsets(2), member())
        (late,) = await first.send_built(bed.topic, 0, first.build(messages([b"later still"])))
        with pytest.raises(ProducerLostError):
            await late
        await until("the transaction to end", lambda: not bed.hangs())
        assert await asyncio.to_thread(bed.values) == [b"good"]
        assert bed.committed() == 2


@FORMS
async def test_an_owner_whose_offsets_come_late(bed: Bed, broker: EmbeddedKafka, implicit: bool) -> None:
    """If an owner had written all its records before the second one started, the rest of its commit is refused."""
    async with bed.member() as member, client(broker.port, bed.topic, implicit, PATIENT_MS) as cluster:
        first, second = (TransactionalProducer(cluster, bed.group, OPEN_MS) for _ in range(2))
        await first.initialise()
        await first.queue(bed.tp, batch([b"all of it"]))
        await second.initialise()
        with pytest.raises(ProducerLostError):
            await first.commit([], bed.offsets(1), member())
        assert await asyncio.to_thread(bed.values) == []
        assert bed.committed() == -1001


@FORMS
async def test_a_late_write_opens_no_transaction(
    bed: Bed, broker: EmbeddedKafka, gate: Holding, implicit: bool
) -> None:
    """A late batch of a former owner is refused: no record is written, and no transaction stays open."""
    async with (
        bed.member() as member,
        client(gate.port, bed.topic, implicit, PATIENT_MS) as slow,
        client(broker.port, bed.topic, implicit, PATIENT_MS) as cluster,
    ):
        first = TransactionalProducer(slow, bed.group, OPEN_MS)
        second = TransactionalProducer(cluster, bed.group, OPEN_MS)
        await first.initialise()
        gate.hold_next(PRODUCE)
        late = first.queue(bed.tp, batch([b"late"]))
        await until("the batch to be in flight", gate.held.is_set)
        await second.initialise()
        await second.commit([(bed.tp, batch([b"good"]))], bed.offsets(1), member())
        gate.let_go()
        with pytest.raises(ProducerLostError):
            await asyncio.wait_for(late, 20)
        await bed.settled(cluster, member())
        assert not bed.hangs()
        assert await asyncio.to_thread(bed.values) == [b"good"]


@FORMS
async def test_offsets_of_an_older_generation(bed: Bed, broker: EmbeddedKafka, implicit: bool) -> None:
    """A member with an old generation commits nothing; with the current generation it does."""
    async with bed.member() as member, client(broker.port, bed.topic, implicit, PATIENT_MS) as cluster:
        stale = member()
        async with bed.member():
            await until("the next generation", lambda: member().generation > stale.generation)
            producer = TransactionalProducer(cluster, bed.group, OPEN_MS)
            for wrong in (stale, member()._replace(generation=-1), member()._replace(member_id="nobody")):
                await producer.initialise()
                with pytest.raises(ProducerLostError):
                    await producer.commit([(bed.tp, batch([b"stale"]))], bed.offsets(1), wrong)
            await producer.initialise()
            await producer.commit([(bed.tp, batch([b"good"]))], bed.offsets(2), member())
            await until("the transaction to end", lambda: not bed.hangs())
            assert await asyncio.to_thread(bed.values) == [b"good"]
            assert bed.committed() == 2


# --- at least once: the changelog, outside transactions


async def test_a_late_state_record_of_a_former_owner(bed: Bed, broker: EmbeddedKafka, gate: Holding) -> None:
    """A late state record of the old owner does not overwrite one of the next owner."""
    async with (
        partition_producers(bed, gate.port, False) as first,
        partition_producers(bed, broker.port, False) as second,
    ):
        await first.open([0])
        await asyncio.gather(*await first.send_built(bed.topic, 0, first.build(messages([b"old"]))))
        gate.hold_next(PRODUCE)
        (late,) = await first.send_built(bed.topic, 0, first.build(messages([b"late"])))
        await until("the record to be in flight", gate.held.is_set)
        await second.open([0])
        await asyncio.gather(*await second.send_built(bed.topic, 0, second.build(messages([b"new"]))))
        gate.let_go()
        with pytest.raises(ProducerLostError):
            await asyncio.wait_for(late, 20)
        assert not first.is_open(0) and second.is_open(0)
        found = [(m.key(), m.value()) for m in await asyncio.to_thread(read_all, bed.bootstrap, bed.topic)]
        fence = (FENCE_KEY, None)
        assert found == [fence, (b"key", b"old"), fence, (b"key", b"new")]


async def test_the_fence_is_what_keeps_them_off(bed: Bed, broker: EmbeddedKafka) -> None:
    """A new epoch alone is not enough: the partition accepts an old owner's records until one has the new epoch."""
    async with (
        partition_producers(bed, broker.port, False) as first,
        client(broker.port, bed.topic, True, PATIENT_MS) as cluster,
    ):
        await first.open([0])
        successor = FencedProducer(cluster, f"{bed.group}-0", OPEN_MS)
        await successor.initialise()
        (late,) = await first.send_built(bed.topic, 0, first.build(messages([b"late, and taken"])))
        await asyncio.wait_for(late, 20)
        await successor.queue(bed.tp, batch([b"a record of the new epoch"], transactional=False))
        (later,) = await first.send_built(bed.topic, 0, first.build(messages([b"refused"])))
        with pytest.raises(ProducerLostError):
            await asyncio.wait_for(later, 20)
        assert (await asyncio.to_thread(bed.values))[1:] == [b"late, and taken", b"a record of the new epoch"]


async def test_connections_that_are_reset(bed: Bed, gate: Holding) -> None:
    """Batches in flight, even one whose answer was lost after it was appended, are sent again and appended once."""
    async with partition_producers(bed, gate.port, False) as made:
        await made.open([0, 1])
        gate.hold_next(PRODUCE, answer=True)
        sent = []
        for i in range(150):
            for partition in (0, 1):
                built = made.build(messages(numbers(20, 20 * i)))
                sent += await made.send_built(bed.topic, partition, built)
        await until("the answer to an append", gate.held.is_set)
        gate.reset()
        for share in (30, 90, 180, 270):
            await until(f"{share} batches", lambda n=share: sum(f.done() for f in sent) >= n)
            gate.reset()
        places = await asyncio.wait_for(asyncio.gather(*sent), 30)
        assert made.is_open(0) and made.is_open(1)
        for partition in (0, 1):
            assert [p.offset for p in places[partition::2]] == [1 + 20 * i for i in range(150)]
        found = await asyncio.to_thread(read_all, bed.bootstrap, bed.topic)
        for partition in (0, 1):
            values = [m.value() for m in found if m.partition() == partition and m.key() != FENCE_KEY]
            assert values == numbers(3000)


@pytest.mark.parametrize("transactional", [False, True])
async def test_a_batch_that_is_too_large(bed: Bed, broker: EmbeddedKafka, transactional: bool) -> None:
    """A permanent refusal of the broker fails immediately, without a retry; `is_open` raises the same error."""
    small = f"{bed.topic}-small"
    make(bed.bootstrap, small, max_message_bytes="2000")
    async with bed.member() as member, partition_producers(bed, broker.port, transactional, small) as made:
        await made.open([0])
        built = made.build(messages([b"x" * 5000]))
        async with asyncio.timeout(10):
            if transactional:
                with pytest.raises(MessageSizeTooLargeError):
                    await made.commit(0, built, bed.offsets(1), member())
            else:
                (sent,) = await made.send_built(small, 0, built)
                with pytest.raises(MessageSizeTooLargeError):
                    await sent
        with pytest.raises(MessageSizeTooLargeError):
            made.is_open(0)
    found = await asyncio.to_thread(read_all, bed.bootstrap, small)
    assert not [m for m in found if m.key() != FENCE_KEY]
    assert bed.committed() == -1001
