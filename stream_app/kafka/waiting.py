"""Tells the user that a command waits for a broker: errors come late, and silence looks like a hang."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog

log = structlog.stdlib.get_logger(__name__)

#: The message appears after this many seconds without an answer.
SAID_AFTER_S = 1.0


@contextmanager
def waiting_for(brokers: Sequence[str]) -> Iterator[None]:
    """Use it around the wait for the first answer of a broker: after a second, writes a message to stderr.

    If logging is configured, as in a worker, the message is a log line.
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
