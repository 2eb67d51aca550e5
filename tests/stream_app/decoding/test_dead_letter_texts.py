"""The texts of dead letters: field, got and expected, and nothing that a user sent."""

import gzip
from typing import Any

import msgspec
import pytest

from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import CLICK
from tests.stream_app.contract_values import GOOD, record, without
from tests.stream_app.strategies import T0, a_decoder

NOT_SAID = "ada@example.org"  # personal data


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (GOOD | {"ts": NOT_SAID}, "ts is text, expected Unix milliseconds as an integer"),
        (GOOD | {"ts": 1767225660}, "ts looks like seconds: give milliseconds"),
        (GOOD | {"ts": 1767225660.5}, "ts looks like seconds: give milliseconds"),
        (GOOD | {"ts": T0 * 1000}, "ts looks like microseconds: give milliseconds"),
        (GOOD | {"ts": T0 * 10**6}, "ts looks like nanoseconds: give milliseconds"),
        (GOOD | {"ts": T0 + 0.5}, "ts is a number with a fraction, expected Unix milliseconds as an integer"),
        (GOOD | {"ts": None}, "ts is null, expected Unix milliseconds as an integer"),
        (without("ts"), "ts is missing, expected Unix milliseconds as an integer"),
        (without("user_id"), "user_id is missing, expected text or an integer, 1 to 128 bytes"),
        (without("item_id"), "item_id is missing, expected the item of a click or a purchase"),
        (GOOD | {"item_id": [NOT_SAID]}, "item_id is an array, expected text or an integer, 1 to 256 bytes"),
        (GOOD | {"item_id": NOT_SAID * 20}, "item_id has 300 bytes, expected text or an integer, 1 to 256 bytes"),
        (GOOD | {"price": NOT_SAID}, "price is text, expected a number from 0 to 1e+15"),
        (GOOD | {"price": -5}, "price is negative, expected a number from 0 to 1e+15"),
        (GOOD | {"quantity": 1.5}, "quantity is a number with a fraction, expected an integer from 1 to 2147483647"),
        (GOOD | {"user_id": NOT_SAID}, "the record's key is not the user_id, expected the user_id in UTF-8"),
        (b"\0\0\0\0\7" + msgspec.json.encode(GOOD),
         "the value begins with the 5 bytes of a schema registry, before JSON, expected a JSON object or a msgpack "
         "map"),
        (b"\0\0\0\0\7\x02u\x04ada",
         "the value begins with the 5 bytes of a schema registry, before Avro or Protobuf, expected a JSON object or "
         "a msgpack map"),
        (gzip.compress(msgspec.json.encode(GOOD), mtime=0),
         "the value is compressed with gzip, expected a JSON object or a msgpack map"),
        (msgspec.json.encode(GOOD).decode().encode("utf-16"),
         "the value is text in UTF-16, expected a JSON object or a msgpack map"),
        (msgspec.json.encode(GOOD).decode().encode("utf-16-be"),
         "the value is text in UTF-16, expected a JSON object or a msgpack map"),
        (msgspec.json.encode(GOOD).decode().encode("utf-16-le"),
         "the value is text in UTF-16, expected a JSON object or a msgpack map"),
        (b"\xef\xbb\xbf" + msgspec.json.encode(GOOD),
         "the value begins with a UTF-8 byte order mark, expected a JSON object or a msgpack map"),
        (b'{"user_id":"ada","ts":NaN}',
         "the value holds NaN or Infinity, which JSON does not have, expected a JSON object or a msgpack map"),
        (b'{"user_id":"ada","ts":1767225660000,"price":-Infinity}',
         "the value holds NaN or Infinity, which JSON does not have, expected a JSON object or a msgpack map"),
        (msgspec.json.encode(msgspec.json.encode(GOOD).decode()),
         "the value is JSON inside a JSON string, encoded twice, expected a JSON object or a msgpack map"),
        (b'"ada"', "the value is text, expected a JSON object or a msgpack map"),
        (b'[{"user_id":"ada"}]', "the value is an array, expected a JSON object or a msgpack map"),
        (b"7", "the value is an integer, expected a JSON object or a msgpack map"),
        (b"null", "the value is null, expected a JSON object or a msgpack map"),
        (None, "the record has no value, expected a JSON object or a msgpack map"),
        (b"", "the value is empty, expected a JSON object or a msgpack map"),
    ],
)  # fmt: skip
def test_a_dead_letter_says_what_is_wrong(value: Any, message: str) -> None:
    """The text has field, got and expected in one sentence, and nothing that a user sent."""
    body = msgspec.json.encode(value) if isinstance(value, dict) else value
    _, (bad,) = a_decoder().decode(CLICK, RecordColumns.of([record(body)]))
    assert bad.message == message
    assert "ada" not in bad.message


@pytest.mark.parametrize(
    ("key", "got"),
    [
        (None, "the record has no key, expected the user_id"),
        (b'"17"', "the record's key is the user_id in quotes, expected the user_id in UTF-8"),
        (b"\0\0\0\x11", "the record's key is the user_id as a binary integer, expected the user_id in UTF-8"),
        (b"\0\0\0\0\x0517",
         "the record's key begins with the 5 bytes of a schema registry, expected the user_id in UTF-8"),
        (b"18", "the record's key is not the user_id, expected the user_id in UTF-8"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_told_apart(key: bytes | None, got: str) -> None:
    """A missing key, and the usual wrong ways to write one, each have their own text."""
    value = msgspec.json.encode(GOOD | {"user_id": 17})
    _, (bad,) = a_decoder().decode(CLICK, RecordColumns.of([record(value, key=key)]))
    assert (bad.reason, bad.message) == ("key_mismatch", got)
