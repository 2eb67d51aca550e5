"""Events out of the values of a shop's own topic, as its shop file maps them: the general way, in plain Python."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from stream_app.contract.events import Event
from stream_app.contract.mapping import MAPPED_FIELDS, NUMBERS, TopicMapping, unix_ms
from stream_app.contract.paths import Path, follow
from stream_app.contract.records import EVENT_TYPES
from stream_app.decoding.lenient import LooseFields, RecordProblem, fields_of

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
    steps = mapping.lines
    lines = follow(value, steps) if steps is not None else None
    for number, line in enumerate(lines if isinstance(lines, list) and lines else [None]):
        yield _one(value, line, number, mapping)


def _one(
    value: dict[str, Any], line: Any, number: int, mapping: TopicMapping
) -> MappedEvent | Invalid | Skipped:
    types = mapping.types
    event_type = types.always
    if not event_type:
        name = _first(value, line, types.paths)
        shown = name if isinstance(name, str) else "" if name is None else msgspec.json.encode(name).decode()
        known = types.names.get(shown)
        if not known:
            if known is None and (types.others == "dead_letter" or name is None):
                return Invalid(number, _unknown_type(types.paths[0], missing=name is None))
            return Skipped(number, shown)
        event_type = known
    found = {name: _first(value, line, mapping.fields.get(name, ())) for name in MAPPED_FIELDS}
    problem = _convert(found, mapping)
    if problem is None:
        given = {name: found[name] for name in _CHECKED if found[name] is not None}
        fields = fields_of(LooseFields(**given), correct_clock=False)
        problem = fields if isinstance(fields, RecordProblem) else None
        if problem is None and event_type != EVENT_TYPES[1] and found["item_id"] is None:
            problem = RecordProblem(
                "missing_field", "item_id", "the item of a click or a purchase", "item_id is missing"
            )
    if problem is not None:
        return Invalid(number, _with_path(problem, mapping))
    assert not isinstance(fields, RecordProblem)
    event_id = fields.event_id
    if event_id is not None and number:
        event_id = f"{event_id}-{number}"
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


def _first(value: dict[str, Any], line: Any, paths: tuple[Path, ...]) -> Any:
    """The first of the alternatives that is present and neither null nor empty text."""
    for path in paths:
        of_line = path.lines is not None
        found = follow(line, path.within) if of_line else follow(value, path.steps)
        if found is not None and found != "":
            return found
    return None


def _convert(found: dict[str, Any], mapping: TopicMapping) -> RecordProblem | None:
    """Bring times and numbers into the forms of the contract; what is wrong with one of them, or None."""
    if found["ts"] is not None:
        try:
            found["ts"] = unix_ms(found["ts"], mapping.time, mapping.zone)
        except ValueError as error:
            return RecordProblem("invalid_field", "ts", f"a time in the format {mapping.time}", f"ts {error}")
    for name in NUMBERS:
        if isinstance(found[name], str):
            try:
                found[name] = float(found[name])
            except ValueError:
                return RecordProblem(
                    "invalid_field", name, "a number", f"{name} is text that is not a number"
                )
    return None


def _text(value: Any) -> str | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None


def _unknown_type(path: Path, *, missing: bool) -> RecordProblem:
    if missing:
        return RecordProblem("missing_field", path.text, "the type of the event", f"{path.text} is missing")
    return RecordProblem(
        "invalid_field", path.text, "a type that the shop file names", f"{path.text} is not in the shop file"
    )


def _with_path(problem: RecordProblem, mapping: TopicMapping) -> RecordProblem:
    """The problem with the place in the shop's own record, where that differs from the field's name."""
    paths = mapping.fields.get(problem.field, ())
    if not paths or paths[0].text == problem.field:
        return problem
    more = ", …" if len(paths) > 1 else ""
    return problem._replace(got=f"{problem.got} (from {paths[0].text}{more})")
