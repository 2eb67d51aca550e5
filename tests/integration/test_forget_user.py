"""The program of docs/personal_data.md that deletes one user's state."""

import subprocess
import sys
from pathlib import Path

import pytest

from stream_app.lab.broker import EmbeddedKafka
from tests.integration.answered import idle
from tests.integration.harness import Start, clicks, make_topics, produce, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]

PROGRAM = Path(__file__).parents[2] / "docs" / "examples" / "forget_user.py"


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
async def test_a_deleted_user_is_unknown_after_a_restart(
    kafka: EmbeddedKafka, prefix: str, start: Start, tmp_path: Path, guarantee: str
) -> None:
    """The user's page is gone, and the state starts again with the next event; other users keep their state."""
    await make_topics(kafka.bootstrap, prefix)
    first = start(tmp_path / "a", kafka.bootstrap, prefix, guarantee=guarantee).wait_ready()
    produce(kafka.bootstrap, prefix, clicks(400))
    idle(first, 400)
    assert first.get("/users/u1-1/")[1]["events"] == 10
    assert first.stop() == 0
    command = [
        sys.executable,
        str(PROGRAM),
        kafka.bootstrap,
        f"{prefix}{prefix}group-users-changelog",
        "u1-1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    second = start(tmp_path / "b", kafka.bootstrap, prefix, guarantee=guarantee).wait_ready()
    assert second.get("/users/u1-1/")[0] == 404
    assert second.get("/users/u1-2/")[1]["events"] == 10
    produce(kafka.bootstrap, prefix, clicks(400))
    wait_for("the new events", lambda: second.get("/users/u1-2/")[1]["events"] == 20)
    wait_for("the user to start again", lambda: second.get("/users/u1-1/")[1]["events"] == 10)
    assert second.stop() == 0
