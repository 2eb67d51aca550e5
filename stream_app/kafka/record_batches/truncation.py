"""Cuts outputs to the size that their topic accepts. Pure. A cut output says itself that it was cut.

Sizes are those of an uncompressed record batch with this one record, so that the limit holds even if the broker
stores the batch with another codec.
"""

from collections.abc import Callable
from typing import Any

import msgpack
import msgspec
import numpy as np

from stream_app.contract.outputs import OUR_HEADERS, Message
from stream_app.contract.record_columns import HEADERS_DROPPED, digest, write_headers

#: Bytes of a record batch before its first record. Source: Kafka's protocol guide, "Record Batch".
BATCH_HEADER = 61
#: If a dead letter does not fit, its key is cut to the size limit divided by this number.
_KEY_SHARE = 4
#: The producer's own headers stay only if the letter without its value fits into the limit divided by this number.
_HEADERS_SHARE = 2

#: Cuts a message so that its batch has at most the given number of bytes; returns it unchanged if that is impossible.
Cut = Callable[[Message, int], Message]


def batch_bytes(message: Message) -> int:
    """Bytes of an uncompressed record batch that holds only this record."""
    key, value, headers = message
    size = 3 + len(write_headers(tuple(headers)))  # attributes, time and offset as deltas
    for part in (key, value):
        size += 1 if part is None else _varint_bytes(len(part)) + len(part)
    return BATCH_HEADER + _varint_bytes(size) + size


def at_most(message: Message) -> int:
    """An upper bound of `batch_bytes`, much cheaper to compute."""
    key, value, headers = message
    size = BATCH_HEADER + 40 + len(key or b"") + len(value or b"")
    for name, text in headers:
        size += 10 + 4 * len(name) + len(text or b"")
    return size


def cut_dead_letter(message: Message, most: int) -> Message:
    """The dead letter with as much of its record as fits.

    First the producer's own headers are removed, if they are too large; then the key is cut, then the value. Headers
    give the full length and the SHA-256 of each part that was cut.
    """
    if batch_bytes(message) <= most:
        return message
    key, value, headers = message
    ours = [(name, text) for name, text in headers if name.startswith(OUR_HEADERS)]
    theirs = [(name, text) for name, text in headers if not name.startswith(OUR_HEADERS)]
    if theirs and batch_bytes((key, None, headers)) > most // _HEADERS_SHARE:
        packed = write_headers(tuple(theirs))
        if told := _told("headers", packed, ours):
            ours += [(HEADERS_DROPPED, b"%d" % len(theirs)), *told]
        theirs = []
    if key is not None and len(key) > most // _KEY_SHARE:
        ours += _told("key", key, ours)
        key = key[: most // _KEY_SHARE]
    if value is not None and batch_bytes((key, value, ours + theirs)) > most:
        ours += _told("value", value, ours)
        # The lengths of record and value take up to eight bytes more than those of an empty one.
        value = value[: max(0, most - 8 - batch_bytes((key, b"", ours + theirs)))]
    if key is not None and (excess := batch_bytes((key, value, ours + theirs)) - most) > 0:
        ours += _told("key", key, ours)
        key = key[: max(0, len(key) - excess - 256)]
    return key, value, [*ours, *theirs]


def _told(part: str, whole: bytes, ours: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Headers about a part that is cut; none if it was cut before, because its headers exist already."""
    if any(name == f"foreclick.{part}.length" for name, _ in ours):
        return []
    return [(name, text.encode()) for name, text in digest(part, whole)]


def cut_prediction(message: Message, most: int) -> Message:
    """The prediction with as many items as fit, in their order, and `"truncated": true`."""
    key, value, headers = message
    if value is None or batch_bytes(message) <= most:
        return message
    is_json = value[:1] == b"{"
    said: dict[str, Any] = msgspec.json.decode(value) if is_json else msgspec.msgpack.decode(value)
    encode: Callable[[Any], bytes] = msgspec.json.encode if is_json else msgpack.packb
    items, said["items"], said["truncated"] = said["items"], [], True
    # In JSON each item needs a comma; the lengths of the array and of the record may need some more bytes.
    left = most - batch_bytes((key, encode(said), headers)) - 12
    fits = int(np.searchsorted(np.cumsum([len(encode(item)) + 1 for item in items]), left, side="right"))
    said["items"] = items[:fits]
    return key, encode(said), headers


def _varint_bytes(length: int) -> int:
    """Bytes of a length as a zigzag varint."""
    return max(1, -(-(length << 1).bit_length() // 7))
