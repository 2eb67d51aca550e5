"""Quick restarts and takeovers: a fixed name in the group, and copies of the state at other workers."""

from pathlib import Path

import pytest

from stream_app.lab.broker import EmbeddedKafka
from tests.integration.harness import Reader, Start, clicks, make_topics, produce, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]


async def test_a_worker_with_a_fixed_name_is_back_before_its_session_ends(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path
) -> None:
    """A worker killed and started again with its name continues immediately, although a session lasts two minutes."""
    await make_topics(kafka.bootstrap, prefix)
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    named = {"instance_id": "shop-0", "session_timeout_ms": 120_000}
    first = start(tmp_path / "a", kafka.bootstrap, prefix, **named).wait_ready()
    produce(kafka.bootstrap, prefix, clicks(400))
    reader.read_until("the first answers", lambda m: len(m) == 400)
    first.kill()
    produce(kafka.bootstrap, prefix, clicks(400))
    second = start(tmp_path / "b", kafka.bootstrap, prefix, **named)
    reader.read_until("answers well within the session", lambda m: len(m) >= 800, 60)
    wait_for("the state to be exact", lambda: second.get("/users/u1-1/")[1]["events"] == 20)
    assert second.stop() == 0
    reader.close()


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
async def test_a_copy_is_taken_over_without_reading_the_state_back(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path, guarantee: str
) -> None:
    """After a kill, the survivor continues exactly from its copies, and reads only what it had not copied yet."""
    users, each = 8000, 3
    await make_topics(kafka.bootstrap, prefix)
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    settings = {"guarantee": guarantee, "standby_replicas": 1, "session_timeout_ms": 6000}
    both = [start(tmp_path / name, kafka.bootstrap, prefix, **settings).wait_ready() for name in "ab"]
    wait_for(
        "each worker to copy what the other owns",
        lambda: [w.metric("foreclick_standby_partitions") for w in both] == [2, 2],
    )
    produce(kafka.bootstrap, prefix, clicks(each * users, users))
    reader.read_until("all answers", lambda m: len(m) >= each * users)
    killed, survivor = both
    wait_for(
        "the survivor to know all users",
        lambda: survivor.metric("foreclick_resident_users") == users,
    )
    pages = [survivor.get(f"/users/u{p}-0/")[0] for p in range(4)]
    assert sorted(pages) == [200, 200, 404, 404], "a copy answers no look-ups"
    before = survivor.metric("foreclick_recovered_records_total")
    killed.kill()
    produce(kafka.bootstrap, prefix, clicks(users, users))
    reader.read_until("the answers of the survivor", lambda m: len(m) >= (each + 1) * users)
    read = survivor.metric("foreclick_recovered_records_total") - before
    assert read < users / 4, f"{read:.0f} records were read back, although {users // 2} users were copied"
    for p in range(4):
        page = survivor.get(f"/users/u{p}-0/")[1]
        assert page["events"] == each + 1
    assert survivor.stop() == 0
    reader.close()
