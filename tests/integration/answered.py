"""Shared checks of the tests of trouble: whether every record has its answer, once."""

import json
from collections import Counter
from typing import Any

from stream_app.contract.records import Record
from tests.integration.harness import Reader, Worker, wait_for

#: Number of partitions of each topic, the same as in `make_topics` and `clicks`.
PARTITIONS = 4


def ids_of(records: list[Record], prefix: str) -> set[str]:
    """Return the prediction ids that the records must get."""
    return {f"{prefix}{r.topic}-{r.partition}-{r.offset}" for r in records}


def ids(messages: list[Any]) -> Counter[str]:
    """Return how often each prediction id occurs."""
    return Counter(json.loads(m.value())["id"] for m in messages)


def idle(worker: Worker, events: int) -> None:
    """Return once the worker has processed so many events, and no event waits."""
    wait_for(
        f"{events} events",
        lambda: (
            worker.metric("foreclick_events_total") == events
            and worker.metric("foreclick_consumer_lag_records") == 0
        ),
    )


def counts(worker: Worker, users: int = 40) -> set[int]:
    """Return the number of events in the state of each user, with the names of `clicks`."""
    names = [f"u{p}-{n}" for p in range(PARTITIONS) for n in range(users // PARTITIONS)]
    return {worker.get(f"/users/{name}/")[1]["events"] for name in names}


def sentence(worker: Worker, limit_s: float = 60.0) -> str:
    """Return the error message of a worker that cannot start: its last line, with exit code 1 and no traceback."""
    code, text = worker.wait_end(limit_s)
    assert code == 1, text[-3000:]
    assert "Traceback" not in text, text[-3000:]
    last = text.strip().splitlines()[-1]
    assert last.startswith("foreclick: ")
    return last.removeprefix("foreclick: ")


def last_words(worker: Worker) -> str:
    """Return the error message of a worker that stops by itself, with exit code 1."""
    code, text = worker.wait_end()
    assert code == 1, text[-3000:]
    last = text.strip().splitlines()[-1]
    assert last.startswith("foreclick: the worker stopped: "), text[-3000:]
    return last


def all_answered(reader: Reader, records: list[Record], prefix: str) -> Counter[str]:
    """Wait until every record has its prediction; return how often each occurs."""
    wanted = ids_of(records, prefix)
    found = ids(reader.read_until("all predictions", lambda m: len(ids(m)) >= len(wanted)))
    assert set(found) == wanted
    return found
