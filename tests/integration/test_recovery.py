"""Reading a changelog back from a real Kafka."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer

from stream_app.contract.record_columns import RecordColumns
from stream_app.lab.broker import EmbeddedKafka
from stream_app.worker import changelog_reader as recovery
from stream_app.worker.changelog_reader import ChangelogReader
from stream_app.worker.errors import RecoveryError
from tests.integration.faust_member import make, send

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


@pytest.fixture
async def topic(kafka: EmbeddedKafka, prefix: str) -> str:
    """A changelog of three partitions: 9,000 records in the first, none in the second, 500 in the third."""
    name = f"{prefix}changelog"
    make(kafka.bootstrap, name, partitions=3)
    producer = Producer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "compression.type": "lz4",
            "batch.num.messages": 500,
            "enable.idempotence": True,
        }
    )
    for p, n in ((0, 9000), (2, 500)):
        for i in range(n):
            producer.produce(name, None if i % 10 == 0 else b"%d" % i * 20, b"u%d" % i, partition=p)
        assert producer.flush(30) == 0
    return name


@pytest.fixture
async def reader(kafka: EmbeddedKafka, topic: str) -> AsyncIterator[ChangelogReader]:
    """A started reader, stopped with the test."""
    reader = ChangelogReader(topic, bootstrap_servers=kafka.bootstrap)
    await reader.start()
    yield reader
    await reader.stop()


class Kept:
    """Keeps the records that it gets."""

    def __init__(self) -> None:
        self.records: dict[int, list[tuple[bytes | None, bytes | None]]] = defaultdict(list)
        self.counts: list[tuple[int, int]] = []

    async def apply(self, partition: int, records: RecordColumns, count: int, total: int) -> None:
        assert records.partition == partition and len(records)
        self.records[partition] += zip(records.keys(), records.values(), strict=True)
        self.counts.append((count, total))


def expected(n: int) -> list[tuple[bytes, bytes | None]]:
    return [(b"u%d" % i, None if i % 10 == 0 else b"%d" % i * 20) for i in range(n)]


async def test_all_of_some_partitions(reader: ChangelogReader) -> None:
    """All records of the requested partitions arrive in order, with tombstones; the counts rise to the total."""
    kept = Kept()
    assert await reader.read([0, 1, 2], kept.apply) == (9500, {0: 9000, 1: 0, 2: 500})
    assert kept.records == {0: expected(9000), 2: expected(500)}
    assert [c for c, _ in kept.counts] == sorted(c for c, _ in kept.counts)
    assert kept.counts[-1] == (9500, 9500)
    assert await reader.ends([0, 2]) == {0: 9000, 2: 500}
    again = Kept()
    assert await reader.read([2], again.apply) == (500, {2: 500}), "a reader may be used again"
    assert again.records == {2: expected(500)}
    assert await reader.read([1], again.apply) == (0, {1: 0})


async def test_nothing_behind_the_end(
    kafka: EmbeddedKafka, topic: str, reader: ChangelogReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records appended during reading are not passed on, even if they are in the same fetch."""
    monkeypatch.setattr(reader._consumer._fetcher, "_max_partition_fetch_bytes", 20_000)
    kept = Kept()

    async def apply(partition: int, records: RecordColumns, count: int, total: int) -> None:
        if not kept.counts:
            await asyncio.to_thread(send, kafka.bootstrap, topic, [b"later"] * 50, 0)
        await kept.apply(partition, records, count, total)

    assert await reader.read([0], apply) == (9000, {0: 9000})
    assert kept.records == {0: expected(9000)}
    assert len(kept.counts) > 3, "it took several fetches"


async def test_reading_goes_on_while_records_are_applied(
    reader: ChangelogReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next fetch has arrived before `apply` of the one before is done."""
    monkeypatch.setattr(reader._consumer._fetcher, "_max_partition_fetch_bytes", 20_000)
    position, ahead = reader._consumer.position, []

    async def apply(partition: int, records: RecordColumns, count: int, total: int) -> None:
        if count < total:
            behind = int(records.spans["offset"][-1]) + 1
            (tp,) = reader._consumer.assignment()
            end = asyncio.get_running_loop().time() + 10
            while await position(tp) <= behind:
                assert asyncio.get_running_loop().time() < end, "waited 10 s for the next fetch"
                await asyncio.sleep(0.005)
            ahead.append(count)

    assert (await reader.read([0], apply))[0] == 9000
    assert len(ahead) > 3


async def test_aborted_records_are_no_state(kafka: EmbeddedKafka, prefix: str) -> None:
    """Reading ends after the marker of an aborted transaction, without its records."""
    name = f"{prefix}changelog"
    make(kafka.bootstrap, name)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=f"{prefix}w") as producer:
        for turn in range(4):
            await producer.begin_transaction()
            await producer.send_and_wait(name, b"%d" % turn, partition=0)
            await (producer.abort_transaction() if turn % 2 else producer.commit_transaction())
    reader, kept = ChangelogReader(name, bootstrap_servers=kafka.bootstrap), Kept()
    await reader.start()
    try:
        assert await asyncio.wait_for(reader.read([0], kept.apply), 30) == (2, {0: 8})
    finally:
        await reader.stop()
    assert kept.records == {0: [(None, b"0"), (None, b"2")]}


async def test_an_error_of_apply_ends_reading(reader: ChangelogReader) -> None:
    """An error of `apply` is raised, and the reader can be used again."""

    async def apply(partition: int, records: RecordColumns, count: int, total: int) -> None:
        raise ValueError("no row")

    with pytest.raises(ValueError, match="no row"):
        await reader.read([0, 2], apply)
    kept = Kept()
    assert (await reader.read([2], kept.apply))[0] == 500


async def test_a_broker_that_says_nothing(reader: ChangelogReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no record arrives for long, reading fails and names the partition that it waited for."""
    monkeypatch.setattr(recovery, "STALL_S", 1.0)
    kept = Kept()
    end_offsets = reader._consumer.end_offsets

    async def further(tps: list[object]) -> dict[object, int]:
        return {tp: end + 5 for tp, end in (await end_offsets(tps)).items()}

    monkeypatch.setattr(reader._consumer, "end_offsets", further)
    with pytest.raises(RecoveryError, match=r"changelog-2 came for 1 s"):
        await reader.read([2], kept.apply)
    assert kept.records == {2: expected(500)}


async def test_stop_right_after_reading(kafka: EmbeddedKafka, topic: str) -> None:
    """A reader stops immediately, even while the fetch after the last record is in progress."""
    for _ in range(5):
        reader, kept = ChangelogReader(topic, bootstrap_servers=kafka.bootstrap), Kept()
        await reader.start()
        await reader.read([2], kept.apply)
        await asyncio.wait_for(reader.stop(), 5)
