"""A tiny shop and a tiny model of it, made in a few seconds; for every test that needs a real model.

The model is trained once and kept in `.foreclick/tests`, for all processes of a run and for later runs with the same
code, libraries and CPU.
"""

import fcntl
import hashlib
import os
import platform
from pathlib import Path

import numba
import numpy as np
import torch

from model.data.interactions import Interactions, from_events
from model.training.export import export
from model.training.settings import TrainSettings
from model.training.train import Trained, train

ROOT = Path(__file__).parents[2]
#: Trained models, by seed and by the hash of everything that they depend on.
KEPT = ROOT / ".foreclick" / "tests"

ITEMS = 40
CATEGORIES = 5
START = 1_760_000_000_000  # Unix ms

SETTINGS = TrainSettings(
    hidden=16, epochs=3, batch_events=256, learning_rate=0.02, dropout=0.1, chunk=16, context=4, buckets=8,
    horizon_ms=600_000, refit=False,
)  # fmt: skip


def tiny_interactions(seed: int = 0, users: int = 80) -> Interactions:
    """Return about 20 events per user: walks along a ring of items, with a purchase after most third clicks."""
    random = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, int]] = []  # user, ts, event_type, item
    for user in range(users):
        ts = START + int(random.integers(0, 3_600_000))
        item = int(random.integers(ITEMS))
        for number in range(int(random.integers(10, 31))):
            ts += int(random.exponential(60_000)) + 1
            event_type = 2 if number % 3 == 2 and random.random() < 0.7 else int(random.random() < 0.3)
            if event_type != 2:
                item = (item + 1) % ITEMS if random.random() < 0.8 else int(random.integers(ITEMS))
            rows.append((user, ts, event_type, -1 if event_type == 1 and random.random() < 0.3 else item))
    user_column, ts_column, kind_column, item_column = np.array(rows, np.int64).T
    price = np.where(item_column >= 0, 5.0 + item_column, np.nan).astype(np.float32)
    return from_events(
        user_column,
        ts_column,
        kind_column.astype(np.int8),
        item_column,
        np.where(item_column >= 0, item_column % CATEGORIES, -1),
        price,
        np.ones(len(rows), np.int32),
        [f"item-{number}" for number in range(ITEMS)],
        [f"category-{number}" for number in range(CATEGORIES)],
    )


def train_tiny(seed: int = 0) -> Trained:
    """Train a model on the tiny shop, seeded; on one thread, since such small matrices gain nothing from a second."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return train(tiny_interactions(seed), SETTINGS)
    finally:
        torch.set_num_threads(threads)


def tiny_trained(seed: int = 0) -> Trained:
    """Return the result of `train_tiny`; the first process trains, and the others wait for it."""
    KEPT.mkdir(parents=True, exist_ok=True)
    file = KEPT / f"tiny-{seed}-{_origin()}.pt"
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system releases it if the process dies
        if not file.exists():
            half = file.with_suffix(f".{os.getpid()}")
            torch.save(train_tiny(seed), half)
            half.rename(file)
    trained: Trained = torch.load(file, weights_only=False)
    return trained


def _origin() -> str:
    """Return a hash of everything that the weights depend on: the code, the libraries, the CPU."""
    digest = hashlib.sha256()
    for source in (*sorted((ROOT / "model").rglob("*.py")), Path(__file__)):
        digest.update(str(source.relative_to(ROOT)).encode() + source.read_bytes())
    versions = (platform.python_version(), np.__version__, torch.__version__, numba.__version__)
    digest.update(repr((*versions, platform.machine(), torch.backends.cpu.get_cpu_capability())).encode())
    return digest.hexdigest()[:16]


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write a trained tiny model to `folder` and return the folder."""
    export(tiny_trained(seed), folder, "tiny")
    return folder
