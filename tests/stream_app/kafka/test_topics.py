"""Topics on a real broker: created as the worker needs them; every mismatch is reported in one sentence."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from stream_app.contract.topics import SHOP, Topics
from stream_app.kafka.errors import BrokerUnreachable, TopicError
from stream_app.kafka.topic_problems import Problem, commands
from stream_app.kafka.topics import check_topics, ensure_topics, require_topics
from stream_app.lab.broker import EmbeddedKafka
from stream_app.settings import Settings, load_settings

pytestmark = pytest.mark.kafka


@pytest.fixture
def topics(settings: Settings) -> Topics:
    """The topics of a worker with these settings."""
    return SHOP.of(settings)


@pytest.fixture
def settings(kafka: EmbeddedKafka, prefix: str) -> Settings:
    return load_settings(
        env={}, options={"brokers": kafka.bootstrap, "topic_prefix": prefix, "partitions": 2}
    )


@pytest.fixture
async def admin(kafka: EmbeddedKafka) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await client.start()
    yield client
    await client.close()


async def make(admin: AIOKafkaAdminClient, name: str, partitions: int, configs: Mapping[str, str]) -> None:
    response = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=dict(configs))])
    assert [code for _, code, *_ in response.topic_errors] == [0]
    async with asyncio.timeout(10):  # a broker answers shortly before it lists the topic
        while name not in await partitions_of(admin, name):
            await asyncio.sleep(0.02)


async def configs_of(admin: AIOKafkaAdminClient, name: str) -> dict[str, str]:
    (response,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    (found,) = response.resources
    return {key: value for key, value, *_ in found[4]}


async def partitions_of(admin: AIOKafkaAdminClient, prefix: str) -> dict[str, int]:
    topics: list[dict[str, Any]] = await admin.describe_topics()
    return {each["topic"]: len(each["partitions"]) for each in topics if each["topic"].startswith(prefix)}


async def test_missing_topics_are_named_and_not_made_by_looking(
    settings: Settings, topics: Topics, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """A check on an empty broker names all seven topics, and there are still none afterwards."""
    problems = await check_topics(settings, topics)
    assert [each.topic for each in problems] == list(topics.all)
    assert all(each.fatal and "foreclick topics --create" in each.text for each in problems)
    assert await partitions_of(admin, prefix) == {}


async def test_topics_are_made_as_the_worker_needs_them(
    settings: Settings, topics: Topics, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """Same partition count everywhere, broker's time, a compacted changelog, room for dead letters."""
    made = await ensure_topics(settings, topics)
    assert made == topics.all
    assert await partitions_of(admin, prefix) == dict.fromkeys(made, 2)
    for name in topics.all[:-1]:
        configs = await configs_of(admin, name)
        assert (configs["cleanup.policy"], configs["message.timestamp.type"]) == ("delete", "LogAppendTime")
    changelog = await configs_of(admin, topics.changelog)
    assert changelog["cleanup.policy"] == "compact"
    assert int(changelog["min.compaction.lag.ms"]) > 0
    inputs = await configs_of(admin, topics.inputs[0])
    dead_letters = await configs_of(admin, topics.outputs["dead-letters"])
    assert int(dead_letters["max.message.bytes"]) > int(inputs["max.message.bytes"])
    assert await check_topics(settings, topics) == []


async def test_making_twice_changes_nothing(settings: Settings, topics: Topics) -> None:
    """The second call finds all topics; a worker may call it at every start."""
    await ensure_topics(settings, topics)
    assert await ensure_topics(settings, topics) == ()
    assert await require_topics(settings, topics) == []


