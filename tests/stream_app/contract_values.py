"""Values of the input contract: a valid event, variations of it, and the decoder's answers to them."""

from typing import Any

from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import CLICK, Record
from tests.stream_app.strategies import T0, a_decoder

GOOD: dict[str, Any] = {"user_id": "u", "ts": T0, "item_id": "i"}


def record(value: bytes | None, offset: int = 0, *, key: bytes | None = b"u", timestamp: int = T0) -> Record:
    return Record("clicks", 0, offset, timestamp, key, value)


def reasons(*values: bytes | None, topic_index: int = CLICK, **changed: Any) -> list[tuple[str, str]]:
    _, bad = a_decoder().decode(
        topic_index, RecordColumns.of([record(v, i, **changed) for i, v in enumerate(values)])
    )
    return [(b.reason, b.field) for b in bad]


def without(field: str) -> dict[str, Any]:
    return {k: v for k, v in GOOD.items() if k != field}
