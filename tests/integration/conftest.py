"""Workers and a model for the tests that run the whole product."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from stream_app.lab.broker import EmbeddedKafka
from tests.integration.faust_member import Join, Member
from tests.integration.harness import Start, from_scratch, workers
from tests.integration.secure_broker import PASSWORD, SecureKafka, secure_kafka
from tests.model.tiny import tiny_model


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts workers, each forked from a process in which everything is loaded; ends them with the test."""
    with workers() as starter:
        yield starter


@pytest.fixture
def start_from_scratch() -> Iterator[Start]:
    """Starts workers, each in its own Python, for tests of start, signals, memory or the log as a user sees it."""
    with workers(from_scratch) as starter:
        yield starter


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny trained model."""
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
async def join(kafka: EmbeddedKafka, tmp_path: Path) -> AsyncIterator[Join]:
    """Starts members; stops the remaining ones with the test."""
    started: list[Member] = []

    async def start(group: str, *topics: str, bootstrap: str = "", **settings: Any) -> Member:
        member = Member(bootstrap or kafka.bootstrap, tmp_path, group, topics, **settings)
        started.append(member)
        await member.app.start()
        return member

    yield start
    for member in started:
        if not member.app.should_stop:
            await member.app.stop()


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """One broker with TLS, logins and rights."""
    with secure_kafka(tmp_path_factory.mktemp("secure")) as kafka:
        yield kafka


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """Write the password to a file, like a mounted secret."""
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    return file
