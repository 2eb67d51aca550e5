"""The wire contract as an AsyncAPI 3.0 document, written from the types in the code.

`python -m stream_app.lab.generated_docs.asyncapi > docs/asyncapi.json` writes it; a test fails when it is out of
date. It is JSON, which every AsyncAPI tool reads. Specification: https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from stream_app.contract.events import (
    DEAD_LETTER_REASONS,
    MAX_ID_BYTES,
    MAX_PRICE,
    MAX_VALUE_BYTES,
    Event,
    encode_json,
)
from stream_app.contract.outputs import Flag, FlagReason, ItemScore, NextEvent, Prediction, dead_letter
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import BROWSE, EVENT_TYPES, INPUT_TOPICS, OUTPUT_TOPICS, Record
from stream_app.contract.topics import SHOP
from stream_app.decoding.decoder import Decoder
from stream_app.decoding.name_table import NameTable
from stream_app.kafka.topics import topic_specs
from stream_app.lab.generated_docs import asyncapi_texts as texts
from stream_app.settings import Settings

#: Version of the wire contract, not of the program.
CONTRACT_VERSION = "1.1.0"
_SCHEMAS = "#/components/schemas/{name}"
_TYPES = (Event, Prediction, NextEvent, ItemScore, Flag, FlagReason)
_TS = 1_767_225_660_000

Json = dict[str, Any]


def document() -> Json:
    """The AsyncAPI document as plain data; it names the topics as the defaults of the settings do."""
    settings = Settings()
    topics = SHOP.of(settings)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Foreclick",
            "version": CONTRACT_VERSION,
            "description": texts.CONTRACT,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {"host": settings.bootstrap, "protocol": "kafka", "description": texts.SERVER},
        },
        "channels": {
            name: _channel(topic, message, settings)
            for name, topic, message in zip(
                (*INPUT_TOPICS, *OUTPUT_TOPICS),
                (*topics.inputs, *topics.outputs.values()),
                (*EVENT_TYPES, "prediction", "flag", "dead-letter"),
                strict=True,
            )
        },
        "operations": {
            **{f"read-{name}": _operation("receive", name) for name in INPUT_TOPICS},
            **{f"write-{name}": _operation("send", name) for name in OUTPUT_TOPICS},
        },
        "components": {"messages": _messages(), "schemas": _schemas()},
    }


def page() -> str:
    """The document as text."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def event_example(topic_index: int) -> Event:
    """An event of the topic with this index that shows the usual fields."""
    if topic_index == BROWSE:
        return Event(user_id="u17", ts=_TS, event_id="b-902", category_id="c5", session_id="s-31")
    fields: dict[str, Any] = {"item_id": "i204", "category_id": "c5", "session_id": "s-31", "price": 19.9}
    if EVENT_TYPES[topic_index] == "purchase":
        fields |= {"order_id": "o-77", "quantity": 2, "currency": "EUR"}
    else:
        fields |= {"list_id": "search", "position": 3, "props": {"device": "mobile"}}
    return Event(user_id="u17", ts=_TS, event_id=f"{EVENT_TYPES[topic_index][0]}-901", **fields)


def prediction_example() -> Prediction:
    """A prediction with the items cut to two."""
    items = [ItemScore("i311", 0.21406), ItemScore("i88", 0.09853)]
    types = NextEvent(0.82113, 0.14371, 0.03516)
    return Prediction(
        "clicks-2-1041", "u17", _TS, "c-901", "gru@1f2e3d4c", types, 0.04127, items, horizon_ms=1_800_000
    )


def flag_example() -> Flag:
    """A flag with one reason."""
    reasons = [FlagReason("click_rate", 61, 60, 60)]
    return Flag("clicks-2-1099", "u17", _TS, None, "gru@1f2e3d4c", "anomaly", 0.99871, reasons)


def dead_letter_example() -> tuple[Json, Json]:
    """Headers and value of a dead letter, as the decoder makes it of a click without an item."""
    value = {"user_id": "u17", "ts": _TS}
    nothing = NameTable(lambda _: 0, 0)
    decoder = Decoder(nothing, nothing, max_future_ms=Settings().max_future_ms)
    record = Record(INPUT_TOPICS[0], 2, 1040, _TS, b"u17", msgspec.json.encode(value))
    _, bad = decoder.decode(0, RecordColumns.of([record]))
    _, _, headers = dead_letter(bad[0])
    return {name: text.decode() for name, text in headers}, value


