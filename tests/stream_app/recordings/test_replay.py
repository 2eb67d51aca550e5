"""Recordings to a real Kafka and back, and the pace of a replay."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from hypothesis import given
from hypothesis import strategies as st

from stream_app.contract.partitioner import partitions_of
from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.kafka.errors import BrokerUnreachable, TopicError
from stream_app.lab.broker import EmbeddedKafka
from stream_app.lab.generator import GeneratorSettings, write
from stream_app.recordings.capture import record
from stream_app.recordings.errors import PaceError, RecordingError, TruncatedRecording
from stream_app.recordings.pacing import due_times
from stream_app.recordings.publish import replay
from stream_app.recordings.recording import RecordingReader, RecordingWriter

START = 1_700_000_000_000


def sample(n: int) -> list[Record]:
    """Return records of two topics and three partitions with everything that Kafka keeps, 10 ms apart."""
    offsets: dict[tuple[str, int], int] = {}
    records = []
    for i in range(n):
        place = INPUT_TOPICS[i % 2], i % 3
        offsets[place] = offsets.get(place, -1) + 1
        key = None if i % 7 == 0 else b"u\xff%d" % i
        value = b"" if i % 11 == 0 else bytes([i % 256]) * (i % 50)
        headers = (("a", b"\x00"), ("a", b"%d" % i)) if i % 3 else ()
        records.append(Record(*place, offsets[place], START + 10 * i, key, value, headers))
    return records


def stamped(records: list[Record]) -> list[Record]:
    """Return the records as they arrive: with a header that has each record's received time."""
    return [
        r._replace(headers=(*r.headers, ("foreclick.received", str(r.timestamp).encode()))) for r in records
    ]


def by_partition(records: list[Record]) -> dict[tuple[str, int], list[Record]]:
    groups: dict[tuple[str, int], list[Record]] = {}
    for each in records:
        groups.setdefault((each.topic, each.partition), []).append(each)
    return groups


