"""A log handler that limits how often the same message is shown.

While a broker is unreachable, aiokafka logs each attempt of each client: about ten errors per second.
"""

import copy
import logging
import time
from collections.abc import Callable
from typing import TextIO

#: A library's message is shown at most once in this many seconds.
EVERY_S = 10.0
#: How many different messages are remembered.
MOST = 1000


class ThrottledHandler(logging.StreamHandler[TextIO]):
    """Shows messages with the same template at most once in 10 s, with the number that was left out."""

    def __init__(
        self, stream: TextIO, loggers: tuple[str, ...], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`loggers`: top-level names of the loggers that are limited. `clock`: in seconds."""
        super().__init__(stream)
        self._loggers, self._clock = loggers, clock
        #: For each message: when it may be shown again, and how often it was left out since it was last shown.
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Shows a record, or counts it."""
        if record.name.split(".", 1)[0] not in self._loggers:
            super().emit(record)
            return
        what = (record.name, str(record.msg))
        again, left_out = self._seen.get(what, (0.0, 0))
        now = self._clock()
        if now < again:
            self._seen[what] = (again, left_out + 1)
            return
        if len(self._seen) >= MOST:
            self._seen.clear()  # there are many if code formats its messages before it logs them
        self._seen[what] = (now + EVERY_S, 0)
        if left_out:
            record = copy.copy(record)
            record.msg = f"{record.getMessage()} (and {left_out} more like it)"
            record.args = None
        super().emit(record)
