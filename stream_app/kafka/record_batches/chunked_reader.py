"""Expands a compressed batch step by step, so that the memory needed does not depend on its expanded size.

Only a single record can still be too long. It is skipped, and only its length, its hash and its beginning are kept.
"""

import hashlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError

from stream_app.contract.record_columns import SPAN
from stream_app.kafka.record_batches import reader as wire
from stream_app.kafka.record_batches.compression import pieces

#: Approximate number of expanded bytes that are read at once.
STEP_BYTES = 4 << 20
#: A longer record of a compressed batch counts as unreadable, and its value is not kept. No event is nearly as long.
LONGEST_RECORD = 1 << 20
#: Most records that are read at once.
STEP_RECORDS = 16_384
#: Of a long record a key of at most this many bytes is kept, and as many bytes of its value.
KEPT_BYTES = 4096

_HEADER = struct.Struct(">qiibIhiqqqhii")


class Unreadable(NamedTuple):
    """A batch that is invalid for a consumer, or a record that is too long to be delivered."""

    first: int  #: `first` to `last` are the offsets that it stands for
    last: int
    timestamp: int  #: Unix ms
    why: str
    key: bytes | None
    data: bytes  #: the stored batch; of a long record the beginning of its value
    value_bytes: int = 0
    sha256: str = ""  #: of the whole value of a long record; empty for a batch


class Piece(NamedTuple):
    """The records that a consumer sees in a part of a fetch."""

    data: npt.NDArray[np.uint8]  #: the bytes that the spans point into; read-only
    spans: npt.NDArray[np.void]  #: (records,) SPAN
    next: int  #: the fetch position after these records
    unreadable: list[Unreadable]  #: below `next`
    more: bool  #: whether more pieces of this fetch may follow


class Header(NamedTuple):
    """The fields of a batch's header that are needed here."""

    base: int
    last: int  # offset delta of the last record
    records: int
    codec: int
    control: bool
    first_ms: int
    max_ms: int
    append_time: bool

    @classmethod
    def of(cls, batch: bytes) -> "Header":
        """The header of a stored batch."""
        base, _, _, _, _, attributes, last, first_ms, max_ms, _, _, _, count = _HEADER.unpack_from(batch)
        append = bool(attributes & wire.LOG_APPEND_TIME)
        codec, control = attributes & wire.CODEC_MASK, bool(attributes & wire.CONTROL)
        return cls(base, last, count, codec, control, first_ms, max_ms, append)

    @property
    def next(self) -> int:
        """The fetch position after the batch."""
        return self.base + self.last + 1

    def placed(self, spans: npt.NDArray[np.void], position: int) -> npt.NDArray[np.void]:
        """Replaces the deltas in spans by offsets and times; returns the spans at or after a fetch position."""
        spans["offset"] += self.base
        if self.append_time:
            spans["timestamp"] = self.max_ms
        else:
            with np.errstate(over="ignore"):  # as in Java
                spans["timestamp"] += self.first_ms
        return spans[spans["offset"] >= position]

    def unreadable(self, batch: bytes, why: str) -> list[Unreadable]:
        """The stored batch as an `Unreadable`."""
        last = max(self.base, self.base + self.last)
        return [Unreadable(self.base, last, self.max_ms, why, None, batch)]


def in_order(deltas: npt.NDArray[np.int64], before: int, last: int) -> npt.NDArray[np.bool_]:
    """For each offset delta, whether it is at most `last` and greater than all earlier ones that are."""
    inside = np.where(deltas <= last, deltas, -1)
    highest = np.maximum.accumulate(np.concatenate([np.array([before], np.int64), inside]))[:-1]
    return inside > highest


class _Stream:
    """The expanded bytes of a batch, of which only a part is in memory at a time."""

    def __init__(self, codec: int, body: bytes) -> None:
        self._pieces = pieces(codec, body)
        self.buffer = b""
        self.error = ""  #: why no more could be read
        self._ahead = self._next()

    def _next(self) -> bytes:
        try:
            return next(self._pieces, b"")
        except (CorruptRecordException, UnsupportedCodecError) as error:
            self.error = str(error.args[0])
            return b""

    @property
    def whole(self) -> bool:
        """Whether the stream ends after the buffer, without an error."""
        return not self._ahead and not self.error

    @property
    def ended(self) -> bool:
        """Whether nothing more can be read after the buffer."""
        return not self._ahead

    def fill(self, size: int = STEP_BYTES) -> None:
        """Reads until the buffer has `size` bytes, or until the end of the stream."""
        parts, have = [self.buffer], len(self.buffer)
        while have < size and self._ahead:
            parts.append(self._ahead)
            have += len(self._ahead)
            self._ahead = self._next()
        self.buffer = b"".join(parts)

    def take(self, size: int) -> bytes:
        """Removes and returns the next `size` bytes. Raises EOFError if there are fewer."""
        self.fill(size)
        if len(self.buffer) < size:
            raise EOFError(self.error or "the last record is cut off")
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken


