"""The AsyncAPI document is current and complete, and matches the decoder and the worker's outputs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from stream_app.contract.events import DEAD_LETTER_REASONS, BadRecord, Event, encode_json, encode_msgpack
from stream_app.contract.outputs import Flag, FlagReasonCode, Prediction
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import BROWSE, EVENT_TYPES, INPUT_TOPICS, OUTPUT_TOPICS, Record
from stream_app.decoding.dead_letter_texts import EXPECTED
from stream_app.decoding.decoder import Decoder
from stream_app.decoding.name_table import NameTable
from stream_app.lab.generated_docs import asyncapi
from stream_app.settings import Settings

PAGE = Path(__file__).parents[3] / "docs" / "asyncapi.json"
DOCUMENT: dict[str, Any] = asyncapi.document()
MESSAGES = DOCUMENT["components"]["messages"]
SCHEMAS = DOCUMENT["components"]["schemas"]
KINDS = range(len(EVENT_TYPES))


def decode(kind: int, value: bytes) -> list[BadRecord]:
    """Return the decoder's reasons to refuse a value in the topic of `kind`."""
    names = NameTable(lambda _: 0, 0)
    decoder = Decoder(names, names, max_future_ms=Settings().max_future_ms)
    ts = asyncapi.event_example(kind).ts
    events, bad = decoder.decode(
        kind, RecordColumns.of([Record(INPUT_TOPICS[kind], 0, 0, ts, b"u17", value)])
    )
    assert len(events) + len(bad) == 1
    return bad


def example(kind: int) -> dict[str, Any]:
    """Return the document's own example of an event."""
    payload: dict[str, Any] = MESSAGES[EVENT_TYPES[kind]]["examples"][0]["payload"]
    return payload


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects of the document."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from nodes(each)


def required(kind: int) -> set[str]:
    """Return the required fields of a topic's values in the document."""
    payload = MESSAGES[EVENT_TYPES[kind]]["payload"]
    extra = [name for part in payload.get("allOf", []) for name in part.get("required", [])]
    return {*SCHEMAS["Event"]["required"], *extra}


def test_the_page_is_up_to_date() -> None:
    """`docs/asyncapi.json` matches the types."""
    assert PAGE.read_text() == asyncapi.page(), (
        "run: python -m stream_app.lab.generated_docs.asyncapi > docs/asyncapi.json"
    )


def test_every_reference_leads_somewhere() -> None:
    """Each `$ref` leads to a part of the document."""
    found = [node["$ref"] for node in nodes(DOCUMENT) if "$ref" in node]
    assert len(found) > 12
    for reference in found:
        at: Any = DOCUMENT
        for key in reference.removeprefix("#/").split("/"):
            at = at[key]


