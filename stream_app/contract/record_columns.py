"""Records of one topic partition as columns: the positions of keys and values in one buffer, no object per record."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from stream_app.contract.events import BadRecord
from stream_app.contract.received import RECEIVED_HEADER, UNKNOWN
from stream_app.contract.received_kernel import carried
from stream_app.contract.records import Headers, Record

#: The most headers that are decoded of a record that may become a dead letter.
MOST_HEADERS = 100
#: Header of a dead letter with the number of headers that were left out.
HEADERS_DROPPED = "foreclick.headers.dropped"

#: Positions of the parts of one record. A length of -1 means that the part is missing.
SPAN = np.dtype(
    [
        ("offset", "i8"),
        ("timestamp", "i8"),  # Unix ms, as `Record.timestamp`
        ("key_at", "i8"),
        ("value_at", "i8"),
        ("headers_at", "i8"),  # of the headers as message format v2 holds them, their count first
        ("key_bytes", "i4"),
        ("value_bytes", "i4"),
        ("headers_bytes", "i4"),  # 0 where the record has no headers
    ],
    align=True,
)


@dataclass(slots=True, eq=False)
class RecordColumns:
    """n records in ascending order of offsets."""

    topic: str
    partition: int
    data: npt.NDArray[np.uint8]  # the buffer into which the spans point; read-only
    spans: npt.NDArray[np.void]  # (n,) SPAN
    aside: list[BadRecord] = field(
        default_factory=list
    )  # unreadable parts of the log between the records, by offset

    def __post_init__(self) -> None:
        self.data.flags.writeable = (
            False  # so that compiled code sees one type of array, wherever the bytes come from
        )

    def __len__(self) -> int:
        return len(self.spans)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "RecordColumns": ...
    def __getitem__(self, index: Any) -> Any:
        """One record, or the records of a slice (which share the buffer), without `aside`."""
        if isinstance(index, slice):
            return RecordColumns(self.topic, self.partition, self.data, self.spans[index])
        return self._record(self.spans[index], read_headers(self._headers(index)))

    def with_few_headers(self, index: int) -> tuple[Record, tuple[tuple[str, str], ...]]:
        """One record as a dead letter may hold it, and further headers of that letter.

        Two bytes can become a header of several objects. Of more than `MOST_HEADERS` only the one that matters is
        kept, the time at which the record was first stored; the dead letter says how many were left out.
        """
        packed = self._headers(index)
        if len(packed) <= 2 * MOST_HEADERS or (count := headers_in(packed)) <= MOST_HEADERS:
            return self[index], ()
        time = carried(np.frombuffer(packed, np.uint8), 0, len(packed))
        kept = () if time == UNKNOWN else ((RECEIVED_HEADER, b"%d" % time),)
        told = ((HEADERS_DROPPED, str(count)), *digest("headers", packed))
        return self._record(self.spans[index], kept), told

    def _headers(self, index: int) -> bytes:
        s = self.spans[index]
        return self._bytes(s["headers_at"], s["headers_bytes"]) or b""

    def _record(self, s: Any, headers: Headers) -> Record:
        return Record(
            self.topic,
            self.partition,
            int(s["offset"]),
            int(s["timestamp"]),
            self._bytes(s["key_at"], s["key_bytes"]),
            self._bytes(s["value_at"], s["value_bytes"]),
            headers,
        )

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    @property
    def held_bytes(self) -> int:
        """Approximate memory of these records."""
        return self.data.nbytes + self.spans.nbytes + sum(bad.held_bytes for bad in self.aside)

    def since(self, offset: int) -> "RecordColumns":
        """The records at and above an offset."""
        found = self[int(np.searchsorted(self.spans["offset"], offset)) :]
        found.aside = [bad for bad in self.aside if bad.record.offset >= offset]
        return found

    def below(self, offset: int) -> "RecordColumns":
        """The records below an offset."""
        found = self[: int(np.searchsorted(self.spans["offset"], offset))]
        found.aside = [bad for bad in self.aside if bad.record.offset < offset]
        return found

    def keys(self) -> list[bytes | None]:
        """The key of each record."""
        return [self._bytes(a, n) for a, n in zip(*self._columns("key_at", "key_bytes"), strict=True)]

    def values(self) -> list[bytes | None]:
        """The value of each record."""
        return [self._bytes(a, n) for a, n in zip(*self._columns("value_at", "value_bytes"), strict=True)]

    def _columns(self, at: str, size: str) -> tuple[list[int], list[int]]:
        return self.spans[at].tolist(), self.spans[size].tolist()

    def _bytes(self, at: int, size: int) -> bytes | None:
        return None if size < 0 else self.data[at : at + size].tobytes()

    @classmethod
    def none(cls, topic: str, partition: int) -> "RecordColumns":
        """No records."""
        return cls(topic, partition, np.frombuffer(b"", np.uint8), np.empty(0, SPAN))

    @classmethod
    def concat(cls, parts: Sequence["RecordColumns"]) -> "RecordColumns":
        """Joins consecutive records of one topic partition; at least one part."""
        if len(parts) == 1:
            return parts[0]
        spans = np.concatenate([part.spans for part in parts])
        starts = np.cumsum([0, *(len(part.data) for part in parts[:-1])])
        shift = np.repeat(starts, [len(part) for part in parts])
        for at in ("key_at", "value_at", "headers_at"):
            spans[at] += shift
        first = parts[0]
        aside = [bad for part in parts for bad in part.aside]
        data = np.concatenate([part.data for part in parts])
        return cls(first.topic, first.partition, data, spans, aside)

    @classmethod
    def of(cls, records: Sequence[Record]) -> "RecordColumns":
        """Columns of records of one topic partition."""
        parts: list[bytes] = []
        spans = np.zeros(len(records), SPAN)
        at = 0

        def place(part: bytes | None) -> tuple[int, int]:
            nonlocal at
            if part is None:
                return at, -1
            parts.append(part)
            start, at = at, at + len(part)
            return start, len(part)

        for span, r in zip(spans, records, strict=True):
            span["offset"], span["timestamp"] = r.offset, r.timestamp
            span["key_at"], span["key_bytes"] = place(r.key)
            span["value_at"], span["value_bytes"] = place(r.value)
            if r.headers:
                span["headers_at"], span["headers_bytes"] = place(write_headers(r.headers))
        data = np.frombuffer(b"".join(parts), np.uint8)
        topic, partition = (records[0].topic, records[0].partition) if records else ("", 0)
        return cls(topic, partition, data, spans)


#: A surrogate of UTF-16 encoded as in UTF-8: Java replaces it by one character, Python by several.
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]?")


def _name(packed: bytes) -> str:
    try:
        return packed.decode()
    except UnicodeDecodeError:
        return _SURROGATE.sub("\ufffd".encode(), packed).decode("utf-8", "replace")


def _number(packed: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint, and where it ends."""
    value = shift = 0
    while True:
        byte = packed[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            value &= 0xFFFFFFFF  # as in Java, the bits above 32 are dropped
            return (value >> 1) ^ -(value & 1), at


def headers_in(packed: bytes) -> int:
    """How many headers there are, without reading them."""
    return _number(packed, 0)[0] if packed else 0


def digest(part: str, whole: bytes) -> tuple[tuple[str, str], tuple[str, str]]:
    """Headers of a dead letter about a part of its record that is truncated or left out."""
    return (f"foreclick.{part}.length", str(len(whole))), (
        f"foreclick.{part}.sha256",
        hashlib.sha256(whole).hexdigest(),
    )


def read_headers(packed: bytes) -> Headers:
    """Headers of a record of message format v2; a value may be None. Source: Kafka's protocol guide, "Record Header".

    A name that is not valid UTF-8 gets replacement characters, as many as in Java.
    """
    if not packed:
        return ()
    at = 0

    def number() -> int:
        nonlocal at
        value, at = _number(packed, at)
        return value

    def text() -> bytes | None:
        nonlocal at
        size = number()
        if size < 0:
            return None
        at += size
        return packed[at - size : at]

    return tuple((_name(text() or b""), text()) for _ in range(number()))  # type: ignore[misc]


def write_headers(headers: Headers) -> bytes:
    """The bytes that `read_headers` reads."""
    out = bytearray()

    def number(value: int) -> None:
        value = (value << 1) ^ (value >> 63)
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)

    def text(part: bytes | None) -> None:
        number(-1 if part is None else len(part))
        out.extend(part or b"")

    number(len(headers))
    for name, value in headers:
        text(name.encode())
        text(value)
    return bytes(out)
