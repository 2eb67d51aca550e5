"""Next-item quality on YooChoose: train on `train_tr`, evaluate on every next item of the day after.

    python bench/quality_yoochoose.py [--json] [--data ../shared/data/yoochoose_100k] [--set epochs=10 ...]

Both files are processed like live traffic: the importer makes a recording of each, and the worker's own state makes
the windows and recent events that the model reads. Every next item within a session is one case, ranked over all
items of the vocabulary; ties count against the model. The epochs and all settings are chosen on the last part of
`train_tr`; then the network is trained again on all of it. Items that training has never seen are counted in two
ways: `all` counts each as a miss; `known` leaves these cases out, like GRU4Rec's published evaluation. The project's
lower limit applies to the `known` cases.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from model.data.interactions import Interactions
from model.evaluation import evaluate, playback
from model.serving.runtime import Runtime
from model.training import fit_calibration
from model.training.fit import TrainingProgress
from model.training.settings import TrainSettings
from model.training.train import train
from stream_app.recordings.importers import import_files
from stream_app.recordings.offline.training_table import interactions
from stream_app.settings import load_settings

FLOOR = {"recall@20": 0.655, "mrr@20": 0.36}
#: Chosen on the last 15 % of `train_tr`.
SETTINGS = {
    "epochs": 10, "patience": 3, "batch_events": 384, "learning_rate": 0.01, "dropout": 0.5, "refit": True,
}  # fmt: skip


def read(file: Path, folder: Path) -> Interactions:
    """Return a file's clicks as the worker sees them; the intermediate recording is written to `folder`."""
    recording = folder / f"{file.stem}.stream"
    import_files("yoochoose", [file], recording)
    return interactions(recording, load_settings(env={}))


def agreement(runtime: Runtime, data: Interactions) -> float:
    """Return the share of events whose ten items, in their order, equal those of TorchScript and torch in float32."""
    wanted = np.ones(len(data), np.bool_)
    both = zip(
        playback.play(runtime, data, wanted), playback.play(runtime.plainly(), data, wanted), strict=True
    )
    return float(np.concatenate([(one.items == two.items).all(axis=1) for (_, one), (_, two) in both]).mean())


def main() -> None:
    """Train, evaluate, print; exit with 1 below the lower limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    folder = Path(os.environ.get("FORECLICK_TEST_DATA", "../shared/data")) / "yoochoose_100k"
    parser.add_argument("--data", type=Path, default=folder)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = {name: msgspec.json.decode(value) for name, value in (item.split("=") for item in options.set)}
    settings = msgspec.convert(SETTINGS | chosen, TrainSettings)
    prefix = "yoochoose-clicks-100k_train_"
    with tempfile.TemporaryDirectory() as temporary:
        learned, judged = (
            read(options.data / f"{prefix}{part}.txt", Path(temporary)) for part in ("tr", "valid")
        )
    start = time.perf_counter()

    def show(progress: TrainingProgress) -> None:
        if progress.share == 1.0:
            print(f"{time.perf_counter() - start:6.0f} s  {progress}", file=sys.stderr, flush=True)

    trained = train(learned, settings, show)
    seconds = time.perf_counter() - start
    figures: dict[str, Any] = {"train_seconds": seconds, "boost": trained.content.calibration.boost}
    runtime = fit_calibration.runtime(trained.content, trained.network)
    report: dict[str, Any] = evaluate.evaluate(runtime, judged)
    figures |= report
    figures["lists_as_float32"] = agreement(runtime, judged)
    print(json.dumps(figures, indent=None if options.json else 2))
    found = report["next_item"]["exact_known"]
    sys.exit(any(found[name] < floor for name, floor in FLOOR.items()))


if __name__ == "__main__":
    main()
