"""Fixtures for every test (a real Kafka, topic names, the third-party data), and the order of the files."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from stream_app.lab.broker import EmbeddedKafka

# No test should fail because the machine has other load.
settings.register_profile("foreclick", deadline=None)
settings.load_profile("foreclick")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
#: The slowest files, the slowest first. They start first, so that at the end no process waits for one of them.
LONGEST = (
    "faults/test_faults.py",
    "integration/test_takeovers.py",
    "integration/test_broker_trouble.py",
    "integration/test_demo.py",
    "integration/test_topic_trouble.py",
    "integration/test_worker.py",
    "integration/test_overload.py",
    "integration/test_start_and_stop.py",
    "integration/test_transport.py",
    "simulation/test_mutants.py",
    "simulation/test_schedules.py",
    "integration/test_group_trouble.py",
    "integration/test_reference_changelog.py",
    "integration/test_rights.py",
    "integration/test_security.py",
    "integration/test_standby.py",
    "integration/test_health.py",
    "integration/test_operations.py",
    "integration/test_model_trouble.py",
    "integration/test_idle.py",
)
#: All collected tests, including those of the other tier, which are then left out.
FOUND = pytest.StashKey[list[pytest.Item]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the slowest files first; the order of the others does not change."""
    place = {Path(__file__).parent / name: n for n, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))
    config.stash[FOUND] = list(items)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """One broker for the whole run. Tests that stop or kill a broker start their own."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def prefix() -> str:
    """A prefix for topics and groups that no other test uses."""
    return f"t{uuid.uuid4().hex[:8]}-"


@pytest.fixture(scope="session")
def data_dir_real() -> Path:
    """The folder of third-party data sets, which are not part of the repository."""
    folder = Path(os.environ.get("FORECLICK_TEST_DATA", SHARED_DATA))
    if not folder.is_dir():
        pytest.skip(f"no third-party data in {folder}: set FORECLICK_TEST_DATA to its folder")
    return folder
