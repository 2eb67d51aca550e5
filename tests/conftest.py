"""What every test may ask for: a real Kafka, topic names of its own, the third-party data."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_app.broker import EmbeddedKafka

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """One broker for the whole run. Tests that stop or kill a broker start one of their own."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def prefix() -> str:
    """A prefix for topics and groups that no other test has."""
    return f"t{uuid.uuid4().hex[:8]}-"


@pytest.fixture(scope="session")
def data_dir_real() -> Path:
    """The folder of third-party data sets, which are not part of the repository."""
    folder = Path(os.environ.get("FORECLICK_TEST_DATA", SHARED_DATA))
    if not folder.is_dir():
        pytest.skip(f"no third-party data in {folder}: set FORECLICK_TEST_DATA to its folder")
    return folder