async def make_topics(kafka: EmbeddedKafka, prefix: str, partitions: int = 3, **config: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        topics = [NewTopic(prefix + name, partitions, 1, topic_configs=config) for name in INPUT_TOPICS]
        response = await admin.create_topics(topics)
        assert all(code == 0 for _, code, *_ in response.topic_errors)
        async with asyncio.timeout(20):  # a broker answers shortly before it lists the topics
            while not {t.name for t in topics} <= {t["topic"] for t in await admin.describe_topics()}:
                await asyncio.sleep(0.02)
    finally:
        await admin.close()


@pytest.mark.kafka
@pytest.mark.parametrize("pace", [{}, {"rate": 5_000.0}, {"speed": 20.0}])
async def test_there_and_back(
    kafka: EmbeddedKafka, prefix: str, tmp_path: Path, pace: dict[str, float]
) -> None:
    """Replayed and recorded again at any pace, records are equal except for one header, in order per partition.

    Replayed once more they are equal bit for bit: the first header stays.
    """
    await make_topics(kafka, prefix)
    records = sample(2_000)
    with RecordingWriter(tmp_path / "a.stream", dict.fromkeys(INPUT_TOPICS, 3)) as writer:
        writer.extend(records)
    seen: list[int] = []
    stats = await replay(
        tmp_path / "a.stream", [kafka.bootstrap], prefix=prefix, on_progress=seen.append, **pace
    )
    assert stats.records == seen[-1] == 2_000
    assert stats.topics == {"clicks": 1_000, "browses": 1_000}
    assert not stats.stopped
    got = await record([kafka.bootstrap], tmp_path / "b.stream", prefix=prefix)
    assert (got.records, got.topics, got.stopped) == (2_000, stats.topics, False)
    back = RecordingReader(tmp_path / "b.stream")
    assert list(back) == stamped(records)  # the times are distinct, so their order is the recorded one
    assert back.topics == dict.fromkeys(INPUT_TOPICS, 3)
    await make_topics(kafka, prefix + "2-")
    later = [each._replace(timestamp=each.timestamp + 5_000) for each in back]
    await replay(later, [kafka.bootstrap], prefix=prefix + "2-")
    await record([kafka.bootstrap], tmp_path / "c.stream", prefix=prefix + "2-")
    assert list(RecordingReader(tmp_path / "c.stream")) == later


@pytest.mark.kafka
async def test_generated_traffic_at_full_speed(kafka: EmbeddedKafka, prefix: str, tmp_path: Path) -> None:
    """A generated stream with its bad records is replayed completely, in many batches."""
    await make_topics(kafka, prefix, 4)
    write(GeneratorSettings(events=30_000, users=2_000, msgpack_share=0.5), tmp_path / "a.stream")
    await replay(tmp_path / "a.stream", [kafka.bootstrap], prefix=prefix)
    await record([kafka.bootstrap], tmp_path / "b.stream", prefix=prefix)
    sent, back = (list(RecordingReader(tmp_path / name)) for name in ("a.stream", "b.stream"))
    assert by_partition(back) == by_partition(stamped(sent))
    times = [each.timestamp for each in back]
    assert times == sorted(times)  # merged in the order of time


@pytest.mark.kafka
async def test_steady_rate_is_smooth(kafka: EmbeddedKafka, prefix: str) -> None:
    """At a rate, records are sent when they are due, a few at a time, never in bursts."""
    await make_topics(kafka, prefix)
    sent: list[tuple[float, int]] = []
    stats = await replay(
        sample(3_000),
        [kafka.bootstrap],
        prefix=prefix,
        rate=1_500.0,
        on_progress=lambda n: sent.append((time.monotonic(), n)),
    )
    assert stats.seconds == pytest.approx(2.0, abs=0.5)
    assert stats.behind_s < 0.5
    first = sent[0][0]
    ahead = [n - 1 - (at - first + 0.02) * 1_500 for at, n in sent]
    assert max(ahead) < 30  # nothing is sent before its time
    assert len({round((at - first) * 100) for at, _ in sent}) > 100  # spread over the two seconds


@pytest.mark.kafka
async def test_stop_and_limit(kafka: EmbeddedKafka, prefix: str, tmp_path: Path) -> None:
    """A stopped or limited replay has sent a prefix of the stream, all of it acknowledged."""
    await make_topics(kafka, prefix)
    stop = asyncio.Event()
    stats = await replay(
        sample(100_000),
        [kafka.bootstrap],
        prefix=prefix,
        rate=2_000.0,
        stop=stop,
        on_progress=lambda n: stop.set() if n >= 100 else None,
    )
    assert stats.stopped
    assert 100 <= stats.records < 1_000
    more = await replay(sample(50), [kafka.bootstrap], prefix=prefix, limit=20)
    assert (more.records, more.stopped) == (20, False)
    got = await record([kafka.bootstrap], tmp_path / "a.stream", prefix=prefix)
    assert got.records == stats.records + 20


@pytest.mark.kafka
async def test_record_from_offsets_and_limit(kafka: EmbeddedKafka, prefix: str, tmp_path: Path) -> None:
    """Recording starts at the given place, stops at its limit, and keeps the offsets of Kafka."""
    await make_topics(kafka, prefix)
    records = sample(600)
    await replay(records, [kafka.bootstrap], prefix=prefix)
    path = tmp_path / "a.stream"
    await record([kafka.bootstrap], path, prefix=prefix, topics=["clicks"], offsets={("clicks", 1): 90})
    got = by_partition(list(RecordingReader(path)))
    assert [each.offset for each in got["clicks", 1]] == list(range(90, 100))
    assert [each.offset for each in got["clicks", 0]] == list(range(100))
    stats = await record([kafka.bootstrap], path, prefix=prefix, limit=10)
    assert stats.records == 10
    assert list(RecordingReader(path)) == stamped(records[:10])
    with pytest.raises(TopicError, match="holds offsets 0 to 100: it cannot be read from 101"):
        await record([kafka.bootstrap], path, prefix=prefix, offsets={("clicks", 1): 101})
    with pytest.raises(TopicError, match="no such partition"):
        await record([kafka.bootstrap], path, prefix=prefix, offsets={("clicks", 3): 0})


@pytest.mark.kafka
async def test_follow_gets_what_comes_until_stopped(
    kafka: EmbeddedKafka, prefix: str, tmp_path: Path
) -> None:
    """Following from the end writes only later records, and ends the file properly when stopped."""
    await make_topics(kafka, prefix)
    await replay(sample(300), [kafka.bootstrap], prefix=prefix)
    stop, started, all_there = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def progress(n: int) -> None:
        started.set()
        if n == 60:
            all_there.set()

    path = tmp_path / "a.stream"
    task = asyncio.create_task(
        record(
            [kafka.bootstrap],
            path,
            prefix=prefix,
            from_end=True,
            follow=True,
            stop=stop,
            on_progress=progress,
        )
    )
    async with asyncio.timeout(20):  # for the recorder to reach the end of the topics
        await started.wait()
    await replay(sample(60), [kafka.bootstrap], prefix=prefix)
    async with asyncio.timeout(20):  # for the new records to be written
        await all_there.wait()
    stop.set()
    stats = await asyncio.wait_for(task, 20)
    assert (stats.records, stats.stopped) == (60, True)
    values = sorted(each.value or b"" for each in RecordingReader(path))
    assert values == sorted(each.value or b"" for each in sample(60))


@pytest.mark.kafka
async def test_record_ends_behind_a_transaction(kafka: EmbeddedKafka, prefix: str, tmp_path: Path) -> None:
    """Markers and aborted records at the end of a topic do not keep a recording from ending, and are not in it."""
    await make_topics(kafka, prefix, 1)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=prefix + "x") as producer:
        async with producer.transaction():
            await producer.send(prefix + "clicks", b"kept", b"u1", partition=0, timestamp_ms=START)
        await producer.begin_transaction()
        await (await producer.send(prefix + "clicks", b"dropped", b"u1", partition=0, timestamp_ms=START))
        await producer.abort_transaction()
    async with asyncio.timeout(20):  # for the recording to end by itself
        await record([kafka.bootstrap], tmp_path / "a.stream", prefix=prefix)
    assert [each.value for each in RecordingReader(tmp_path / "a.stream")] == [b"kept"]


