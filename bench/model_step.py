"""Cost of a model step in microseconds per event, in all and by part, compared with TorchScript and torch alone.

    python bench/model_step.py [--json] [--threads 1] [--items 40000] [--rounds 8]

Hidden 128, micro-batches of 4096 events, ten items per prediction, an untrained network (weights do not change
the cost). Two loads: users by Zipf ("mild"), and the same with one user making 14 % of the events ("heavy").
`plain` is the same step as it runs on any other device: wide products for the gates and the shortcut, candidates
by gather, bmm and topk. `heavy_rate_of_mild` is the rate with the busy user divided by the rate without.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from model.artifact import model_folder as folders
from model.artifact.model_folder import Content, StoredSettings
from model.data.features import NUMERIC, Scale
from model.data.vocabulary import Index, Vocabulary
from model.data.windows import WINDOW_FEATURES
from model.network.network import Network, Shape
from model.ranking import candidates
from model.serving.cpu_step import CpuStep
from model.serving.hidden_states import HiddenStates
from model.serving.rounds import arrange
from model.serving.runtime import Runtime, StepBatch
from model.training import fit_calibration

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
        np.zeros((items, candidates.SUCCESSORS), np.int32),
    )
    settings = StoredSettings(shape, Scale([0.0] * NUMERIC, [1.0] * NUMERIC), 1_800_000, "", 0, {})
    torch.manual_seed(seed)
    return Content(b"", names, tables, fit_calibration.NEUTRAL, settings, {}), Network(shape).eval()


def model(items: int, seed: int = 0) -> Runtime:
    """Return that model, ready to run."""
    return fit_calibration.runtime(*untrained(items, seed))


def write_model(items: int, folder: Path) -> Path:
    """Write that model to a folder that a worker loads; returns the folder."""
    content, network = untrained(items)
    content = msgspec.structs.replace(content, step=fit_calibration.step_bytes(content, network))
    folders.write(content, folder, "untrained")
    return folder


def batch(runtime: Runtime, heavy: bool, seed: int) -> StepBatch:
    """Return a micro-batch of EVENTS events; items follow Zipf's law, as in a shop."""
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
        event_type=random.integers(0, 3, EVENTS).astype(np.int8),
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


class Clock:
    """Times of named pieces of work, over many micro-batches."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        """Return the result of `work`, and record how long it took."""
        start = time.perf_counter()
        found = work()
        self.times.setdefault(name, []).append(time.perf_counter() - start)
        return found

    def figures(self) -> dict[str, float]:
        """Return the median of each piece, in microseconds per event."""
        return {name: float(np.median(times)) / EVENTS * 1e6 for name, times in self.times.items()}


def parts(clock: Clock, prefix: str, runtime: Runtime, hidden: HiddenStates, events: StepBatch) -> None:
    """Run a step part by part, as `Runtime.step` does on a CPU."""
    engine = runtime._backend
    assert isinstance(engine, CpuStep)
    plan = clock(f"{prefix}_arrange", lambda: arrange(events.slots))
    inputs = clock(f"{prefix}_inputs", lambda: runtime._inputs(events))
    memory = clock(f"{prefix}_load", lambda: engine.begin(hidden.states, plan, inputs))
    clock(f"{prefix}_gates", lambda: engine.gates.fill(inputs, plan.order, memory.gates))
    clock(f"{prefix}_gru", lambda: engine.run_rounds(memory, len(plan.users), plan.sizes))
    clock(f"{prefix}_store", lambda: engine.finish(hidden.states, plan, memory))
    readouts, *_ = clock(f"{prefix}_heads", lambda: engine.read_out(memory, plan, inputs))
    likely = engine.item_likelihood(memory, plan, inputs.item, events.first)[1]
    clock(f"{prefix}_surprise", lambda: [task(0) for task in likely])
    ranking = engine.rank(readouts, plan.after, events, 0.0, 10, False)[1]
    clock(f"{prefix}_rank", lambda: [task(0) for task in ranking])
    clock(f"{prefix}_shared", lambda: engine.helper.run([*likely, *ranking], EVENTS))


def measure(items: int, rounds: int) -> dict[str, float]:
    """Return every figure of the table. Compared variants run alternately, since the machine has other load."""
    runtime = model(items)
    runtime.warm_up()
    plain = runtime.plainly()
    hidden = runtime.hidden_states(USERS), runtime.hidden_states(USERS)
    clock = Clock()
    shares: dict[str, float] = {}
    loads = {name: [batch(runtime, name == "heavy", seed) for seed in range(4)] for name in ("mild", "heavy")}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for place in range(4):
                for name, batches in loads.items():
                    events = batches[place]
                    shares[f"{name}_largest_user_share"] = float(np.bincount(events.slots).max() / EVENTS)
                    clock(f"{name}_step", lambda: runtime.step(hidden[0], events))  # noqa: B023
                    parts(clock, name, runtime, hidden[0], events)
                    if place == 0:  # slow: once a round is enough
                        clock(f"{name}_replay", lambda: runtime.rebuild(hidden[0], events))  # noqa: B023
                        clock(f"{name}_plain_replay", lambda: plain.rebuild(hidden[1], events))  # noqa: B023
                        clock(f"{name}_plain_step", lambda: plain.step(hidden[1], events))  # noqa: B023
            if number == 0:  # the first round warms up
                clock.times.clear()
    figures = clock.figures() | shares
    for name in loads:
        figures[f"{name}_plain_ratio"] = figures[f"{name}_plain_step"] / figures[f"{name}_step"]
        figures[f"{name}_replay_ratio"] = figures[f"{name}_plain_replay"] / figures[f"{name}_replay"]
    figures["heavy_rate_of_mild"] = figures["mild_step"] / figures["heavy_step"]
    return figures


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--items", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = measure(options.items, options.rounds)
    if options.json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name:26s}{figure:10.2f}")


if __name__ == "__main__":
    main()
