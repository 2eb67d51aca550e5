"""The input contract, version 1: what a click, a browse and a purchase are.

A record that violates it becomes a `BadRecord` with a stable reason code.
"""

from typing import Annotated, Any

import msgpack
import msgspec

from stream_app.contract.records import Record

MAX_VALUE_BYTES = 64 * 1024
MAX_ID_BYTES = 128
MAX_NAME_BYTES = 256  # of an item or a category
MIN_TS_MS = 10**11  # March 1973: smaller numbers are times in seconds
MAX_TS_MS = 253_402_300_799_999  # the year 9999
MAX_QUANTITY = 2**31 - 1
SESSION_GAP_MS = 1_800_000  # a pause of a user after which a new session starts
MAX_PRICE = 1e15  # 32-bit floats hold sums of it without overflow

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_BYTES)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_BYTES)]
Timestamp = Annotated[int, msgspec.Meta(ge=0, le=MAX_TS_MS)]


class Event(msgspec.Struct, gc=False, frozen=True):
    """One click, browse or purchase as a sender should write it into a record's value (JSON object or msgpack map).

    The topic says which of the three it is. Fields not named here are ignored. What else a reader takes for the same,
    such as a null for a field that is left out, is in `lenient`.
    """

    user_id: Id
    ts: Annotated[int, msgspec.Meta(ge=MIN_TS_MS, le=MAX_TS_MS)]  #: Unix ms, the event's own time
    event_id: Annotated[str, msgspec.Meta(max_length=MAX_ID_BYTES)] | None = None  #: dedupe key
    item_id: Name | int | None = None  #: required for clicks and purchases
    category_id: Annotated[str, msgspec.Meta(max_length=MAX_NAME_BYTES)] | None = None
    session_id: str | None = None
    order_id: str | None = None
    list_id: str | None = None
    query: str | None = None
    position: Annotated[int, msgspec.Meta(ge=0)] | None = None
    sent_at: Timestamp | None = None  #: Unix ms, the sender's clock when it sent
    price: Annotated[float, msgspec.Meta(ge=0)] | None = None  #: unit price
    currency: str | None = None  #: ISO 4217
    quantity: Annotated[int, msgspec.Meta(ge=1, le=MAX_QUANTITY)] = 1
    props: dict[str, str | int | float | bool] | None = None


class BadRecord(msgspec.Struct, frozen=True):
    """Why a record is not an event: a stable reason code, the field, and what was expected."""

    record: Record
    reason: str  #: one of `DEAD_LETTER_REASONS`
    field: str  #: a field of the contract, or "" for the whole value
    expected: str  #: what it should be, for people; never a quote from the record
    got: str = ""  #: what is wrong, as "ts is text"; never a quote from the record
    details: tuple[tuple[str, str], ...] = ()  #: further headers of its dead letter

    @property
    def message(self) -> str:
        """A sentence for people: what was found and what was expected, without a quote from the record."""
        if self.got.endswith(self.expected):  # the text already says what to send
            return self.got
        where = self.got + ", " if self.got else f"{self.field}: " if self.field else ""
        return f"{where}expected {self.expected}"

    @property
    def held_bytes(self) -> int:
        """Approximate memory of this object and its dead letter."""
        r = self.record
        headers = sum(256 + len(name) + len(text or b"") for name, text in r.headers)
        return 2048 + len(r.value or b"") + len(r.key or b"") + headers


DEAD_LETTER_REASONS = (
    "empty",  # no value at all
    "too_large",  # over 64 KiB
    "malformed",  # neither a JSON object nor a msgpack map
    "missing_field",
    "invalid_field",  # wrong type, or a value out of its range
    "future",  # later than the record's time by more than max_future
    "past",  # before 1973, as times in seconds are, or earlier than the record's time by more than max_past
    "key_mismatch",  # the record's key is not the user_id
    "unreadable",  # a batch in the broker's log that no consumer can read completely
)


def encode_json(event: Event) -> bytes:
    """The event as a JSON object without the fields that hold their default."""
    return msgspec.json.encode(_without_defaults(event))


def encode_msgpack(event: Event) -> bytes:
    """The event as a msgpack map without the fields that hold their default.

    The reference implementation writes it, and another one decodes it: so others can read what we send.
    """
    packed: bytes = msgpack.packb(_without_defaults(event))
    return packed


def _without_defaults(event: Event) -> dict[str, Any]:
    defaults = {f.name: f.default for f in msgspec.structs.fields(Event)}
    return {k: v for k, v in msgspec.structs.asdict(event).items() if v is not None and v != defaults[k]}