@pytest.mark.kafka
async def test_topics_that_do_not_fit(kafka: EmbeddedKafka, prefix: str, tmp_path: Path) -> None:
    """A missing topic, other partitions and a too large record each give one clear sentence."""
    path = tmp_path / "a.stream"
    with RecordingWriter(path, dict.fromkeys(INPUT_TOPICS, 3)) as writer:
        writer.extend(sample(10))
    with pytest.raises(
        TopicError, match=rf"{prefix}clicks, .*{prefix}purchases are missing: run `foreclick topics --create`"
    ):
        await replay(path, [kafka.bootstrap], prefix=prefix)
    with pytest.raises(TopicError, match=f"{prefix}clicks, {prefix}browses, {prefix}purchases are missing"):
        await record([kafka.bootstrap], tmp_path / "b.stream", prefix=prefix)
    await make_topics(kafka, prefix, 2, **{"max.message.bytes": "1000"})
    with pytest.raises(TopicError, match="has 2 partitions but the recording has 3"):
        await replay(path, [kafka.bootstrap], prefix=prefix)
    await make_topics(kafka, prefix + "4-", 4)
    with pytest.raises(TopicError, match=r"has 4 partitions but the recording has 3, .* give --repartition"):
        await replay(path, [kafka.bootstrap], prefix=prefix + "4-")
    with pytest.raises(TopicError, match=r"refused records for .*clicks, partition 0.*max\.message\.bytes"):
        await replay([sample(1)[0]._replace(value=b"x" * 2_000)], [kafka.bootstrap], prefix=prefix)


@pytest.mark.kafka
async def test_records_lie_where_their_keys_say(kafka: EmbeddedKafka, prefix: str, tmp_path: Path) -> None:
    """With `repartition` a recording fits any number of partitions; each key goes where Kafka's producer puts it."""
    await make_topics(kafka, prefix, 5)
    path = tmp_path / "a.stream"
    with RecordingWriter(path, dict.fromkeys(INPUT_TOPICS, 3)) as writer:
        writer.extend(sample(300))
    await replay(path, [kafka.bootstrap], prefix=prefix, repartition=True)
    await record([kafka.bootstrap], tmp_path / "b.stream", prefix=prefix)
    back = list(RecordingReader(tmp_path / "b.stream"))
    assert len(back) == 300
    keyed = [each for each in back if each.key is not None]
    wanted = partitions_of([each.key or b"" for each in keyed], 5).tolist()
    assert [each.partition for each in keyed] == wanted
    assert len(set(wanted)) == 5


