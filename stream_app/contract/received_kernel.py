"""Compiled code for the time at which a record was first stored; see `stream_app.contract.received`."""

import numpy as np

from stream_app.contract.received import DIGITS, RECEIVED_HEADER, UNKNOWN, lower
from stream_app.kernels.jit import jit
from stream_app.kernels.memory import pointer_to, same_bytes

_NAME = np.frombuffer(RECEIVED_HEADER.encode(), np.uint8)
_lower = jit(lower)


@jit
def received_time(data, span):  # type: ignore[no-untyped-def]
    """As `received_of`, for the record of a span; `data` is a pointer."""
    known = max(span.timestamp, UNKNOWN)
    if span.headers_bytes > 0:
        known = _lower(known, _carried(data, span.headers_at, span.headers_at + span.headers_bytes))
    return known


@jit
def carried(data, at, size):  # type: ignore[no-untyped-def]
    """The lowest time in packed headers, UNKNOWN if none of them has a time; `data` is an array."""
    return _carried(pointer_to(data), at, at + size)


@jit
def _carried(data, at, end):  # type: ignore[no-untyped-def]
    """The lowest time in the headers from `at` to `end`, UNKNOWN if there is none."""
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
    """A number of at most `DIGITS` decimal digits, UNKNOWN for anything else."""
    value = np.int64(UNKNOWN)
    if size > DIGITS:
        return value
    for i in range(at, at + size):
        digit = np.int64(data[i]) - 48
        if digit < 0 or digit > 9:
            return np.int64(UNKNOWN)
        value = 10 * value + digit
    return value


@jit
def _varint(data, at, end):  # type: ignore[no-untyped-def]
    """The position after a zigzag varint of 32 bits, and its value; `end` and 0 if the bytes end within it."""
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
