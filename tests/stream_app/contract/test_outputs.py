"""The output contract: predictions, flags and dead letters as they are in their topics."""

import json
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.serving.runtime import StepResult
from stream_app.contract.events import DEAD_LETTER_REASONS, BadRecord
from stream_app.contract.outputs import (
    Flag,
    FlagReason,
    ItemScore,
    NextEvent,
    Prediction,
    dead_letter,
    encoder,
    output_id,
)
from stream_app.contract.records import Record
from stream_app.processing.prediction_encoder import PredictionEncoder
from stream_app.processing.prediction_encoder import predictions as as_objects
from stream_app.state.row_layout import FLAG_REASONS
from tests.stream_app.strategies import columns_of, happenings

share = st.floats(0, 1)
text = st.text(max_size=20)
predictions = st.builds(
    Prediction,
    id=text,
    user_id=text,
    ts=st.integers(0, 2**53),
    event_id=st.none() | text,
    model=text,
    next_event=st.none() | st.lists(share, min_size=3, max_size=3).map(lambda p: NextEvent(*p)),
    purchase_probability=st.none() | share,
    items=st.lists(st.builds(ItemScore, item_id=text, score=share), max_size=3),
)
flags = st.builds(
    Flag,
    id=text,
    user_id=text,
    ts=st.integers(0, 2**53),
    event_id=st.none() | text,
    model=text,
    kind=st.sampled_from(["anomaly", "fraud"]),
    score=share,
    reasons=st.lists(st.builds(FlagReason, code=st.sampled_from(FLAG_REASONS), value=share, expected=share)),
)


@given(predictions | flags)
@settings(deadline=None)
def test_both_formats_are_read_back(output: Prediction | Flag) -> None:
    """JSON and msgpack contain the same output, and both give it back."""
    assert msgspec.json.decode(encoder("json")(output), type=type(output)) == output
    assert msgspec.msgpack.decode(encoder("msgpack")(output), type=type(output)) == output


def test_a_prediction_has_the_fields_of_the_contract() -> None:
    """Names and nesting of the published JSON, null for absent values."""
    said = Prediction(
        "clicks-3-17", "u", 5, None, "shop@1", NextEvent(0.5, 0.25, 0.25), 0.125, [ItemScore("i", 1.0)]
    )
    assert json.loads(encoder("json")(said)) == {
        "id": "clicks-3-17",
        "user_id": "u",
        "ts": 5,
        "event_id": None,
        "model": "shop@1",
        "next_event": {"click": 0.5, "browse": 0.25, "purchase": 0.25},
        "purchase_probability": 0.125,
        "items": [{"item_id": "i", "score": 1.0}],
    }


def test_a_flag_has_the_fields_of_the_contract() -> None:
    """Names and nesting of the published JSON."""
    said = Flag("clicks-3-17", "u", 5, "e", "none", "fraud", 0.75, [FlagReason("amount_jump", 80.0, 10.0)])
    assert json.loads(encoder("json")(said)) == {
        "id": "clicks-3-17",
        "user_id": "u",
        "ts": 5,
        "event_id": "e",
        "model": "none",
        "kind": "fraud",
        "score": 0.75,
        "reasons": [{"code": "amount_jump", "value": 80.0, "expected": 10.0}],
    }


def test_every_reason_code_of_the_state_is_one_of_the_contract() -> None:
    """The columns of `flagged` have the names of the codes of a flag."""
    for code in FLAG_REASONS:
        msgspec.convert({"code": code, "value": 1.0, "expected": 1.0}, FlagReason)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"code": "other", "value": 1.0, "expected": 1.0}, FlagReason)


def test_an_id_names_the_source_record() -> None:
    """`<topic>-<partition>-<offset>` with the prefix of the topics."""
    assert output_id("shop-", 2, 3) + "17" == "shop-purchases-3-17"


@given(
    st.none() | st.binary(),
    st.none() | st.binary(),
    st.lists(st.tuples(text, st.none() | st.binary())),
    st.sampled_from(DEAD_LETTER_REASONS),
    st.text(),
)
@settings(deadline=None)
def test_a_dead_letter_leaves_the_record_untouched(
    key: bytes | None, value: bytes | None, headers: list, reason: str, expected: str
) -> None:
    """Source position and error have the names of KIP-1034; key, value and headers follow unchanged."""
    record = Record("clicks", 3, 17, 0, key, value, tuple(headers))
    out_key, out_value, out_headers = dead_letter(BadRecord(record, reason, "ts", expected, "ts is text"))
    assert (out_key, out_value, out_headers[6:]) == (key, value, headers)
    message = "ts is text" if "ts is text".endswith(expected) else f"ts is text, expected {expected}"
    assert dict(out_headers[:6]) == {
        "__streams.errors.topic": b"clicks",
        "__streams.errors.partition": b"3",
        "__streams.errors.offset": b"17",
        "__streams.errors.exception": f"foreclick.{reason}".encode(),
        "__streams.errors.message": message.encode("utf-8", "replace"),
        "foreclick.reason": reason.encode(),
    }


names = st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=6, unique=True)


@given(happenings(max_size=8), names, st.integers(1, 4), st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None)
def test_json_by_hand_is_what_the_general_encoder_writes(
    stream: list[Any], items: list[str], k: int, seed: int, silent: bool
) -> None:
    """For any names and numbers, fewer items than k and without a model, both formats give the same prediction."""
    events, random = columns_of(stream), np.random.default_rng(seed)
    n = len(events)
    share = random.choice([0.0, 1.0, 0.5, 1e-7, 0.999999, 1 / 3], (n, 4)).astype(np.float32)
    result = StepResult(
        next_event=share[:, :3],
        purchase=share[:, 3],
        items=random.integers(-1, len(items), (n, k)).astype(np.int32),
        scores=random.random((n, k), np.float32),
        p_value=share[:, 0],
        surprise=share[:, 0],
        type_probability=share[:, 0],
        raw_purchase=share[:, 3],
    )
    runtime: Any = None if silent else SimpleNamespace(label='shop "ü"@1', item_ids=items, horizon_ms=60_000)
    said = None if silent else result
    encoders = [PredictionEncoder(runtime, form, "shop-") for form in ("json", "msgpack")]
    ids = encoders[0].ids(events)
    wanted = as_objects(encoders[0].label, runtime, ids, events, said)
    everyone = np.arange(n)
    by_hand, packed = (
        [value for _, value in each.encode(events, said, everyone).each()] for each in encoders
    )
    assert [msgspec.msgpack.decode(body, type=Prediction) for body in packed] == wanted
    for body, prediction in zip(by_hand, wanted, strict=True):
        got, expected = msgspec.json.decode(body), msgspec.to_builtins(prediction)
        assert msgspec.convert(got, Prediction).id == prediction.id
        numbers = [numbers_of(x) for x in (got, expected)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1.1e-5)  # a half is rounded up here, to even there
        assert got == expected


def numbers_of(prediction: dict[str, Any]) -> list[float]:
    """Remove the probabilities from a prediction."""
    heads = prediction.pop("next_event") or {}
    return [
        *heads.values(),
        prediction.pop("purchase_probability") or 0.0,
        *(item.pop("score") for item in prediction["items"]),
    ]
