"""Workers and a model for the tests that run the whole of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.harness import Worker, workers
from tests.model.tiny import tiny_model


@pytest.fixture
def start() -> Iterator[Callable[..., Worker]]:
    """Starts workers that are ended with the test."""
    with workers() as starter:
        yield starter


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny trained model."""
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")