def _channel(topic: str, message: str, settings: Settings) -> Json:
    configs = {spec.name: spec.configs for spec in topic_specs(SHOP.of(settings))}[topic]
    return {
        "address": topic,
        "description": texts.CHANNELS[message],
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "bindings": {
            "kafka": {
                "partitions": settings.partitions,
                "replicas": settings.replication,
                "topicConfiguration": {"cleanup.policy": [configs["cleanup.policy"]]},
                "bindingVersion": "0.5.0",
            }
        },
    }


def _operation(action: str, channel: str) -> Json:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}}


def _messages() -> Json:
    headers, body = dead_letter_example()
    inputs = {
        name: {
            **_message(name, _payload(topic_index), json.loads(encode_json(event_example(topic_index)))),
            "headers": {"type": "object", "description": texts.INPUT_HEADERS},
        }
        for topic_index, name in enumerate(EVENT_TYPES)
    }
    return {
        **inputs,
        "prediction": _message(
            "prediction", _reference(Prediction), msgspec.to_builtins(prediction_example())
        ),
        "flag": _message("flag", _reference(Flag), msgspec.to_builtins(flag_example())),
        "dead-letter": {
            **_message("dead-letter", {"description": texts.DEAD_LETTER_VALUE}, body),
            "contentType": "application/octet-stream",
            "headers": _dead_letter_headers(headers),
            "examples": [{"name": "a click without an item", "headers": headers, "payload": body}],
        },
    }


def _message(name: str, payload: Json, example: Json) -> Json:
    key = texts.DEAD_LETTER_KEY if name == "dead-letter" else texts.KEY
    limits = {} if name == "dead-letter" else {"minLength": 1, "maxLength": MAX_ID_BYTES}
    return {
        "name": name,
        "payload": payload,
        "bindings": {
            "kafka": {"key": {"type": "string", "description": key, **limits}, "bindingVersion": "0.5.0"}
        },
        "examples": [{"name": f"a {name}", "payload": example}],
    }


def _reference(struct: type[msgspec.Struct]) -> Json:
    return {"$ref": _SCHEMAS.format(name=struct.__name__)}


def _payload(topic_index: int) -> Json:
    """The schema of a topic's values: an event, with an item if the topic requires one."""
    if topic_index == BROWSE:
        return _reference(Event)
    item = {"item_id": {"type": ["string", "integer"]}}
    return {"allOf": [_reference(Event), {"required": ["item_id"], "properties": item}]}


def _schemas() -> Json:
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template=_SCHEMAS)
    found: Json = {struct.__name__: dict(schemas[struct.__name__]) for struct in _TYPES}
    for name, schema in found.items():
        described = texts.FIELDS[name]
        schema["properties"] = {
            field: {**form, "description": described[field]} for field, form in schema["properties"].items()
        }
    found["Event"]["description"] = f"{texts.EVENT} At most {MAX_VALUE_BYTES} bytes."
    _take_what_the_decoder_takes(found["Event"]["properties"])
    found["FlagReason"]["properties"]["code"]["description"] += _listed(texts.FLAG_REASONS)
    return found


#: Fields of the event that may be integers, which stand for their decimal strings.
_IDS = ("user_id", "event_id", "item_id", "category_id", "session_id", "order_id", "list_id")


def _take_what_the_decoder_takes(properties: Json) -> None:
    """Add what `lenient` accepts besides the forms of the types, as far as a schema can express it."""
    for option in properties["price"]["anyOf"]:
        if option["type"] == "number":
            option["maximum"] = MAX_PRICE
    for name, form in properties.items():
        options = form.pop("anyOf", None) or [{k: form.pop(k) for k in list(form) if k != "description"}]
        default = {"default": options[0].pop("default")} if "default" in options[0] else {}
        known = [option.get("type") for option in options]
        if name in _IDS and "integer" not in known:
            options.append({"type": "integer"})
        if name not in ("user_id", "ts") and "null" not in known:
            options.append({"type": "null"})
        properties[name] = {**form, **default, **({"anyOf": options} if len(options) > 1 else options[0])}


def _dead_letter_headers(names: Mapping[str, str]) -> Json:
    properties: Json = {name: {"type": "string", "description": texts.HEADERS[name]} for name in names}
    reason = properties["foreclick.reason"]
    reason["enum"] = list(DEAD_LETTER_REASONS)
    reason["description"] += _listed({code: texts.DEAD_LETTER_REASONS[code] for code in DEAD_LETTER_REASONS})
    properties |= {name: {"type": "string", "description": text} for name, text in texts.MORE_HEADERS.items()}
    return {
        "type": "object",
        "description": texts.DEAD_LETTER_HEADERS,
        "properties": properties,
        "required": list(names),
    }


def _listed(meanings: Mapping[str, str]) -> str:
    return "".join(f"\n- `{code}`: {meaning}" for code, meaning in meanings.items())


if __name__ == "__main__":
    sys.stdout.write(page())
