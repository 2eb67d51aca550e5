"""Finds which prediction answers which event, and when each was appended; reads millions of records in seconds."""

import asyncio
from collections.abc import Iterable

import numba
import numpy as np
import numpy.typing as npt

from stream_app.contract.record_columns import RecordColumns
from stream_app.worker.changelog_reader import ChangelogReader

#: The first bytes of an output, before the id of its event: `topic-partition-offset`.
_BEFORE_ID = b'{"id":"'


def read(bootstrap: str, topic: str, partitions: int) -> list[RecordColumns]:
    """Return all records of a topic."""

    async def work() -> list[RecordColumns]:
        found: list[RecordColumns] = []

        async def keep(_: int, records: RecordColumns, *__: int) -> None:
            found.append(records)

        reader = ChangelogReader(topic, bootstrap_servers=bootstrap)
        await reader.start()
        try:
            await reader.read(range(partitions), keep)
        finally:
            await reader.stop()
        return found

    return asyncio.run(work())


def delays(
    inputs: Iterable[RecordColumns], outputs: Iterable[RecordColumns], partitions: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the append time (n,) of each event in Unix ms, and the ms (n,) until its first answer was appended.

    Both use the broker's clock and are in the order of partitions and offsets; -1 means that an event has no answer.
    The topics must store append times (`LogAppendTime`). Raises ValueError for an answer to an unknown event.
    """
    came: list[list[RecordColumns]] = [[] for _ in range(partitions)]
    for records in inputs:
        came[records.partition].append(records)
    times = [np.concatenate([r.spans["timestamp"] for r in few]) for few in came]
    start = np.concatenate([[0], np.cumsum([len(t) for t in times])])
    appended = np.concatenate(times)
    gone = np.full(len(appended), np.iinfo(np.int64).max)
    for records in outputs:
        if not _first_answers(records.data, records.spans, start, gone):
            raise ValueError("an answer names an event that does not exist")
    missing = gone == np.iinfo(np.int64).max
    return appended, np.where(missing, -1, gone - appended)


@numba.njit
def _first_answers(data, spans, start, gone):  # type: ignore[no-untyped-def]
    """Keep the earliest append time of the answers to each event; return False if an answer names no event."""
    for i in range(len(spans)):
        end = spans[i]["value_at"] + len(_BEFORE_ID)
        while data[end] != ord('"'):
            end += 1
        offset, at = _number_before(data, end)
        partition, _ = _number_before(data, at)
        if partition + 1 >= len(start) or offset >= start[partition + 1] - start[partition]:
            return False
        event = start[partition] + offset
        gone[event] = min(gone[event], spans[i]["timestamp"])
    return True


@numba.njit
def _number_before(data, end):  # type: ignore[no-untyped-def]
    """Return the number that ends before `end` and follows a "-", and the position of that "-"."""
    number, scale = 0, 1
    at = end - 1
    while data[at] != ord("-"):
        number += scale * (data[at] - ord("0"))
        scale *= 10
        at -= 1
    return number, at
