"""The sliding windows as buckets of a row. Their lengths and the number of last events: `model/data/windows.py`."""

import numpy as np

from model.serving.api import AMOUNT_WINDOW, LAST_EVENTS, WINDOW_FEATURES, WINDOWS

__all__ = [
    "AMOUNT_WINDOW",
    "BUCKETS",
    "BUCKET_MS",
    "FIRST_BUCKET",
    "LAST_EVENTS",
    "WINDOWS",
    "WINDOW_FEATURES",
]

BUCKETS = sum(n for *_, n in WINDOWS)
BUCKET_MS = np.array([length // n for _, length, n in WINDOWS], np.int64)
FIRST_BUCKET = np.array(
    [0, *np.cumsum([n for *_, n in WINDOWS])], np.int64
)  # first bucket of each window, then the end
