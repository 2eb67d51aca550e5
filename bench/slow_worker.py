"""The `foreclick` command with a model that is ten times as slow while the file named by SLOW_WHILE exists."""

import os
import time
from pathlib import Path
from typing import Any

from model.serving.runtime import Runtime, StepResult
from stream_app.cli import main

FACTOR = 10
_flag = Path(os.environ["SLOW_WHILE"])
_step = Runtime.step


def _slow(self: Runtime, *args: Any, **kwargs: Any) -> StepResult:
    start = time.perf_counter()
    result = _step(self, *args, **kwargs)
    if _flag.exists():
        time.sleep((FACTOR - 1) * (time.perf_counter() - start))
    return result


if __name__ == "__main__":
    Runtime.step = _slow  # type: ignore[method-assign]
    main()
