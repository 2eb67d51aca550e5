"""A worker of this version continues from the changelog and the offsets of commit 3c99cd3, on a real broker."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from stream_app.cli import main
from stream_app.contract.records import INPUT_TOPICS
from stream_app.contract.topics import SHOP
from stream_app.lab.broker import EmbeddedKafka
from tests.integration.harness import Start, make_topics, produce, read_all, settings_for, wait_for
from tests.reference import data
from tests.reference.data import MODEL, Changelog

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]


def put_back(bootstrap: str, prefix: str, stored: Changelog) -> str:
    """Write the changelog into a topic of its own group, and commit the offsets; return the topic."""
    settings = settings_for(bootstrap, prefix)
    name = SHOP.of(settings).changelog.removeprefix(prefix)
    produce(bootstrap, prefix, [r._replace(topic=name) for r in stored.records])
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": settings.group, "log_level": 0})
    offsets = [
        TopicPartition(prefix + topic, partition, offset)
        for topic in INPUT_TOPICS
        for partition, offset in enumerate(stored.committed[topic])
    ]
    consumer.commit(offsets=offsets, asynchronous=False)
    consumer.close()
    return SHOP.of(settings).changelog


def replay(bootstrap: str, prefix: str) -> None:
    """Send the recording like `foreclick replay`."""
    recording = str(data.recording("plain"))
    with pytest.raises(SystemExit) as ended:
        main(["replay", recording, "--brokers", bootstrap, "--topic-prefix", prefix])
    assert not ended.value.code


def answers(bootstrap: str, prefix: str, topic: str) -> data.Answers:
    """Return the records of an output topic by the place of their source record, without the prefix."""
    found: data.Answers = {}
    for message in read_all(bootstrap, prefix + topic):
        if topic == "dead-letters":
            headers: dict[str, Any] = {name: value.decode() for name, value in message.headers()}
            said = data.letter(None, None, headers)
            said = {"id": said["id"], "reason": said["reason"]}
        else:
            said = json.loads(message.value())
        said["id"] = said["id"].removeprefix(prefix)
        found[said["id"]] = said
    return found


@pytest.mark.parametrize(
    ("guarantee", "model"), [("at_least_once", "model"), ("exactly_once", "model"), ("exactly_once", "none")]
)
def test_a_worker_goes_on_where_that_commit_stopped(
    kafka: EmbeddedKafka, prefix: str, tmp_path: Path, start: Start, guarantee: str, model: str
) -> None:
    """The worker answers the rest of the recording like that commit: nothing before it, and nothing twice."""
    bootstrap, stored = kafka.bootstrap, data.changelog(guarantee, model)
    asyncio.run(make_topics(bootstrap, prefix, partitions=2))
    changelog = put_back(bootstrap, prefix, stored)
    replay(bootstrap, prefix)
    before = len(read_all(bootstrap, changelog))
    more = {"model": MODEL} if model == "model" else {}
    worker = start(tmp_path, bootstrap, prefix, guarantee=guarantee, device="cpu", **more).wait_ready()
    wanted = {t: data.behind(data.answers("plain", model, t), stored.committed) for t in data.TOPICS}

    def processed() -> bool:
        return len(answers(bootstrap, prefix, "predictions")) >= len(wanted["predictions"])

    wait_for("the rest to be answered", processed, 90, 0.5)
    assert worker.stop() == 0
    wanted["dead-letters"] = {
        place: {"id": place, "reason": said["reason"]} for place, said in wanted["dead-letters"].items()
    }
    for topic in data.TOPICS:
        found = answers(bootstrap, prefix, topic)
        assert wanted[topic] and not data.differences("plain", topic, wanted[topic], found)[:5], topic
    assert len(read_all(bootstrap, changelog)) > before
