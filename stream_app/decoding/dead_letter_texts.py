"""The texts of dead letters: what a field should be, and what a value, a key or a type is instead. No quotes.

The short ones, such as "is empty", stand beside their checks in `lenient` and `decoder`; `contract.events.BadRecord`
makes the sentence. The texts of records that cannot be read at all are in `worker.transport.fetch_hook`.
"""

import json
import math
from typing import Any

import msgspec

from stream_app.contract.events import MAX_ID_BYTES, MAX_NAME_BYTES, MAX_PRICE, MAX_QUANTITY

#: What each field should be, for people.
EXPECTED = {
    "user_id": f"text or an integer, 1 to {MAX_ID_BYTES} bytes",
    "ts": "Unix milliseconds as an integer",
    "event_id": f"text or an integer, at most {MAX_ID_BYTES} bytes",
    "item_id": f"text or an integer, 1 to {MAX_NAME_BYTES} bytes",
    "category_id": f"text or an integer, at most {MAX_NAME_BYTES} bytes",
    "sent_at": "Unix milliseconds as an integer",
    "price": f"a number from 0 to {MAX_PRICE:g}",
    "quantity": f"an integer from 1 to {MAX_QUANTITY}",
}


#: First bytes of a msgpack map: fixmap, map 16, map 32 (the msgpack specification, "map format family").
MSGPACK_MAP = frozenset([*range(0x80, 0x90), 0xDE, 0xDF])
#: First bytes of a msgpack array.
_MSGPACK_ARRAY = frozenset([*range(0x90, 0xA0), 0xDC, 0xDD])

_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "is compressed with gzip"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd"),
    (b"\x04\x22\x4d\x18", "is compressed with lz4"),
    (b"\xef\xbb\xbf", "begins with a UTF-8 byte order mark"),
    (b"\xff\xfe\x00\x00", "is text in UTF-32"),
    (b"\x00\x00\xfe\xff", "is text in UTF-32"),
    (b"\xff\xfe", "is text in UTF-16"),
    (b"\xfe\xff", "is text in UTF-16"),
    (b"{\x00", "is text in UTF-16"),
    (b"\x00{\x00", "is text in UTF-16"),
)
#: A schema registry puts a zero byte and the four bytes of a schema's id before the value.
_REGISTRY_BYTES = 5


def description(value: bytes, error: str) -> str:
    """What is wrong with a value, as "the value is …". `error`: the parser's message, which quotes no content."""
    for beginning, what in _BEGINNINGS:
        if value.startswith(beginning):
            return f"the value {what}"
    if value[0] == 0 and len(value) > _REGISTRY_BYTES:
        form = "JSON" if value[_REGISTRY_BYTES:].lstrip()[:1] == b"{" else "Avro or Protobuf"
        return f"the value begins with the 5 bytes of a schema registry, before {form}"
    if value[0] in MSGPACK_MAP:
        return f"the value is no whole msgpack map ({error})"
    if value[0] in _MSGPACK_ARRAY:
        return "the value is an array in msgpack"
    text = value.lstrip(b" \t\r\n")
    if text[:1] not in (b"{", b""):
        return _other_json(text, error)
    if _has_constants(value):
        return "the value holds NaN or Infinity, which JSON does not have"
    return f"the value is not valid JSON ({error})"


def _other_json(text: bytes, error: str) -> str:
    """Describes a value whose first character does not begin an object."""
    try:
        found: Any = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        if text[:1] == b"[":
            return f"the value begins an array and is not valid JSON ({error})"
        return f"the value is not valid JSON ({error})"
    if isinstance(found, str) and found.lstrip()[:1] in ("{", "["):
        return "the value is JSON inside a JSON string, encoded twice"
    return f"the value is {type_words(found)}"


def _has_constants(value: bytes) -> bool:
    """Whether a value is JSON except for NaN and Infinity, which some Python and JavaScript libraries write."""
    found = False

    def constant(_: str) -> None:
        nonlocal found
        found = True

    try:
        json.loads(value, parse_constant=constant)
    except (ValueError, RecursionError):
        return False
    return found


def key_description(key: bytes | None, user: bytes) -> str:
    """Describes a key that is not the user_id."""
    if key is None:
        return "the record has no key"
    if key == b'"' + user + b'"':
        return "the record's key is the user_id in quotes"
    if key.startswith(b"\0") and key[_REGISTRY_BYTES:].strip(b'"') == user:
        return "the record's key begins with the 5 bytes of a schema registry"
    if user.isdigit() and len(key) in (4, 8) and int.from_bytes(key, "big") == int(user):
        return "the record's key is the user_id as a binary integer"
    return "the record's key is not the user_id"


def type_words(value: Any) -> str:
    """A value's type in words, with an article; never the value."""
    if isinstance(value, float):
        return "not a finite number" if not math.isfinite(value) else "a number with a fraction"
    for python_type, name in _TYPE_NAMES:
        if isinstance(value, python_type):
            return name
    return "of a type of its own"  # an extension of msgpack


_TYPE_NAMES: tuple[tuple[Any, str], ...] = (
    (type(None), "null"),
    (bool, "true or false"),
    (int, "an integer"),
    (str, "text"),
    (bytes, "binary"),
    ((list, tuple), "an array"),
    (dict, "an object"),
)