async def test_two_that_make_topics_at_once(
    settings: Settings, topics: Topics, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """If workers start together, each topic is created by one of them, and none fails."""
    made = await asyncio.gather(*(ensure_topics(settings, topics) for _ in range(3)))
    names = topics.all
    assert sorted(name for each in made for name in each) == sorted(names)


async def test_new_topics_take_the_partitions_of_those_there_are(
    settings: Settings, topics: Topics, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    """If the shop's clicks have five partitions, all other topics get five, whatever the setting is."""
    await make(admin, topics.inputs[0], 5, {"message.timestamp.type": "LogAppendTime"})
    made = await ensure_topics(settings, topics)
    assert topics.inputs[0] not in made
    assert set((await partitions_of(admin, prefix)).values()) == {5}


@pytest.mark.parametrize("index", [1, 3, 5, 6])
async def test_a_wrong_number_of_partitions(
    settings: Settings, topics: Topics, admin: AIOKafkaAdminClient, prefix: str, index: int
) -> None:
    """An input, output or changelog that does not match is named with both numbers, and nothing is created."""
    names = topics.all
    append_time = {"message.timestamp.type": "LogAppendTime"}
    await make(admin, names[0], 4, append_time)
    await make(admin, names[index], 3, {"cleanup.policy": "compact"} if index == 6 else append_time)
    expected = f"topic {names[index]} has 3 partitions but {names[0]} has 4"
    assert any(expected in each.text and each.fatal for each in await check_topics(settings, topics))
    with pytest.raises(TopicError, match=expected):
        await ensure_topics(settings, topics)
    with pytest.raises(TopicError, match=expected):
        await require_topics(settings, topics)
    assert len(await partitions_of(admin, prefix)) == 2


async def test_a_changelog_that_forgets_is_refused(
    settings: Settings, topics: Topics, admin: AIOKafkaAdminClient
) -> None:
    """A delete policy on the changelog is fatal, since the state would vanish after the retention."""
    await make(admin, topics.changelog, 2, {"cleanup.policy": "delete"})
    with pytest.raises(TopicError, match=r"cleanup\.policy=delete, which loses state: set it to compact"):
        await ensure_topics(settings, topics)


async def test_advice_does_not_stop_a_worker(
    settings: Settings, topics: Topics, admin: AIOKafkaAdminClient
) -> None:
    """Create times in outputs, compacted inputs and small dead letters give warnings only."""
    append_time = {"message.timestamp.type": "LogAppendTime"}
    await make(admin, topics.inputs[0], 2, {"cleanup.policy": "compact", **append_time})
    await make(admin, topics.outputs["predictions"], 2, {})
    await make(admin, topics.outputs["dead-letters"], 2, append_time)
    await ensure_topics(settings, topics)
    advice = [(each.topic, each.text) for each in await require_topics(settings, topics)]
    assert [topic for topic, _ in advice] == [
        topics.inputs[0],
        topics.outputs["predictions"],
        topics.outputs["dead-letters"],
    ]
    assert "drops records of one key" in advice[0][1]
    assert "message.timestamp.type to LogAppendTime" in advice[1][1]
    assert "set max.message.bytes to" in advice[2][1]


def test_advice_comes_with_its_commands() -> None:
    """One command for each configuration, whatever the number of topics; none for what is fatal or missing."""
    time, size = "message.timestamp.type=LogAppendTime", "max.message.bytes=2000000"
    problems = [
        Problem("clicks", "missing", True, missing=True),
        Problem("predictions", "…", False, time),
        Problem("flags", "…", False, time),
        Problem("dead-letters", "…", False, size),
    ]
    alter = "kafka-configs.sh --bootstrap-server b:1 --alter --entity-type topics --entity-name"
    assert list(commands(("b:1",), problems)) == [
        f"for topic in predictions flags; do {alter} $topic --add-config {time}; done",
        f"{alter} dead-letters --add-config {size}",
    ]


async def test_the_command_prints_them_once(
    settings: Settings, topics: Topics, admin: AIOKafkaAdminClient
) -> None:
    """For outputs that the shop created: advice for each, one command for all."""
    append_time = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": "2000000"}
    for name in topics.inputs:
        await make(admin, name, 2, append_time)
    for name in topics.outputs.values():
        await make(admin, name, 2, {"max.message.bytes": "3000000"})
    options = ("--brokers", settings.bootstrap, "--topic-prefix", settings.topic_prefix)
    command = (
        sys.executable,
        "-c",
        "from stream_app.cli import main; main()",
        "topics",
        "--create",
        *options,
    )
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert not ended.returncode
    said = ended.stderr
    assert said.count("advice") == 4 and said.count("kafka-configs.sh") == 1
    assert f"for topic in {' '.join(topics.outputs.values())}; do " in said


async def test_the_producers_time_must_be_asked_for(
    settings: Settings, topics: Topics, admin: AIOKafkaAdminClient
) -> None:
    """An input with Kafka's default time stops a worker with two remedies, and works if the setting allows it."""
    await make(admin, topics.inputs[1], 2, {})
    both = (
        rf"topic {topics.inputs[1]} keeps the producer's time, .*: run `kafka-configs.sh .* --entity-name "
        rf"{topics.inputs[1]} --add-config message.timestamp.type=LogAppendTime`, or set "
        "FORECLICK_RECORD_TIME=producer"
    )
    for refuse in (ensure_topics, require_topics):
        with pytest.raises(TopicError, match=both):
            await refuse(settings, topics)
    trusting = msgspec.structs.replace(settings, record_time="producer")
    await ensure_topics(trusting, SHOP.of(trusting))
    assert await require_topics(trusting, SHOP.of(trusting)) == []


async def test_more_copies_than_brokers(settings: Settings) -> None:
    """A refusal of the broker is reported with its text and the topic."""
    three = load_settings(
        env={},
        options={"brokers": settings.bootstrap, "topic_prefix": settings.topic_prefix, "replication": 3},
    )
    with pytest.raises(TopicError, match=rf"topic {SHOP.of(three).inputs[0]} cannot be made: .*replication"):
        await ensure_topics(three, SHOP.of(three))


@pytest.mark.parametrize("listens", [False, True])
async def test_no_broker_is_told_within_the_wait(listens: bool) -> None:
    """A closed port, and one that accepts and never answers: one sentence within the given time."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        if listens:
            reserved.listen()
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        settings = load_settings(env={}, options={"brokers": address})
        start = time.monotonic()
        with pytest.raises(
            BrokerUnreachable, match=rf"no Kafka broker answers at {address} \(tried for 1(\.\d)? s\)"
        ):
            await check_topics(settings, topics, wait_s=1.0)
        assert time.monotonic() - start < 5.0
