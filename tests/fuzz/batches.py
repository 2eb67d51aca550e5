"""Compares the reader of record batches with a plain one, on fetches of arbitrary bytes."""

from collections import Counter
from typing import Any

import numpy as np

from stream_app.kafka.record_batches.chunked_reader import LONGEST_RECORD
from tests.fuzz.fetches import Fetch, Fetches
from tests.fuzz.guarded import GuardedBuffer
from tests.fuzz.plain_reader import read
from tests.stream_app.batches import Parsed, parse

PER_ROUND = 5000
FIELDS = (
    "offset",
    "timestamp",
    "key_at",
    "value_at",
    "headers_at",
    "key_bytes",
    "value_bytes",
    "headers_bytes",
)


class BatchesTarget:
    """One round is some thousand fetches; those that are not compressed lie next to a forbidden page."""

    def __init__(self) -> None:
        self._guarded = GuardedBuffer(1 << 20)

    def round(self, seed: str, number: int) -> Counter[Any]:
        """Return the outcomes of one round by kind. Raises AssertionError if the two readers differ."""
        fetches = Fetches(seed)
        outcomes: Counter[Any] = Counter()
        for _ in range(PER_ROUND):
            outcomes[self.one(fetches.one(), at_end=number % 5 != 4)] += 1
        return outcomes

    def one(self, fetch: Fetch, at_end: bool) -> tuple[Any, ...]:
        """Return the outcome of a fetch, whether it was compressed, and how many records were read."""
        wanted = read(fetch.raw, fetch.position, fetch.check_crcs, fetch.committed, fetch.aborted)
        raw: Any = fetch.raw
        if wanted is not None and not wanted.compressed and not wanted.aside:
            raw = memoryview(self._guarded.holding(raw, at_end))
        parsed = parse(
            raw, fetch.position, check_crcs=fetch.check_crcs, committed=fetch.committed, aborted=fetch.aborted
        )
        if wanted is None or parsed is None:
            assert wanted is parsed is None, fetch
            return ("older format",)
        assert (parsed.error is not None) == wanted.damaged, (fetch, parsed.error, wanted)
        assert parsed.next == wanted.next, (fetch, parsed, wanted)
        assert inside(parsed), (fetch, parsed.spans)
        seen = [
            (offset, time, part(parsed, k, n), part(parsed, v, m), part(parsed, h, o) or b"")
            for offset, time, k, v, h, n, m, o in parsed.spans[list(FIELDS)].tolist()
        ]
        if wanted.longest <= LONGEST_RECORD:
            assert seen == wanted.records, (fetch, seen, wanted)
            assert [(each.first, each.last) for each in parsed.unreadable] == wanted.aside, (
                fetch,
                parsed,
                wanted,
            )
        name = "damaged" if wanted.damaged else "set aside" if wanted.aside else "well"
        return name, "compressed" if wanted.compressed else "plain", min(len(seen), 3)


def part(parsed: Parsed, at: int, size: int) -> bytes | None:
    return None if size < 0 else parsed.data[at : at + size].tobytes()


def inside(parsed: Parsed) -> bool:
    """Whether the columns point only into the buffer, and offsets rise and stay below the next position."""
    size = len(parsed.data)
    ok = True
    for name in ("key", "value", "headers"):
        at, length = parsed.spans[f"{name}_at"], np.maximum(parsed.spans[f"{name}_bytes"], 0)
        ok &= bool(((length == 0) | ((at >= 0) & (at + length <= size))).all())
    offsets = parsed.spans["offset"]
    return ok and bool((offsets[1:] > offsets[:-1]).all()) and bool((offsets < parsed.next).all())
