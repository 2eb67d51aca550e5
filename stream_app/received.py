"""When the shop's record was first stored, which is what limits how far ahead an event's own time counts.

That is the record's Kafka timestamp, lowered by the header `foreclick.received`. Whatever passes records on, such as
`replay`, attaches the header, so that a copy counts at the time of its original. A header can only lower the time:
a producer gains nothing by it. A Kafka timestamp of -1 or 0 stands for none.
"""

import numpy as np

from stream_app.pointer import jit, pointer_to, same_bytes
from stream_app.records import Headers, Record

#: Unix milliseconds as decimal text, 1 to 15 digits; anything else is ignored.
RECEIVED_HEADER = "foreclick.received"
#: Where nobody knows when a record was stored.
UNKNOWN = 0

_NAME = np.frombuffer(RECEIVED_HEADER.encode(), np.uint8)
_DIGITS = 15


def received_of(record: Record) -> int:
    """Unix ms at which the record was first stored, UNKNOWN where neither its timestamp nor a header says it."""
    known = max(record.timestamp, UNKNOWN)
    for name, value in record.headers:
        if name == RECEIVED_HEADER and value and len(value) <= _DIGITS and value.isdigit():
            known = _lower.py_func(known, int(value))
    return known


def with_received(record: Record) -> Headers:
    """The record's headers, with one that says when it was first stored; unchanged where that is not known."""
    received = received_of(record)
    if received == UNKNOWN:
        return record.headers
    others = tuple(each for each in record.headers if each[0] != RECEIVED_HEADER)
    return (*others, (RECEIVED_HEADER, str(received).encode()))


@jit
def received(data, span):  # type: ignore[no-untyped-def]
    """What `received_of` says of the record of a span; `data` is a pointer."""
    known = max(span.timestamp, UNKNOWN)
    if span.headers_bytes > 0:
        known = _lower(known, _carried(data, span.headers_at, span.headers_at + span.headers_bytes))
    return known


@jit
def _lower(known, carried):  # type: ignore[no-untyped-def]
    return carried if carried > UNKNOWN and (known == UNKNOWN or carried < known) else known


@jit
def _carried(data, at, end):  # type: ignore[no-untyped-def]
    """The lowest time among the headers that stand from `at` to `end`, UNKNOWN where there is none."""
    lowest, name = np.int64(UNKNOWN), pointer_to(_NAME)
    at, count = _varint(data, at, end)
    for _ in range(count):
        name_at, name_bytes = _varint(data, at, end)
        at, size = _varint(data, name_at + max(name_bytes, 0), end)
        if at >= end or at + size > end:
            break
        if name_bytes == len(_NAME) and same_bytes(data, name_at, name, 0, name_bytes):
            lowest = _lower(lowest, _decimal(data, at, size))
        at += max(size, 0)
    return lowest


@jit
def _decimal(data, at, size):  # type: ignore[no-untyped-def]
    """A number of at most `_DIGITS` decimal digits, UNKNOWN for anything else."""
    value = np.int64(UNKNOWN)
    if size > _DIGITS:
        return value
    for i in range(at, at + size):
        digit = np.int64(data[i]) - 48
        if digit < 0 or digit > 9:
            return np.int64(UNKNOWN)
        value = 10 * value + digit
    return value


@jit
def _varint(data, at, end):  # type: ignore[no-untyped-def]
    """Behind a zigzag varint of 32 bits, and its value; `end` and 0 where the bytes end within it."""
    bits = np.uint32(0)
    for shift in range(0, 35, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        bits |= np.uint32(byte & 0x7F) << np.uint32(shift)
        if byte < 0x80:
            return at, np.int64(bits >> np.uint32(1)) ^ -np.int64(bits & np.uint32(1))
    return end, np.int64(0)