@pytest.mark.kafka
async def test_a_recording_does_not_choose_its_topics(
    kafka: EmbeddedKafka, prefix: str, tmp_path: Path
) -> None:
    """Records go to other topics than the inputs only if these are named, and only to topics in the head."""
    await make_topics(kafka, prefix)
    path, forged = tmp_path / "a.stream", sample(1)[0]._replace(topic="flags")
    with RecordingWriter(path, {**dict.fromkeys(INPUT_TOPICS, 3), "flags": 3}) as writer:
        writer.extend([*sample(10), forged])
    with pytest.raises(TopicError, match=r"a\.stream holds records of flags, .* name each topic .* --topic"):
        await replay(path, [kafka.bootstrap], prefix=prefix)
    with pytest.raises(
        TopicError, match=r"a\.stream holds no records of carts, only of browses, clicks, flags"
    ):
        await replay(path, [kafka.bootstrap], prefix=prefix, topics=["carts"])
    assert (await replay(path, [kafka.bootstrap], prefix=prefix, topics=["clicks"])).topics == {"clicks": 5}
    for wrong in (forged, sample(1)[0]._replace(partition=3)):
        with RecordingWriter(path, dict.fromkeys(INPUT_TOPICS, 3)) as writer:
            writer.topics.update({"flags": 3, "clicks": 4})  # only here: the head is written
            writer.extend([*sample(10), wrong])
        with pytest.raises(
            RecordingError, match=f"a record of topic '{wrong.topic}', partition .* do not trust"
        ):
            await replay(path, [kafka.bootstrap], prefix=prefix)
    with pytest.raises(RecordingError, match="a record of topic 'flags'"):
        await replay([forged], [kafka.bootstrap], prefix=prefix)


@pytest.mark.kafka
async def test_a_truncated_recording_is_sent_up_to_its_break(
    kafka: EmbeddedKafka, prefix: str, tmp_path: Path
) -> None:
    """Replay of a truncated file fails with the typed error, after its complete blocks are in Kafka."""
    await make_topics(kafka, prefix)
    path = tmp_path / "a.stream"
    with RecordingWriter(path, dict.fromkeys(INPUT_TOPICS, 3)) as writer:
        writer.extend(sample(300))
        writer.flush()
        writer.extend(sample(300))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(TruncatedRecording, match="300 records"):
        await replay(path, [kafka.bootstrap], prefix=prefix)
    assert (await record([kafka.bootstrap], tmp_path / "b.stream", prefix=prefix)).records == 300


async def test_no_broker(tmp_path: Path) -> None:
    """Without a broker, both directions give an error with the remedy."""
    nobody: Any = ["127.0.0.1:1"]
    with pytest.raises(BrokerUnreachable, match="foreclick broker start"):
        await replay(sample(1), nobody)
    with pytest.raises(BrokerUnreachable, match="foreclick broker start"):
        await record(nobody, tmp_path / "a.stream")
    assert not (tmp_path / "a.stream").exists()


@given(times=st.lists(st.integers(0, 10**13), min_size=1), speed=st.floats(0.01, 1_000))
def test_recorded_pace(times: list[int], speed: float) -> None:
    """At a factor of the recorded pace, due times start at zero, follow the latest time and never go back."""
    due = due_times(speed, None)
    got = [due(number, at) for number, at in enumerate(times)]
    assert got[0] == 0
    assert got == sorted(got)
    assert got[-1] == pytest.approx((max(times) - times[0]) / 1000 / speed)


def test_steady_pace_and_impossible_ones() -> None:
    """A rate spaces records evenly, no pace makes all due at once, and an impossible pace is refused."""
    due = due_times(None, 4.0)
    assert [due(number, 0) for number in range(3)] == [0, 0.25, 0.5]
    assert due_times(None, None)(10, 10) == 0
    for speed, rate in ((1.0, 1.0), (0.0, None), (None, -1.0)):
        with pytest.raises(PaceError, match="replay"):
            due_times(speed, rate)
