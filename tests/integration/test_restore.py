"""Restoring after a loss, as the operations page describes it, on a real Kafka."""

from pathlib import Path
from typing import Any

import pytest

from stream_app.lab.broker import EmbeddedKafka
from tests.integration.harness import (
    AdminClient,
    Reader,
    Start,
    clicks,
    committed,
    make_topics,
    produce,
)

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


def without_names(user: dict[str, Any]) -> dict[str, Any]:
    """A look-up without the names of items, which the state does not hold: a worker learns them from events."""
    return {**user, "recent": [{**event, "item_id": None} for event in user["recent"]]}


async def test_the_committed_offsets_are_lost(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """If the group is deleted between two runs, the state knows what it includes, so nothing is applied twice."""
    await make_topics(kafka.bootstrap, prefix)
    produce(kafka.bootstrap, prefix, clicks(2000))
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    first = start(tmp_path / "first", kafka.bootstrap, prefix)
    reader.read_until("all predictions", lambda m: len(m) >= 2000)
    before = first.get("/users/u1-1/")[1]
    assert before, "the user is known"
    assert first.stop() == 0
    group, topics = f"{prefix}group", [f"{prefix}clicks"]
    assert sum(committed(kafka.bootstrap, group, topics)[topics[0]]) == 2000
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    admin.delete_consumer_groups([group])[group].result(30)
    assert committed(kafka.bootstrap, group, topics)[topics[0]] == [-1001] * 4, "no offset is left"

    second = start(tmp_path / "second", kafka.bootstrap, prefix).wait_ready()
    assert without_names(second.get("/users/u1-1/")[1]) == without_names(before)
    produce(kafka.bootstrap, prefix, clicks(40))
    found = reader.read_until("the predictions of new events", lambda m: len(m) >= 2040)
    assert second.stop() == 0
    assert len(reader.read_to_end()) == len(found) == 2040
    reader.close()
