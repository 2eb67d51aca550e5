"""Paths to fields inside a JSON object, as a shop file writes them.

userId                        a field
context.ip                    a field of an object in a field
"page.url".host               a name in quotes may contain dots and brackets
contexts[0].id                an element of an array, counted from 0
params[key=page].value        the first element whose field `key` is "page"
order.lines[].sku             each element of an array: the record holds one event per element
"""

import re
from typing import Any, NamedTuple

_NAME = re.compile(r'"((?:[^"\\]|\\.)+)"|([^\s".\[\]]+)')
_INDEX = re.compile(r"\[(?:(\d{1,4})|([^\s\[\]=]+)=([^\[\]]+)|)\]")
#: What a path leads to if a part of it is missing.
ABSENT: Any = None


class Name(NamedTuple):
    """A field of an object."""

    name: str


class Element(NamedTuple):
    """An element of an array, counted from 0."""

    number: int


class Where(NamedTuple):
    """The first element of an array whose field has this text as its value."""

    field: str
    value: str


class Each(NamedTuple):
    """Each element of an array."""


Step = Name | Element | Where | Each


class Path(NamedTuple):
    """A path with at most one `Each`."""

    text: str
    steps: tuple[Step, ...]
    #: The steps that lead to the array of which each element is an event; None if there is no such array.
    lines: tuple[Step, ...] | None
    #: The steps from an element of that array on, or all of them.
    within: tuple[Step, ...]


def parse(text: str) -> Path:
    """Return the path that a text describes. Raises ValueError with the reason and the column."""
    steps: list[Step] = []
    at = 0
    while at < len(text):
        if text[at] == "[":
            step, at = _bracket(text, at, bool(steps))
        else:
            step, at = _name(text, at, bool(steps))
        if step == Each() and step in steps:
            raise ValueError(
                f"the path {text} has two [], but only one array can hold the events of a record"
            )
        steps.append(step)
    if not steps:
        raise ValueError("a path is empty")
    if Each() not in steps:
        return Path(text, tuple(steps), None, tuple(steps))
    array = steps.index(Each())
    return Path(text, tuple(steps), tuple(steps[:array]), tuple(steps[array + 1 :]))


def _name(text: str, at: int, inside: bool) -> tuple[Step, int]:
    if inside:
        if text[at] != ".":
            raise ValueError(f"the path {text} needs a dot or a bracket at column {at + 1}")
        at += 1
    found = _NAME.match(text, at)
    if found is None:
        raise ValueError(f"the path {text} needs the name of a field at column {at + 1}")
    quoted, plain = found.groups()
    return Name(plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)), found.end()


def _bracket(text: str, at: int, inside: bool) -> tuple[Step, int]:
    found = _INDEX.match(text, at)
    if found is None or not inside:
        raise ValueError(
            f"the path {text} has a bracket at column {at + 1} that is not name[], [0] or [key=value]"
        )
    index, field, value = found.groups()
    if index is not None:
        return Element(int(index)), found.end()
    return (Each() if field is None else Where(field, value)), found.end()


def follow(value: Any, steps: tuple[Step, ...]) -> Any:
    """Return what stands at the end of the steps (without `Each`); ABSENT if a part of the path is missing."""
    for step in steps:
        if isinstance(step, Name):
            value = value.get(step.name, ABSENT) if isinstance(value, dict) else ABSENT
        elif not isinstance(value, list):
            return ABSENT
        elif isinstance(step, Element):
            value = value[step.number] if step.number < len(value) else ABSENT
        elif isinstance(step, Where):
            value = next(
                (e for e in value if isinstance(e, dict) and e.get(step.field) == step.value), ABSENT
            )
        if value is ABSENT:
            return ABSENT
    return value
