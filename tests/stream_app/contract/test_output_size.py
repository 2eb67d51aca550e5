"""Outputs are shortened to the size that their topic accepts, and are marked."""

import hashlib
import json
from typing import Any

import msgpack
import msgspec
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.contract.events import BadRecord
from stream_app.contract.outputs import Prediction, dead_letter
from stream_app.contract.records import Record
from stream_app.kafka.record_batches.truncation import at_most, batch_bytes, cut_dead_letter, cut_prediction

Headers = list[tuple[str, bytes]]
some_headers = st.lists(st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=40)), max_size=4)


def built(key: bytes | None, value: bytes | None, headers: Any) -> int:
    """Return the size of the batch that aiokafka makes of one record."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1)
    assert builder.append(0, 0, key, value, headers)
    return len(builder.build())


@given(st.none() | st.binary(max_size=200), st.none() | st.binary(max_size=20_000), some_headers)
@settings(deadline=None)
def test_sizes_are_those_of_another_builder(key: bytes | None, value: bytes | None, headers: Any) -> None:
    """The computed size of a batch of one record is that of aiokafka."""
    assert batch_bytes((key, value, headers)) == built(key, value, headers) <= at_most((key, value, headers))


def letter(key: bytes | None, value: bytes | None, headers: Any = ()) -> Any:
    return dead_letter(
        BadRecord(Record("clicks", 1, 5, 0, key, value, tuple(headers)), "too_large", "", "less")
    )


@given(
    st.none() | st.integers(0, 3000).map(lambda n: b"k" * n),
    st.none() | st.integers(0, 9000).map(bytes),
    st.lists(st.tuples(st.text(max_size=9), st.none() | st.integers(0, 3000).map(bytes)), max_size=3),
    st.integers(1500, 8000),
)
@settings(deadline=None)
def test_a_dead_letter_always_fits(key: bytes | None, value: bytes | None, headers: Any, most: int) -> None:
    """Whatever part is long, the dead letter fits; a shortened part is a beginning, with its length and hash."""
    whole = letter(key, value, headers)
    cut = cut_dead_letter(whole, most)
    assert built(*cut) <= most
    if built(*whole) <= most:
        assert cut == whole
    told = dict(cut[2])
    for part, before, after in (("key", key, cut[0]), ("value", value, cut[1])):
        if before is None or after is None or before == after:
            assert before == after
            assert f"foreclick.{part}.length" not in told or before is not None
            continue
        assert before.startswith(after)
        assert told[f"foreclick.{part}.length"] == str(len(before)).encode()
        assert told[f"foreclick.{part}.sha256"] == hashlib.sha256(before).hexdigest().encode()
    assert told["foreclick.reason"] == b"too_large"
    kept = [h for h in cut[2] if not h[0].startswith(("foreclick.", "__streams."))]
    if len(kept) < len(headers):
        assert kept == []
        assert told["foreclick.headers.dropped"] == str(len(headers)).encode()


def test_as_much_of_a_value_is_kept_as_fits() -> None:
    """At most a few bytes of the allowed size are unused."""
    cut = cut_dead_letter(letter(b"u", bytes(3_000_000)), 1_048_588)
    assert 1_048_588 - 16 < built(*cut) <= 1_048_588


def test_what_is_cut_again_still_tells_of_the_whole() -> None:
    """If the broker accepts less than it advertised, length and hash are still those of the original."""
    value = bytes(range(256)) * 400
    twice = cut_dead_letter(cut_dead_letter(letter(b"u", value), 50_000), 10_000)
    assert built(*twice) <= 10_000
    names = [name for name, _ in twice[2]]
    assert names.count("foreclick.value.length") == names.count("foreclick.value.sha256") == 1
    assert dict(twice[2])["foreclick.value.length"] == b"102400"
    assert dict(twice[2])["foreclick.value.sha256"] == hashlib.sha256(value).hexdigest().encode()


def test_headers_of_ours_stand_before_a_producers() -> None:
    """The first header of a name is ours; the producer's headers are kept under another name."""
    theirs = [("foreclick.reason", b"empty"), ("__streams.errors.topic", b"x"), ("trace", b"1"), ("n", None)]
    key, value, headers = letter(b"u", b"{", theirs)
    assert next(v for name, v in headers if name == "foreclick.reason") == b"too_large"
    assert [h for h in headers if h[0] == "foreclick.reason"] == [("foreclick.reason", b"too_large")]
    assert headers[-4:] == [
        ("source.foreclick.reason", b"empty"), ("source.__streams.errors.topic", b"x"), ("trace", b"1"), ("n", None),
    ]  # fmt: skip
    assert (key, value) == (b"u", b"{")


@pytest.mark.parametrize("is_json", [True, False])
@pytest.mark.parametrize("most", [1000, 5000, 20_000, 400_000])
def test_a_prediction_keeps_the_items_that_fit(is_json: bool, most: int) -> None:
    """As many of the best items as fit stay in their order, and the prediction is marked as truncated."""
    encode: Any = msgspec.json.encode if is_json else msgpack.packb
    items = [{"item_id": f"{i}{'ü' * (i % 128)}", "score": 1 / (i + 1)} for i in range(900)]
    said = {"id": "clicks-0-1", "user_id": "u", "ts": 1, "event_id": None, "model": "m@1", "items": items,
            "next_event": {"click": 1.0, "browse": 0.0, "purchase": 0.0}, "purchase_probability": 0.5,
            "horizon_ms": 1000}  # fmt: skip
    message = (b"u", encode(said), [])
    cut = cut_prediction(message, most)
    assert built(*cut) <= most
    if built(*message) <= most:
        assert cut == message
        return
    decode: Any = json.loads if is_json else msgpack.unpackb
    got = decode(cut[1])
    assert got.pop("truncated") is True
    kept = got["items"]
    assert got == {**said, "items": items[: len(kept)]}
    assert built(*cut) > most - len(encode(items[len(kept)])) - 32, "more items would fit"
    assert msgspec.convert({**got, "truncated": True}, Prediction).truncated