def streamed(batch: bytes, header: Header, position: int) -> Iterator[Piece]:
    """Yields the records of a stored compressed batch at or after a fetch position; the last piece ends the batch.

    Records before an invalid one are delivered, and the batch counts as unreadable. As in Java, the last record
    counts only if the stream ends after it.
    """
    nothing, empty = np.empty(0, np.uint8), np.empty(0, SPAN)
    stream = _Stream(header.codec, batch[wire.HEADER_BYTES :])
    left, highest = header.records, -1
    why = "the Java consumer refuses it" if header.control or header.records < 0 else ""
    while left and not why:
        stream.fill()
        data = np.frombuffer(stream.buffer, np.uint8)
        far, spans, at = wire.records_of(data, 0, min(left, STEP_RECORDS), LONGEST_RECORD)
        data, stream.buffer = np.frombuffer(stream.buffer[:at], np.uint8), stream.buffer[at:]
        left -= len(spans)
        if far == wire.NO_RECORD or (far == wire.MORE and stream.ended):
            why = stream.error or f"record {header.records - left} of {header.records} has no valid structure"
        if len(spans) and not left and (stream.buffer or not stream.whole):
            spans, why = spans[:-1], stream.error or "bytes are left behind the last record"
        rising = in_order(spans["offset"], highest, header.last)
        if not rising.all():
            why = why or "its offset deltas do not rise"
        spans = spans[rising]
        highest = max(highest, int(spans["offset"].max(initial=-1)))
        spans = header.placed(spans, position)
        if len(spans):
            position = int(spans["offset"][-1]) + 1
            yield Piece(data, spans, position, [], True)
        if far != wire.LONG or why:
            continue
        left -= 1
        for long in long_record(stream):
            if long is None:
                yield Piece(nothing, empty, position, [], True)
            elif long.why or not highest < long.delta <= header.last:
                why = long.why or "its offset deltas do not rise"
            elif not left and (stream.buffer or not stream.whole):
                why = stream.error or "bytes are left behind the last record"
            else:
                highest = long.delta
                if header.base + long.delta >= position:
                    position = header.base + long.delta + 1
                    yield Piece(nothing, empty, position, [long.unreadable(header)], True)
    unreadable = header.unreadable(batch, why) if why else []
    yield Piece(nothing, empty, max(position, header.next), unreadable, True)


class Long(NamedTuple):
    """A record that is too long to be delivered."""

    why: str  # why it is invalid, empty if it is valid; the other fields count only then
    delta: int = 0
    timestamp: int = 0
    key: bytes | None = None
    value: bytes = b""  # its beginning
    value_bytes: int = 0
    sha256: str = ""

    def unreadable(self, header: Header) -> Unreadable:
        """The record as an `Unreadable`."""
        offset = header.base + self.delta
        time = header.max_ms if header.append_time else header.first_ms + self.timestamp
        return Unreadable(offset, offset, time, "", self.key, self.value, self.value_bytes, self.sha256)


def long_record(stream: _Stream) -> Iterator[Long | None]:
    """Skips the next record and yields it at the end; yields None before, so that other work can run meanwhile."""
    try:
        left = _Left(stream, _number(stream, 5))
        left.take(1)  # attributes, which have no meaning yet
        time, delta = _number(left, 10), _number(left, 5)
        size = _number(left, 5)
        key = left.take(size) if 0 <= size <= KEPT_BYTES else None
        if size > KEPT_BYTES:
            for _ in left.passed(size):
                yield None
        size = _number(left, 5)
        kept, digest = bytearray(), hashlib.sha256()
        for part in left.passed(size):
            digest.update(part)
            kept += part[: KEPT_BYTES - len(kept)]
            yield None
        if left.size > LONGEST_RECORD:  # headers that are too long to be checked
            for _ in left.passed(left.size):
                yield None
        elif not _are_headers(left.take(left.size)):
            raise EOFError("the headers of a record have no valid structure")
        yield Long("", delta, time, key, bytes(kept), max(size, 0), digest.hexdigest())
    except EOFError as error:
        yield Long(str(error))


class _Left:
    """The remaining bytes of a record in a stream."""

    def __init__(self, stream: _Stream, size: int) -> None:
        self._stream = stream
        self.size = size

    def take(self, size: int) -> bytes:
        """Removes and returns the next `size` bytes. Raises EOFError if there are fewer."""
        if size > self.size:
            raise EOFError("a field is longer than its record")
        self.size -= size
        return self._stream.take(size)

    def passed(self, size: int) -> Iterator[bytes]:
        """Yields the next `size` bytes, some megabytes at a time. Raises EOFError."""
        while size > 0:
            part = self.take(min(size, STEP_BYTES))
            size -= len(part)
            yield part


def _number(source: _Stream | _Left, most: int) -> int:
    """Reads a zigzag integer of at most `most` bytes, as Java does. Raises EOFError if it is longer."""
    bits = 0
    for i in range(most):
        (byte,) = source.take(1)
        bits |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            bits &= (1 << 32) - 1 if most == 5 else (1 << 64) - 1
            return bits >> 1 ^ -(bits & 1)
    raise EOFError("a number has no end")


def _are_headers(packed: bytes) -> bool:
    """Whether the headers of a record are valid. Parses them as the headers of an otherwise empty record."""
    body = b"\0\0\0\1\1" + packed
    size, record = len(body) << 1, bytearray()
    while size > 0x7F:
        record.append(size & 0x7F | 0x80)
        size >>= 7
    record.append(size)
    whole = np.frombuffer(bytes(record) + body, np.uint8)
    far, spans, at = wire.records_of(whole, 0, 1, len(whole))
    return far == wire.THROUGH and len(spans) == 1 and at == len(whole)
