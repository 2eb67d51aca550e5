"""Reads the bytes that one fetch returned for a partition, in pieces of bounded size, as Kafka's Java consumer does.

An ordinary fetch goes through the two kernels of `reader.py` at once. A compressed batch that is long or broken is
expanded in steps (`chunked_reader.py`). A batch that cannot be read is reported as unreadable, with its stored bytes,
and reading continues after it: any client that may write to a topic can make the broker store such batches. Only
damage ends the reading: a wrong checksum, or a header that no checksum covers and no broker writes.

If the Java consumer leaves a record out, we report its batch as unreadable. In one case we read more than it does:
the broker does not check the offset deltas of uncompressed batches. For the Java consumer, a record whose delta lies
beyond its batch has the offset of another record, and the rest of the fetch after it is lost. Here the records of
such a batch have the offsets that the broker acknowledged for them, one after another.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from aiokafka.errors import CorruptRecordException

from stream_app.contract.record_columns import SPAN
from stream_app.kafka.record_batches import reader as wire
from stream_app.kafka.record_batches.chunked_reader import (
    STEP_BYTES,
    STEP_RECORDS,
    Header,
    Piece,
    Unreadable,
    in_order,
    streamed,
)
from stream_app.kafka.record_batches.compression import expand

_NOTHING = np.frombuffer(b"", np.uint8)


class LegacyFormatError(Exception):
    """A batch has message format 0 or 1, which Kafka 4 no longer writes."""


class _Segment(NamedTuple):
    """Batches that the kernel can read: those of the fetch itself, or expanded ones."""

    data: npt.NDArray[np.uint8]
    records: int  # an upper bound of their number
    at: list[int]  # where each batch begins in `data`; empty if `data` is the fetch itself
    stored_at: list[int]  # where each batch begins in the fetch
    last: bool


def read(
    raw: bytes,
    position: int,
    *,
    check_crcs: bool = True,
    committed: bool = True,
    aborted: Sequence[tuple[int, int]] = (),
) -> Iterator[Piece]:
    """Yields the records that a consumer sees in the batches of one partition, at or after a fetch position.

    `committed` leaves out the records of `aborted` transactions: pairs of producer id and first offset, by ascending
    offset, as the broker lists them. A batch that is cut off at the end is ignored. Without compressed batches the
    columns point into `raw`. Raises CorruptRecordException if the first batch is damaged; a later damaged batch ends
    the reading. Raises LegacyFormatError if a batch has an older message format.
    """
    start = position
    status, stop, count, compressed = wire.survey(np.frombuffer(raw, np.uint8), check_crcs)
    if status == wire.LEGACY:
        if wire.is_legacy(raw, stop):
            raise LegacyFormatError
        status = wire.BAD_CRC  # the format byte, which no checksum covers, is damaged
    segments = _expanded(raw, stop) if compressed else iter([_plain(raw, stop, count)])
    listed = np.array(aborted, np.int64).reshape(-1, 2)
    gone, counts = np.empty(len(listed), np.int64), np.zeros(2, np.int64)
    for segment in segments:
        found: list[npt.NDArray[np.void]] = []
        unreadable: list[Unreadable] = []
        where = 0
        while True:
            odd, spans, position, where = wire.records(
                segment.data, where, segment.records, position, committed, listed, gone, counts
            )
            found.append(spans)
            if odd != wire.ODD:
                break
            batch = _stored(raw, segment, where)
            header = Header.of(batch)
            if not segment.data[where + wire.ATTRIBUTES_AT + 1] & wire.CODEC_MASK:
                end = where + wire.AFTER_LENGTH + _number(segment.data, where + wire.LENGTH_AT)
                spans, position, left_out = _odd(
                    segment.data, where + wire.HEADER_BYTES, end, header, position
                )
                found.append(spans)
                unreadable += header.unreadable(batch, left_out) if left_out else ()
                where = end
                continue
            # Yield the records before this batch first, because its records are in another buffer.
            yield from _cut(segment.data, found, unreadable, position, more=True)
            found, unreadable = [], []
            for piece in streamed(batch, header, position):
                position = piece.next
                yield piece
            where += wire.HEADER_BYTES
        more = not segment.last or (status != wire.WELL and position == start)
        yield from _cut(segment.data, found, unreadable, position, more)
    if status != wire.WELL and position == start:
        raise CorruptRecordException("Invalid CRC" if status == wire.BAD_CRC else "Invalid record structure")


def _number(data: npt.NDArray[np.uint8], at: int) -> int:
    return int.from_bytes(data[at : at + 4].tobytes())


def _plain(raw: bytes, stop: int, count: int) -> _Segment:
    return _Segment(np.frombuffer(raw, np.uint8)[:stop], count, [], [], True)


def _expanded(raw: bytes, stop: int) -> Iterator[_Segment]:
    """Yields the batches uncompressed, some megabytes at a time; only the header of too long or broken ones."""
    at = 0
    while at < stop:
        parts: list[bytes] = []
        begins, stored_at = [], []
        size = count = 0
        while at < stop and size < STEP_BYTES:
            end = at + wire.AFTER_LENGTH + int.from_bytes(raw[at + wire.LENGTH_AT : at + wire.AFTER_LENGTH])
            codec = raw[at + wire.ATTRIBUTES_AT + 1] & wire.CODEC_MASK
            body: bytes | None = raw[at + wire.HEADER_BYTES : end]
            header = bytearray(raw[at : at + wire.HEADER_BYTES])
            if codec:
                body = expand(codec, body or b"", STEP_BYTES)
                if body is not None:
                    header[wire.ATTRIBUTES_AT + 1] &= ~wire.CODEC_MASK
            body = body or b""
            header[wire.LENGTH_AT : wire.AFTER_LENGTH] = (
                wire.HEADER_BYTES - wire.AFTER_LENGTH + len(body)
            ).to_bytes(4)
            records = int.from_bytes(header[wire.COUNT_AT : wire.HEADER_BYTES], signed=True)
            if 0 < records <= len(body) // wire.MIN_RECORD_BYTES:
                count += records
            begins.append(size)
            stored_at.append(at)
            parts += (bytes(header), body)
            size += len(header) + len(body)
            at = end
        yield _Segment(np.frombuffer(b"".join(parts), np.uint8), count, begins, stored_at, at >= stop)


def _stored(raw: bytes, segment: _Segment, where: int) -> bytes:
    """The stored bytes of the batch that begins at `where` in a segment."""
    at = segment.stored_at[bisect_right(segment.at, where) - 1] if segment.at else where
    return raw[
        at : at + wire.AFTER_LENGTH + int.from_bytes(raw[at + wire.LENGTH_AT : at + wire.AFTER_LENGTH])
    ]


def _odd(
    data: npt.NDArray[np.uint8], at: int, end: int, header: Header, position: int
) -> tuple[npt.NDArray[np.void], int, str]:
    """The readable records of an odd batch, the fetch position after it, and why some are left out, if any."""
    if header.control or header.records < 0:
        return np.empty(0, SPAN), max(position, header.next), "the Java consumer refuses it"
    far, spans, behind = wire.records_of(data[:end], at, header.records, end)
    left_out = ""
    if far != wire.THROUGH:
        left_out = f"record {len(spans)} of {header.records} has no valid structure"
    elif behind != end:
        spans, left_out = spans[:-1], "bytes are left behind the last record"
    # The broker checks the offset deltas of compressed batches, so only uncompressed ones need this.
    beyond = not header.codec and bool((spans["offset"] > header.last).any())
    if beyond and header.records == header.last + 1:
        spans["offset"] = np.arange(len(spans))
    rising = in_order(spans["offset"], -1, header.last)
    if not rising.all():
        left_out = (
            left_out or f"the offset delta of record {int(rising.argmin())} is not above the one before"
        )
    spans = header.placed(spans[rising], position)
    return spans, max(position, header.next), left_out


def _cut(
    data: npt.NDArray[np.uint8],
    found: list[npt.NDArray[np.void]],
    unreadable: list[Unreadable],
    position: int,
    more: bool,
) -> Iterator[Piece]:
    """Yields pieces of at most STEP_RECORDS; each `Unreadable` goes into the piece that has its offsets."""
    spans = found[0] if len(found) == 1 else np.concatenate(found) if found else np.empty(0, SPAN)
    for start in range(STEP_RECORDS, len(spans) + STEP_RECORDS, STEP_RECORDS):
        last = start >= len(spans)
        part = spans[start - STEP_RECORDS : start]
        after = position if last else int(part["offset"][-1]) + 1
        now = [each for each in unreadable if last or each.last < after]
        unreadable = [] if last else [each for each in unreadable if each.last >= after]
        yield Piece(data, part, after, now, more or not last)
    if not len(spans) and (unreadable or not more):
        yield Piece(_NOTHING, spans, position, unreadable, more)
