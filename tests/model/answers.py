"""A process that loads model folders and lets each answer: if one kills it, its last lines name the folder.

Start it as `python -m tests.model.answers`, with one folder per line on standard input. For each it prints the
folder, then `ok` or the text of the ModelError; any other error ends it with a traceback.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from model.artifact.errors import ModelError
from model.data.windows import WINDOW_FEATURES
from model.serving.runtime import Runtime, finite
from model.serving.step_types import StepBatch


def batch(runtime: Runtime, m: int = 40) -> StepBatch:
    """Return events with each kind of item number: known, bucket, none."""
    numbers = np.arange(m)
    item = np.where(numbers % 7 == 0, runtime.none_item, numbers % (runtime.none_item + 1)).astype(np.int32)
    recent = np.stack([np.roll(item, shift) for shift in range(4)], axis=1).astype(np.int32)
    return StepBatch(
        slots=(numbers % 9).astype(np.int64),
        event_type=(numbers % 3).astype(np.int8),
        item=item,
        category=(numbers % (runtime.none_category + 1)).astype(np.int32),
        gap_s=np.where(numbers < 9, -1, 30).astype(np.float32),
        ts=1_760_000_000_000 + numbers.astype(np.int64) * 1000,
        price=np.full(m, 9.5, np.float32),
        quantity=np.ones(m, np.int32),
        windows=np.ones((m, len(WINDOW_FEATURES)), np.float32),
        recent=recent,
        first=numbers < 9,
    )


def main() -> None:
    """Load each folder on standard input and let its model answer."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        folder = Path(line.rstrip("\n"))
        print(folder, end="\t", flush=True)
        try:
            runtime = Runtime.load(folder, "cpu")
            hidden = runtime.hidden_states(9)
            for _ in range(3):
                result = runtime.step(hidden, batch(runtime))
            runtime.exactly().step(hidden, batch(runtime))
            runtime.item_index("new")
            runtime.category_index("new")
            assert finite(result).all()
            assert result.items.max(initial=-1) < len(runtime.item_ids)
        except ModelError as error:
            print(str(error).replace("\n", " "), flush=True)
        else:
            print("ok", flush=True)


if __name__ == "__main__":
    main()
