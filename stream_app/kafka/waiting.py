"""What a command says while it waits for a broker: errors come late, and silence looks like a standstill."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog

log = structlog.stdlib.get_logger(__name__)

#: Seconds without an answer after which it is said what is waited for.
SAID_AFTER_S = 1.0


@contextmanager
def waiting_for(brokers: Sequence[str]) -> Iterator[None]:
    """Around the wait for the first answer of a broker: says so on stderr once a second has passed.

    A worker, whose stderr is its log, says it there.
    """
    timer = asyncio.get_running_loop().call_later(SAID_AFTER_S, _say, f"waiting for {','.join(brokers)} …")
    try:
        yield
    finally:
        timer.cancel()


def _say(text: str) -> None:
    if structlog.is_configured():
        log.warning(text)
    else:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
