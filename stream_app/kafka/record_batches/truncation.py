"""Outputs cut to what their topic takes. Pure; whatever is cut says so in the output itself.

Sizes are those of a record batch that holds the one record, uncompressed: the limit must hold also where the broker
stores it in another codec.
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
#: Of the room for a dead letter, the part that its key may take at most where it does not fit.
_KEY_SHARE = 4
#: Of that room, the part up to which the producer's own headers stay where the value does not fit.
_HEADERS_SHARE = 2

#: Makes a message smaller, so that its batch has at most so many bytes; as it was where that cannot be done.
Cut = Callable[[Message, int], Message]


def batch_bytes(message: Message) -> int:
    """Bytes of an uncompressed record batch that holds only this record."""
    key, value, headers = message
    size = 3 + len(write_headers(tuple(headers)))  # attributes, time and offset as deltas
    for part in (key, value):
        size += 1 if part is None else _varint_bytes(len(part)) + len(part)
    return BATCH_HEADER + _varint_bytes(size) + size


def at_most(message: Message) -> int:
    """A number that `batch_bytes` does not exceed, found at a fraction of its cost."""
    key, value, headers = message
    size = BATCH_HEADER + 40 + len(key or b"") + len(value or b"")
    for name, text in headers:
        size += 10 + 4 * len(name) + len(text or b"")
    return size


def cut_dead_letter(message: Message, most: int) -> Message:
    """The letter with as much of its record as fits.

    The producer's own headers go first, if they are what does not fit; then the key is shortened, then the value.
    What was cut is told by its full length and SHA-256.
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
    """Headers about something that is cut; none where it was cut before, since those tell of the whole."""
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
    # A comma each in JSON; the length of the array and of the record may take some bytes more.
    left = most - batch_bytes((key, encode(said), headers)) - 12
    fits = int(np.searchsorted(np.cumsum([len(encode(item)) + 1 for item in items]), left, side="right"))
    said["items"] = items[:fits]
    return key, encode(said), headers


def _varint_bytes(length: int) -> int:
    """Bytes of a length as a zigzag varint."""
    return max(1, -(-(length << 1).bit_length() // 7))
