"""The log of one topic partition, like Kafka's: sequence numbers, epochs, transactions, the stable offset."""

import struct
from collections import deque
from dataclasses import dataclass, field

from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import Record
from stream_app.kafka.record_batches.reader import ATTRIBUTES_AT, COUNT_AT, PRODUCER_AT, TRANSACTIONAL
from tests.stream_app.batches import parse

PRODUCER = struct.Struct(">qhi")  # id, epoch, sequence number of the first record
#: The append time of all records, Unix ms: later than every event of a simulation.
APPENDED_MS = 1_800_000_000_000
_REMEMBERED = 5  # number of a producer's last batches that a broker recognises

# Kafka's protocol guide, "Error codes".
OUT_OF_ORDER, INVALID_EPOCH, INVALID_TXN_STATE = 45, 47, 48

#: Key, value, headers.
Body = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]


@dataclass(slots=True)
class Entry:
    """A record batch, or the marker that ends a transaction (which has no records and takes one offset)."""

    offset: int
    records: list[Body]
    producer_id: int = -1
    epoch: int = -1
    transactional: bool = False
    marker: str | None = None  # commit or abort
    aborted: bool = False


@dataclass(slots=True)
class _Producer:
    """The state of a producer in a partition."""

    epoch: int
    batches: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))


class Log:
    """One topic partition."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic, self.partition = topic, partition
        self.entries: list[Entry] = []
        self.end = 0
        self._producers: dict[int, _Producer] = {}
        #: First offset of the transaction that each producer has open here.
        self.open: dict[int, int] = {}

    @property
    def stable(self) -> int:
        """The last stable offset: every transaction below it has ended."""
        return min(self.open.values(), default=self.end)

    def put(self, records: list[Body]) -> None:
        """Append records of a producer without an id."""
        self._add(Entry(self.end, records))

    def _add(self, entry: Entry) -> int:
        self.entries.append(entry)
        self.end = entry.offset + max(1, len(entry.records))
        return entry.offset

    def append(self, raw: bytes) -> tuple[int, int]:
        """Append a record batch in wire format; return an error code and the offset of its first record."""
        id_, epoch, first = PRODUCER.unpack_from(raw, PRODUCER_AT)
        (count,) = struct.unpack_from(">i", raw, COUNT_AT)
        transactional = bool(raw[ATTRIBUTES_AT + 1] & TRANSACTIONAL)
        known = self._producers.get(id_)
        if known is not None and epoch < known.epoch:
            return INVALID_EPOCH, -1
        if known is None:
            known = self._producers[id_] = _Producer(epoch)
        elif epoch > known.epoch:
            if first:
                return OUT_OF_ORDER, -1
            known.epoch = epoch
            known.batches.clear()
        elif known.batches:
            for begin, end, offset in known.batches:
                if (begin, end) == (first, first + count - 1):
                    return 0, offset
            if first != known.batches[-1][1] + 1:
                return OUT_OF_ORDER, -1
        elif first:
            return OUT_OF_ORDER, -1  # the first batch after the marker that raised the epoch
        known.batches.append((first, first + count - 1, self.end))
        if transactional:
            self.open.setdefault(id_, self.end)
        return 0, self._add(Entry(self.end, _bodies(raw), id_, epoch, transactional))

    def mark(self, id_: int, epoch: int, commit: bool) -> None:
        """End the transaction of a producer; the partition learns the epoch."""
        known = self._producers.get(id_)
        if known is None:
            known = self._producers[id_] = _Producer(epoch)
        if epoch < known.epoch:
            return  # the coordinator gives up a refused marker
        if epoch > known.epoch:
            known.epoch = epoch
            known.batches.clear()
        begun = self.open.pop(id_, None)
        if begun is not None and not commit:
            for entry in self.entries:
                if entry.offset >= begun and entry.producer_id == id_ and entry.transactional:
                    entry.aborted = True
        self._add(Entry(self.end, [], id_, epoch, True, "commit" if commit else "abort"))

    def read(
        self, position: int, most: int = 1_000_000, *, committed: bool = True
    ) -> tuple[list[Record], int]:
        """Return the records of at most so many batches from a position on, and the position after them."""
        limit = self.stable if committed else self.end
        found: list[Record] = []
        for entry in self.entries:
            after = entry.offset + max(1, len(entry.records))
            if after <= position:
                continue
            if entry.offset >= limit or most == 0:
                break
            if not (committed and entry.aborted) and entry.records:
                most -= 1
                found += [
                    Record(self.topic, self.partition, entry.offset + i, APPENDED_MS, *body)
                    for i, body in enumerate(entry.records)
                    if entry.offset + i >= position
                ]
            position = after
        return found, position


def _bodies(raw: bytes) -> list[Body]:
    parsed = parse(raw, 0, committed=False)
    assert parsed is not None and parsed.error is None, parsed
    records = RecordColumns("", 0, parsed.data, parsed.spans)
    return [(r.key, r.value, r.headers) for r in records]
