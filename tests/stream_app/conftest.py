"""Fixtures for tests of the commands: a recording, a model trained on it, an unchanged process."""

import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.data.interactions import Interactions
from stream_app.recordings.offline.training_table import interactions
from stream_app.settings import Settings
from tests.stream_app.command_line import FAST, SMALL, run


@pytest.fixture
def restored() -> Iterator[None]:
    """Undo what `main` sets for the whole process; enable Ctrl-C, which a background job of a shell ignores."""
    root = logging.getLogger()
    handlers, on_term = root.handlers[:], signal.getsignal(signal.SIGTERM)
    on_int = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    root.handlers[:] = handlers
    signal.signal(signal.SIGINT, on_int)
    signal.signal(signal.SIGTERM, on_term)


@pytest.fixture
def as_it_was(restored: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use wide lines and one thread, and do what `restored` does."""
    monkeypatch.setenv("COLUMNS", "200")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 4,000 records."""
    path = tmp_path_factory.mktemp("shop") / "shop.stream"
    assert run("generate", "--out", path, *SMALL) == 0
    return path


@pytest.fixture(scope="session")
def table(shop: Path) -> Interactions:
    return interactions(shop, Settings())


@pytest.fixture(scope="session")
def trained(shop: Path, table: Interactions, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model trained on the first three quarters of the shop, and what `train --json` printed."""
    out = tmp_path_factory.mktemp("models") / "shop"
    until = int(np.quantile(table.ts, 0.75))
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("typer.echo", lambda text, err=False: None if err else said.append(text))
        assert run("train", shop, "--out", out, "--until", until, *FAST, "--json") == 0
    return {**json.loads(said[0]), "until": until, "out": out}
