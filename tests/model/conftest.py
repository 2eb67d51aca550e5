"""One tiny trained model for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.serving.runtime import Runtime
from model.training.train import Trained
from tests.model.tiny import tiny_model, tiny_trained


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Limit torch to one thread: tiny matrices gain nothing from a second, and lose much on shared cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def trained() -> Trained:
    return tiny_trained()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def runtime(folder: Path) -> Runtime:
    return Runtime.load(folder, device="cpu")
