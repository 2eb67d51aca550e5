"""Cost of a model step: microseconds an event of GRU and ranking, beside the plain torch ranking.

    python bench/model_step.py [--json] [--threads 1] [--items 40000]

Hidden 128, micro-batches of 4096 events, ten items a prediction, an untrained network (weights do not change
the cost). Two loads: users by Zipf ("mild"), and the same with one user making 14 % of the events ("heavy").
The peer gathers the same number of candidates and scores them with torch gather, bmm and topk.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch

from model import calibrate, candidates
from model import folder as folders
from model.features import NUMERIC, Scale
from model.folder import Content, Settings
from model.interactions import WINDOW_FEATURES
from model.network import Network, Shape
from model.runtime import Runtime, StepBatch
from model.step import arrange
from model.vocabulary import Index, Vocabulary

EVENTS = 4096
USERS = 20_000


def untrained(items: int, seed: int = 0) -> tuple[Content, Network]:
    """Return an untrained model of `items` items whose candidate tables are full."""
    random = np.random.default_rng(seed)
    names = Vocabulary(
        Index([str(number) for number in range(items)], 256),
        Index([str(number) for number in range(500)], 256),
    )
    shape = Shape(names.items.size, items, names.categories.size)
    tables = candidates.Tables(
        random.integers(0, items, (items, candidates.FOLLOWERS), np.int32),
        random.random((items, candidates.FOLLOWERS), np.float32),
        random.integers(0, items, (names.categories.size, candidates.CATEGORY_BEST), np.int32),
        np.arange(candidates.POPULAR, dtype=np.int32),
        np.zeros((items, 1), np.int32),
    )
    settings = Settings(shape, Scale([0.0] * NUMERIC, [1.0] * NUMERIC), 1_800_000, "", 0, {})
    torch.manual_seed(seed)
    return Content(b"", names, tables, calibrate.NEUTRAL, settings, {}), Network(shape).eval()


def model(items: int, seed: int = 0) -> Runtime:
    """Return that model, ready to run."""
    return calibrate.runtime(*untrained(items, seed))


def write_model(items: int, folder: Path) -> Path:
    """Write that model to a folder that a worker loads; returns the folder."""
    content, network = untrained(items)
    content = msgspec.structs.replace(content, step=calibrate.step_bytes(content, network))
    folders.write(content, folder, "untrained")
    return folder


def batch(runtime: Runtime, heavy: bool, seed: int) -> StepBatch:
    """Return a micro-batch of EVENTS events; items by Zipf as in a shop."""
    random = np.random.default_rng(seed)
    known = len(runtime.item_ids)
    slots = (random.zipf(1.3, EVENTS) * 7919) % USERS if not heavy else random.integers(0, USERS, EVENTS)
    if heavy:
        slots[random.random(EVENTS) < 0.14] = 0
    else:
        slots = np.where(random.random(EVENTS) < 0.15, slots, random.integers(0, USERS, EVENTS))
    popularity = 1.0 / np.arange(1, known + 1)
    draw = random.choice(known, (EVENTS, 4), p=popularity / popularity.sum()).astype(np.int32)
    return StepBatch(
        slots=slots.astype(np.int64),
        kind=random.integers(0, 3, EVENTS).astype(np.int8),
        item=draw[:, 0],
        category=random.integers(0, 500, EVENTS).astype(np.int32),
        gap_s=random.exponential(60, EVENTS).astype(np.float32),
        ts=np.full(EVENTS, 1_760_000_000_000) + np.arange(EVENTS),
        price=random.random(EVENTS).astype(np.float32),
        quantity=np.ones(EVENTS, np.int32),
        windows=random.integers(0, 30, (EVENTS, len(WINDOW_FEATURES))).astype(np.float32),
        recent=draw,
        first=np.zeros(EVENTS, np.bool_),
    )


def cost(work: Callable[[], object], seconds: float = 2.0) -> float:
    """Return microseconds an event: the median of repeated runs for about `seconds`."""
    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) / EVENTS * 1e6


def measure(items: int) -> dict[str, float]:
    """Return every figure of the table."""
    runtime = model(items)
    runtime.warm_up()
    slab = runtime.slab(USERS)
    figures: dict[str, float] = {}
    states = torch.randn(EVENTS, runtime.hidden - 1)
    for name, heavy in (("mild", False), ("heavy", True)):
        events = batch(runtime, heavy, 1)
        counts = np.bincount(events.slots)
        figures[f"{name}_largest_user_share"] = float(counts.max() / EVENTS)
        figures[f"{name}_arrange"] = cost(lambda events=events: arrange(events.slots))
        figures[f"{name}_replay"] = cost(lambda events=events: runtime.replay(slab, events))
        figures[f"{name}_step"] = cost(lambda events=events: runtime.step(slab, events))
    figures["rank"] = cost(lambda: runtime._rank(states, events, 10))
    table = torch.randn(items, runtime.hidden - 1)
    wide = torch.randint(0, items, (EVENTS, candidates.MOST - candidates.POPULAR))

    def plain() -> object:
        return torch.bmm(table[wide], states.unsqueeze(2)).squeeze(2).topk(10)

    with torch.inference_mode():
        figures["rank_torch"] = cost(plain)
    figures["rank_ratio"] = figures["rank_torch"] / figures["rank"]
    return figures


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--items", type=int, default=40_000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = measure(options.items)
    if options.json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name:26s}{figure:10.2f}")


if __name__ == "__main__":
    main()
