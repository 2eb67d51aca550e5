"""Two producers that place keys by different rules: the worker reports it."""

import json
from pathlib import Path
from zlib import crc32

import pytest
from confluent_kafka import Producer

from stream_app.contract.partitioner import partitions_of
from stream_app.lab.broker import EmbeddedKafka
from tests.integration.harness import Start, make_topics, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]


async def test_two_partitioners(kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path) -> None:
    """Users in two partitions are counted, logged once, shown in readiness, and looked up where Java places them."""
    await make_topics(kafka.bootstrap, prefix)
    users = [f"mix{i}" for i in range(20)]
    for topic, options in (("clicks", {"partitioner": "murmur2_random"}), ("purchases", {})):
        producer = Producer({"bootstrap.servers": kafka.bootstrap, **options})
        for n in range(40):
            value = {"user_id": users[n % 20], "ts": 1_700_000_000_000 + n, "item_id": "i1"}
            producer.produce(prefix + topic, json.dumps(value), users[n % 20])
        assert producer.flush(30) == 0
    java = partitions_of([user.encode() for user in users], 4).tolist()
    split = {user: p for user, p in zip(users, java, strict=True) if p != crc32(user.encode()) % 4}
    assert 0 < len(split) < 20
    worker = start(tmp_path, kafka.bootstrap, prefix).wait_ready()
    wait_for("the count", lambda: worker.metric("foreclick_split_users_total") == len(split))
    status, body = worker.get("/health/ready")
    assert status == 200
    assert body["checks"]["keys"].startswith(f"ok, but {len(split)} users have events in more than one")
    for user in users:
        page = worker.get(f"/users/{user}/")[1]
        assert page["partition"] == java[users.index(user)]
        assert page.get("other_partitions") == ([crc32(user.encode()) % 4] if user in split else None)
    assert worker.stop() == 0
    assert worker.text().count("in more than one partition") == 1
    again = start(tmp_path, kafka.bootstrap, prefix).wait_ready()
    wait_for("the count", lambda: again.metric("foreclick_split_users_total") == len(split))
    assert again.stop() == 0
