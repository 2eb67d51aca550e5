"""Every output fits its topic, on a real broker: what is too large is cut, whatever the guarantee and the codec."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import MessageSizeTooLargeError
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from stream_app.contract.outputs import Message
from stream_app.kafka.record_batches.size_limits import SizeLimits
from stream_app.kafka.record_batches.truncation import cut_dead_letter
from stream_app.lab.broker import EmbeddedKafka
from stream_app.worker.producers.partition_producers import FENCE_KEY
from tests.integration.faust_member import Join, make, until
from tests.integration.harness import Reader, Start, clicks, make_topics, produce, read_all, wait_for
from tests.integration.producer_bed import Bed, partition_producers

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


def limit(bootstrap: str, topic: str, size: int) -> None:
    """Sets the largest batch of a topic."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(20)


def poison(bootstrap: str, topic: str, value: bytes, headers: Any = (), key: bytes = b"mallory") -> None:
    """Send one record that is small when compressed and large when read."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "compression.codec": "zstd", "message.max.bytes": 100_000_000}
    )
    failed: list[str] = []
    producer.produce(
        topic, value, key, 0, headers=list(headers),
        on_delivery=lambda error, _: failed.append(str(error)) if error else None,
    )  # fmt: skip
    assert producer.flush(30) == 0 and not failed, failed


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
async def test_a_bad_record_larger_than_dead_letters_takes(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path, guarantee: str, compression: str
) -> None:
    """A few bytes that expand to 3 MB become a dead letter with beginning, length and hash; the rest continues."""
    await make_topics(kafka.bootstrap, prefix)
    worker = start(tmp_path, kafka.bootstrap, prefix, guarantee=guarantee, compression=compression)
    worker.wait_ready()
    large = bytes(3_000_000)
    small = [(b"x" * n, [("trace", b"7")]) for n in (70_000, 300_000)]
    for value, headers in [small[0], (large, [("foreclick.reason", b"empty")]), small[1]]:
        poison(kafka.bootstrap, f"{prefix}clicks", value, headers)
    many = [("trace", b"t" * 30_000)] * 40
    poison(kafka.bootstrap, f"{prefix}clicks", b"{}", many, key=bytes(1_200_000))
    records = clicks(400)
    produce(kafka.bootstrap, prefix, records)
    answers = Reader(kafka.bootstrap, f"{prefix}predictions")
    answers.read_until("all answers", lambda m: len(m) >= 400)
    dead = Reader(kafka.bootstrap, f"{prefix}dead-letters")
    first, cut, last, other = dead.read_until("the dead letters", lambda m: len(m) >= 4)
    assert (first.value(), last.value()) == (small[0][0], small[1][0])
    headers = dict(cut.headers())
    assert large.startswith(cut.value()) and 1_000_000 < len(cut.value()) < 3_000_000
    assert headers["foreclick.value.length"] == b"3000000"
    assert headers["foreclick.value.sha256"] == hashlib.sha256(large).hexdigest().encode()
    assert (headers["foreclick.reason"], headers["source.foreclick.reason"]) == (b"too_large", b"empty")
    told = dict(other.headers())
    assert other.value() == b"{}" and bytes(1_200_000).startswith(other.key()) and len(other.key()) > 200_000
    assert (told["foreclick.key.length"], told["foreclick.headers.dropped"]) == (b"1200000", b"40")
    assert "trace" not in told
    topic = f"{prefix}dead-letters"
    assert worker.metric("foreclick_cut_outputs_total", topic=topic) == 2
    assert worker.stop() == 0
    answers.close()
    dead.close()


@pytest.mark.slow
@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
async def test_topics_that_take_less_while_a_worker_runs(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path, guarantee: str
) -> None:
    """Batches are sent again, smaller, and dead letters cut further; nothing is lost, repeated or out of order."""
    await make_topics(kafka.bootstrap, prefix, partitions=1)
    worker = start(tmp_path, kafka.bootstrap, prefix, guarantee=guarantee).wait_ready()
    predictions, letters = f"{prefix}predictions", f"{prefix}dead-letters"
    limit(kafka.bootstrap, predictions, 20_000)
    limit(kafka.bootstrap, letters, 20_000)
    records = clicks(3000, partitions=1)
    produce(kafka.bootstrap, prefix, records)
    for n in (100_000, 1000, 200_000):
        poison(kafka.bootstrap, f"{prefix}clicks", b"x" * n)
    answers, dead = Reader(kafka.bootstrap, predictions), Reader(kafka.bootstrap, letters)
    found = answers.read_until("all answers", lambda m: len(m) >= 3000)
    assert [json.loads(m.value())["id"] for m in found] == [f"{prefix}clicks-0-{i}" for i in range(3000)]
    bad = dead.read_until("the dead letters", lambda m: len(m) >= 3)
    assert [dict(m.headers()).get("foreclick.value.length") for m in bad] == [b"100000", None, b"200000"]
    assert bad[1].value() == b"x" * 1000
    wait_for("the commit", lambda: worker.metric("foreclick_consumer_lag_records") == 0)
    assert worker.stop() == 0
    answers.close()
    dead.close()


def pieces(n: int, size: int) -> list[Message]:
    return [(b"key", b"%06d" % i + b"x" * size, []) for i in range(n)]


@pytest.mark.parametrize("transactional", [False, True])
async def test_a_lane_sends_a_refused_batch_again_in_pieces(
    kafka: EmbeddedKafka, prefix: str, transactional: bool
) -> None:
    """A refused batch is built again for half the size until it fits, in order and with each record once."""
    bed, small = Bed(kafka, prefix), f"{prefix}small"
    make(kafka.bootstrap, small, max_message_bytes="3000")
    async with bed.member() as member, partition_producers(bed, kafka.port, transactional, small) as made:
        made.sizes = SizeLimits({small: cut_dead_letter})
        await made.open([0])
        sent = pieces(50, 200)
        sent[20] = (b"key", b"000020" + b"y" * 9000, [])
        built = made.build(sent, small)
        if transactional:
            (place,) = await made.commit(0, built, bed.offsets(1), member())
        else:
            (waiting,) = await made.send_built(small, 0, built)
            place = await waiting
    found = [m for m in read_all(kafka.bootstrap, small) if m.key() != FENCE_KEY]
    assert [m.value()[:6] for m in found] == [b"%06d" % i for i in range(50)]
    assert found[0].offset() == place.offset
    assert dict(found[20].headers())["foreclick.value.length"] == b"9006"
    assert all(not m.headers() for i, m in enumerate(found) if i != 20)


async def test_the_idempotent_producer_sends_a_refused_batch_again(
    kafka: EmbeddedKafka, prefix: str, join: Join
) -> None:
    """The same without transactions, with batches after the refused one; a record that cannot be cut is an error."""
    topic, other = f"{prefix}in", f"{prefix}small"
    make(kafka.bootstrap, topic)
    make(kafka.bootstrap, other, max_message_bytes="3000")
    member = await join(f"{prefix}group", topic)
    await until("the assignment", member.settled)
    member.app.size_limits = SizeLimits({other: cut_dead_letter})
    producer = member.producer
    built = [
        b for start in range(0, 90, 30) for b in producer.build(pieces(90, 200)[start : start + 30], other)
    ]
    places = [await each for each in await producer.send_built(other, 0, built)]
    assert [place.offset for place in places] == [0, 30, 60]
    found = read_all(kafka.bootstrap, other)
    assert [m.value()[:6] for m in found] == [b"%06d" % i for i in range(90)]
    member.app.size_limits = SizeLimits()
    (refused,) = await producer.send_built(other, 0, producer.build(pieces(1, 5000), other))
    with pytest.raises(MessageSizeTooLargeError):
        await refused
