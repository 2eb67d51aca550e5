"""What counts as another topic, and the broker's description of its topics."""

import asyncio

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from confluent_kafka.admin import AdminClient, NewTopic

from stream_app.kafka.topic_ids import Topic, describe
from stream_app.kafka.topics import BATCH_BYTES
from stream_app.lab.broker import EmbeddedKafka
from stream_app.worker.transport import producer
from stream_app.worker.watches.topic_watch import changes

FIRST = {"clicks": Topic(b"a" * 16, 4), "flags": Topic(b"b" * 16, 4)}
KEPT = {"clicks"}


@pytest.mark.parametrize(
    "now, said",
    [
        (FIRST, []),
        ({}, []),  # the broker gave no answer
        ({"clicks": None}, ["topic clicks was deleted: "]),
        ({"flags": None}, ["topic flags was deleted: "]),
        ({"clicks": Topic(b"c" * 16, 4)}, ["topic clicks was deleted and made again"]),
        ({"flags": Topic(b"c" * 16, 4)}, []),
        ({"flags": Topic(b"c" * 16, 5)}, ["topic flags has 5 partitions now, 4 when"]),
        (
            {"clicks": None, "flags": Topic(b"b" * 16, 6)},
            ["topic clicks was", "topic flags has 6 partitions"],
        ),
    ],
)
def test_changes(now: dict[str, Topic | None], said: list[str]) -> None:
    """A missing topic, another id where it matters, and another number of partitions are reported, in that order."""
    found = changes(FIRST, now, KEPT)
    assert len(found) == len(said)
    for text, start in zip(found, said, strict=True):
        assert text.startswith(start)


@pytest.mark.kafka
async def test_describe(kafka: EmbeddedKafka, prefix: str) -> None:
    """A topic keeps its id until it is deleted; a new one has another; a missing one is None, and is not created."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    name, missing = f"{prefix}here", f"{prefix}missing"

    def make() -> None:
        admin.create_topics([NewTopic(name, 3, 1)])[name].result(20)

    client = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await client.start()
    try:
        make()
        topic = await known(client, name)
        assert topic.partitions == 3 and len(topic.id) == 16 and any(topic.id)
        assert await describe(client, [name, missing]) == {name: topic, missing: None}
        admin.delete_topics([name])[name].result(20)
        make()
        assert (await known(client, name, topic)).id != topic.id
        assert missing not in admin.list_topics(timeout=20).topics
    finally:
        await client.close()


async def known(client: AIOKafkaAdminClient, name: str, before: Topic | None = None) -> Topic:
    """Return the topic once the broker knows it and not the one `before`, which takes a moment."""
    async with asyncio.timeout(20):
        while (topic := (await describe(client, [name]))[name]) in (None, before):
            await asyncio.sleep(0.05)
    assert topic is not None
    return topic


def test_largest_batch() -> None:
    """The size that the check of topics uses is that of the producer."""
    assert BATCH_BYTES == producer.BATCH_BYTES