def test_all_topics_and_their_direction() -> None:
    """The document has the six topics under their default names; inputs are read, outputs written."""
    assert list(DOCUMENT["channels"]) == [*INPUT_TOPICS, *OUTPUT_TOPICS]
    assert all(channel["address"] == name for name, channel in DOCUMENT["channels"].items())
    actions = {each["channel"]["$ref"]: each["action"] for each in DOCUMENT["operations"].values()}
    assert actions == {
        f"#/channels/{name}": "receive" if name in INPUT_TOPICS else "send" for name in DOCUMENT["channels"]
    }


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_events_decode(kind: int) -> None:
    """The example of each input is a valid event for the real decoder, as JSON and as msgpack."""
    event = msgspec.convert(example(kind), Event)
    assert event == asyncapi.event_example(kind)
    assert decode(kind, encode_json(event)) == []
    assert decode(kind, encode_msgpack(event)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_required_fields_are_those_of_the_decoder(kind: int) -> None:
    """Without a required field the example is a dead letter, without any other it is still an event."""
    for name in example(kind):
        rest = {key: value for key, value in example(kind).items() if key != name}
        reasons = [bad.reason for bad in decode(kind, msgspec.json.encode(rest))]
        assert reasons == (["missing_field"] if name in required(kind) else []), name
    assert ("item_id" in required(kind)) == (kind != BROWSE)


def test_limits_are_those_of_the_decoder() -> None:
    """For each limit in the schema, the value at the limit is accepted and the one beyond is refused."""
    checked = 0
    for name, schema in SCHEMAS["Event"]["properties"].items():
        if name in ("user_id", "ts"):  # also depend on the key and on the broker's time
            continue
        if name not in EXPECTED or name == "sent_at":  # the decoder does not read it
            continue
        for form in schema.get("anyOf", [schema]):
            for limit, step in (("minimum", -1), ("maximum", 1)):
                if limit not in form:
                    continue
                at = form[limit]
                beyond = at * 1.01 if at and form["type"] == "number" else at + step
                good = {**example(0), name: at}
                assert decode(0, msgspec.json.encode(good)) == [], (name, at)
                (bad,) = decode(0, msgspec.json.encode({**good, name: beyond}))
                assert (bad.reason, bad.field) == ("invalid_field", name)
                checked += 1
            for limit, step in (("minLength", -1), ("maxLength", 1)):
                if limit not in form:
                    continue
                good = {**example(0), name: "x" * form[limit]}
                assert decode(0, msgspec.json.encode(good)) == [], name
                (bad,) = decode(0, msgspec.json.encode({**good, name: "x" * (form[limit] + step)}))
                assert (bad.reason, bad.field) == ("invalid_field", name)
                checked += 1
    assert checked >= 8


def test_examples_of_outputs_are_outputs() -> None:
    """The examples have exactly the fields of the types that the worker encodes."""
    for name, kind in (("prediction", Prediction), ("flag", Flag)):
        (shown,) = MESSAGES[name]["examples"]
        decoded = msgspec.json.decode(json.dumps(shown["payload"]), type=kind)
        assert msgspec.to_builtins(decoded) == shown["payload"]


def test_the_dead_letter_shows_what_the_code_writes() -> None:
    """The example's headers come from a refused record, and the schema names all of them."""
    message = MESSAGES["dead-letter"]
    (shown,) = message["examples"]
    (bad,) = decode(0, json.dumps(shown["payload"]).encode())
    assert shown["headers"]["foreclick.reason"] == bad.reason
    properties = message["headers"]["properties"]
    assert list(shown["headers"]) == message["headers"]["required"]
    assert set(properties) == {*shown["headers"], *asyncapi.texts.MORE_HEADERS}


def test_what_the_decoder_takes_beside_text_stands_in_the_schema() -> None:
    """Decoder and schema agree which fields may be null, or an integer in place of text."""
    for name, schema in SCHEMAS["Event"]["properties"].items():
        types = {form.get("type") for form in schema.get("anyOf", [schema])}
        assert ("null" in types) == (name not in ("user_id", "ts")), name
        if name == "user_id":
            continue  # the key is also the user
        for value, kind in ((None, "null"), (5, "integer")):
            good = name != "ts" and (
                kind != "null" or name != "item_id"
            )  # 5 looks like seconds; a click has an item
            if kind in types and good:
                assert decode(0, msgspec.json.encode({**example(0), name: value})) == [], (name, value)


def test_every_reason_code_is_listed_with_its_meaning() -> None:
    """The document lists the reasons of dead letters and flags, each with a line about it."""
    reason = MESSAGES["dead-letter"]["headers"]["properties"]["foreclick.reason"]
    assert reason["enum"] == list(DEAD_LETTER_REASONS)
    code = SCHEMAS["FlagReason"]["properties"]["code"]
    assert set(code["enum"]) == set(get_args(FlagReasonCode))
    for text, codes in (
        (reason["description"], DEAD_LETTER_REASONS),
        (code["description"], get_args(FlagReasonCode)),
    ):
        assert all(f"\n- `{each}`: " in text for each in codes)


def test_every_field_is_described() -> None:
    """Each property of an input or an output has a description."""
    properties = {
        f"{name}.{field}": form
        for name, schema in SCHEMAS.items()
        for field, form in schema["properties"].items()
    }
    assert [name for name, form in properties.items() if not form["description"]] == []
    assert "Event.user_id" in properties
    assert "FlagReason.expected" in properties
