"""Events out of the values of a shop's own topic, as its shop file maps them: the general way, in plain Python."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from stream_app.contract.events import MAX_ID_BYTES, Event
from stream_app.contract.mapping import (
    MAPPED_FIELDS,
    NUMBERS,
    EventTypes,
    TopicMapping,
    likely_format,
    number_in,
    unix_ms,
)
from stream_app.contract.paths import Path, follow
from stream_app.contract.records import BROWSE, EVENT_TYPES
from stream_app.decoding.dead_letter_texts import EXPECTED, type_words
from stream_app.decoding.lenient import EXACT, NO_ITEM, LenientFields, LooseFields, RecordProblem, fields_of

#: Fields of text that events only carry; a number there counts as its text, anything else as absent.
_CARRIED = ("session_id", "order_id", "list_id", "query", "currency")
_CHECKED = [name for name in MAPPED_FIELDS if name not in _CARRIED]


class MappedEvent(NamedTuple):
    """One event of a record."""

    line: int  #: which event of the record it is, from 0
    event_type: str
    event: Event


class Invalid(NamedTuple):
    """A record, or one line of it, that is not an event."""

    line: int
    problem: RecordProblem


class Skipped(NamedTuple):
    """A record, or one line of it, whose type the shop file does not use."""

    line: int
    name: str  #: the shop's own name of the type


def map_value(value: Any, mapping: TopicMapping) -> Iterator[MappedEvent | Invalid | Skipped]:
    """Yield the events of a decoded value, in the order of their lines.

    A record without lines, or with an empty array of them, is one event: what its lines would have is absent then.
    """
    if not isinstance(value, dict):
        yield Invalid(
            0, RecordProblem("malformed", "", "an object with fields", "the value is not an object")
        )
        return
    lines = None if mapping.lines is None else follow(value, mapping.lines)
    for number, line in enumerate(lines if isinstance(lines, list) and lines else [None]):
        yield _one(value, line, number, mapping)


def _one(
    value: dict[str, Any], line: Any, number: int, mapping: TopicMapping
) -> MappedEvent | Invalid | Skipped:
    event_type = _event_type(value, line, number, mapping.types)
    if not isinstance(event_type, str):
        return event_type
    found = {name: _first(value, line, mapping.fields.get(name, ())) for name in MAPPED_FIELDS}
    fields = _checked(found, event_type, mapping)
    if isinstance(fields, RecordProblem):
        return Invalid(number, _with_path(fields, mapping))
    event_id = fields.event_id
    if event_id is not None and number:
        event_id = f"{event_id}-{number}"
        if len(event_id.encode()) > MAX_ID_BYTES:
            got = f"event_id has more than {MAX_ID_BYTES} bytes with the number of the line"
            problem = RecordProblem("invalid_field", "event_id", EXPECTED["event_id"], got)
            return Invalid(number, _with_path(problem, mapping))
    session, order, list_id, query, currency = (_text(found[name]) for name in _CARRIED)
    item = None if fields.item_id is None else str(fields.item_id)
    return MappedEvent(
        number,
        event_type,
        Event(
            fields.user_id, fields.ts, event_id, item, fields.category_id,
            session, order, list_id, query, price=fields.price, currency=currency, quantity=fields.quantity,
        ),
    )  # fmt: skip


def _event_type(value: dict[str, Any], line: Any, number: int, types: EventTypes) -> str | Invalid | Skipped:
    """One of `EVENT_TYPES`, or why the record or line has none."""
    if types.always:
        return types.always
    found = [each for path in types.paths if (each := _first(value, line, (path,))) is not None]
    where = types.paths[0].text
    if not found:
        problem = RecordProblem("missing_field", where, "the type of the event", f"{where} is missing")
        return Invalid(number, problem)
    names = [_type_name(each) for each in found]
    name = next((each for each in names if each in types.names), names[0])
    if name is None:
        got = f"{where} is {type_words(found[0])}"
        return Invalid(number, RecordProblem("invalid_field", where, "text", got))
    known = types.names.get(name)
    if known is None and types.others == "dead_letter":
        expected, got = "a type that the shop file names", f"{where} is not in the shop file"
        return Invalid(number, RecordProblem("invalid_field", where, expected, got))
    return known or Skipped(number, name)


def _type_name(value: Any) -> str | None:
    """The shop's own name of a type as text; None for an object or an array."""
    if isinstance(value, bool | int | float):
        return msgspec.json.encode(_whole(value)).decode()
    return value if isinstance(value, str) else None


def _checked(found: dict[str, Any], event_type: str, mapping: TopicMapping) -> LenientFields | RecordProblem:
    """The fields in the forms of the contract, or what is wrong with the first one that cannot be brought there."""
    raw = found["ts"]
    if raw is not None:
        try:
            found["ts"] = unix_ms(raw, mapping.time, mapping.zone)
        except ValueError as error:
            return _of_time("invalid_field", f"ts {error}", raw, mapping)
    for name in NUMBERS:
        if isinstance(found[name], str):
            try:
                found[name] = number_in(found[name])
            except ValueError as error:
                return RecordProblem("invalid_field", name, "a number", f"{name} {error}")
    given = {name: found[name] for name in _CHECKED if found[name] is not None}
    fields = fields_of(LooseFields(**given), correct_clock=False)
    if isinstance(fields, RecordProblem):
        if fields.field == "ts" and raw is not None:  # the contract's sentence would be about milliseconds
            got = "ts lies before March 1973 or after the year 9999"
            return _of_time(fields.reason, got, raw, mapping)
        return fields
    return NO_ITEM if fields.item_id is None and event_type != EVENT_TYPES[BROWSE] else fields


def _of_time(reason: str, got: str, raw: Any, mapping: TopicMapping) -> RecordProblem:
    """A problem of a time, with the format that the shop file should name if the time looks like another one."""
    likely = likely_format(raw)
    if likely not in (None, mapping.time):
        got = f'ts looks like a time in {likely}: write time = "{likely}" in the shop file'
    return RecordProblem(reason, "ts", f"a time in the format {mapping.time}", got)


def _first(value: dict[str, Any], line: Any, paths: tuple[Path, ...]) -> Any:
    """The first of the alternatives that is present and neither null nor empty text."""
    for path in paths:
        found = follow(value if path.lines is None else line, path.within)
        if found is not None and found != "":
            return found
    return None


def _text(value: Any) -> str | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(_whole(value))
    return value if isinstance(value, str) else None


def _whole(value: float) -> float:
    """A whole number as an integer, as ids are read: some writers make floats of a column with gaps."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < EXACT else value


def _with_path(problem: RecordProblem, mapping: TopicMapping) -> RecordProblem:
    """The problem with the place in the shop's own record, where that differs from the field's name."""
    paths = mapping.fields.get(problem.field, ())
    if not paths or paths[0].text == problem.field:
        return problem
    more = ", …" if len(paths) > 1 else ""
    return problem._replace(got=f"{problem.got} (from {paths[0].text}{more})")
