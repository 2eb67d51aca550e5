"""The output contract, version 1: predictions, flags and dead letters, and how one of them is encoded."""

from collections.abc import Callable
from typing import Any, Literal

import msgpack
import msgspec

from stream_app.contract.events import BadRecord
from stream_app.contract.received import RECEIVED_HEADER
from stream_app.contract.records import EVENT_TYPES, INPUT_TOPICS

FlagReasonCode = Literal["unlikely_event", "click_rate", "many_items", "purchase_rate", "amount_jump"]
FlagType = Literal["anomaly", "fraud"]
#: Key, value and headers. aiokafka accepts headers only as a list.
Message = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]
NO_HEADERS: list[tuple[str, bytes]] = []  # shared by all messages without headers, and never changed


class NextEvent(msgspec.Struct, frozen=True, gc=False):
    """Probabilities of the type of the user's next event; they add up to 1."""

    click: float
    browse: float
    purchase: float


# Predictions, their JSON kernel and the model's heads have one place for each event type, in this order.
assert NextEvent.__struct_fields__ == EVENT_TYPES, "NextEvent does not have a field for each event type"


class ItemScore(msgspec.Struct, frozen=True, gc=False):
    """An item the user may turn to next; a higher score is more likely."""

    item_id: str
    score: float


class Prediction(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the user of one event is likely to do next."""

    id: str  #: `<topic>-<partition>-<offset>` of the source record: the same when it is published again
    user_id: str
    ts: int  #: Unix ms, of the source event
    event_id: str | None
    model: str  #: `name@version`, "none" without a model
    next_event: NextEvent | None
    purchase_probability: float | None  #: chance of a purchase within the horizon
    items: list[ItemScore]  #: best first
    degraded: bool = False  #: the model was in trouble and gave no answer; left out where it did
    truncated: bool = False  #: items were left out, since the topic takes no larger record
    horizon_ms: int | None = None  #: of `purchase_probability`; left out where there is none


class FlagReason(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Why an event was flagged: a stable code, what was seen, what is usual, and the limit that it broke."""

    code: FlagReasonCode
    value: float
    expected: float  #: the usual value where the rule knows one, else the limit
    limit: float | None = (
        None  #: what `value` may be and this event's is beyond; None in flags of older versions
    )


class Flag(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Something is wrong with an event."""

    id: str  #: as of the prediction for the same event; an event has at most one flag
    user_id: str
    ts: int  #: Unix ms
    event_id: str | None
    model: str
    kind: FlagType
    score: float  #: 0 to 1: one minus the share of ordinary events that look at least as odd
    reasons: list[FlagReason]
    degraded: bool = False  #: found by rules alone, since the model was in trouble


# Headers of a dead letter, named as Kafka Streams names them (KIP-1034).
_TOPIC = "__streams.errors.topic"
_PARTITION = "__streams.errors.partition"
_OFFSET = "__streams.errors.offset"
_EXCEPTION = "__streams.errors.exception"
_MESSAGE = "__streams.errors.message"
REASON_HEADER = "foreclick.reason"
#: Prefixes of the header names that we give to a dead letter.
OUR_HEADERS = ("__streams.errors.", "foreclick.")
#: Prefix for a producer's header that has such a name.
RENAMED = "source."


def dead_letter(bad: BadRecord) -> Message:
    """The record's unchanged key and value, headers that say where it was and what is wrong, then its own headers.

    A producer's header with one of our names gets the prefix `RENAMED`, so that nobody takes it for ours. The header
    that says when the record was first stored keeps its name, since it stays valid wherever the record is sent.
    """
    r = bad.record
    ours = (
        (_TOPIC, r.topic),
        (_PARTITION, str(r.partition)),
        (_OFFSET, str(r.offset)),
        (_EXCEPTION, f"foreclick.{bad.reason}"),
        (_MESSAGE, bad.message),
        (REASON_HEADER, bad.reason),
        *bad.details,
    )
    theirs = (
        (RENAMED + name if name.startswith(OUR_HEADERS) and name != RECEIVED_HEADER else name, text)
        for name, text in r.headers
    )
    return r.key, r.value, [*((name, text.encode("utf-8", "replace")) for name, text in ours), *theirs]


def output_id(prefix: str, topic_index: int, partition: int) -> str:
    """The part of an id before the offset."""
    return f"{prefix}{INPUT_TOPICS[topic_index]}-{partition}-"


def encoder(output_format: str) -> Callable[[Any], bytes]:
    """Encodes as JSON or msgpack; the reference implementation writes msgpack, as a map with the same keys."""
    if output_format == "json":
        return msgspec.json.Encoder().encode
    pack = msgpack.Packer().pack
    return lambda output: pack(msgspec.to_builtins(output))
