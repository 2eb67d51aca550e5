"""The sliding windows as buckets of a row. Their lengths are in `model/data/window_features.py`."""

import numpy as np

from model.serving.api import AMOUNT_WINDOW, WINDOW_FEATURES, WINDOWS

__all__ = ["AMOUNT_WINDOW", "BUCKETS", "BUCKET_MS", "FIRST_BUCKET", "WINDOWS", "WINDOW_FEATURES"]

BUCKETS = sum(n for *_, n in WINDOWS)
BUCKET_MS = np.array([length // n for _, length, n in WINDOWS], np.int64)
FIRST_BUCKET = np.array(
    [0, *np.cumsum([n for *_, n in WINDOWS])], np.int64
)  # first bucket of each window, then the end
