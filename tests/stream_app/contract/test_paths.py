"""Paths of a shop file: what they mean, and what is wrong with those that mean nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.contract.paths import Each, Element, Name, Where, follow, parse

VALUE: dict[str, Any] = {
    "userId": "u1",
    "context": {"page.url": {"host": "shop.example"}, "ip": None},
    "params": [{"key": "page", "value": {"text": "/a"}}, 7, {"key": "page", "value": {"text": "/b"}}],
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("userId", "u1"),
        ('context."page.url".host', "shop.example"),
        ("context.ip", None),
        ("context.none.host", None),
        ("userId.host", None),
        ("params[0].key", "page"),
        ("params[1].key", None),
        ("params[9].key", None),
        ("params[key=page].value.text", "/a"),
        ("params[key=other].value.text", None),
        ("context[0]", None),
        ("context[key=page]", None),
    ],
)
def test_a_path_leads_to_a_value_or_to_nothing(path: str, found: object) -> None:
    """Where a part of a path is missing, or is of another type, there is nothing."""
    assert follow(VALUE, parse(path).steps) == found


def test_the_events_of_a_record() -> None:
    """`[]` divides a path: what leads to the array, and what leads on from each element."""
    path = parse("order.lines[].product.sku")
    assert (path.lines, path.within) == ((Name("order"), Name("lines")), (Name("product"), Name("sku")))
    plain = parse("order.id")
    assert (plain.lines, plain.within) == (None, (Name("order"), Name("id")))


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "is empty"),
        ("a..b", "at column 3"),
        ("a.", "at column 3"),
        (".a", "at column 1"),
        ("a b", "a dot or a bracket at column 2"),
        ("[0]", "a bracket at column 1"),
        ("a[", "a bracket at column 2"),
        ("a[-1]", "a bracket at column 2"),
        ("a[x]", "a bracket at column 2"),
        ("a[].b[].c", "two []"),
        ('a."b', "at column 3"),
    ],
)
def test_a_wrong_path_is_refused_with_its_column(path: str, why: str) -> None:
    """Each mistake is an error that says where it is."""
    with pytest.raises(ValueError, match="path") as caught:
        parse(path)
    assert why in str(caught.value)


names = st.text(min_size=1, max_size=8)
steps = st.lists(
    st.one_of(
        st.builds(Name, names),
        st.builds(Element, st.integers(0, 3)),
        st.builds(Where, st.sampled_from("kn"), st.text("abc", min_size=1, max_size=3)),
    ),
    max_size=6,
)


@given(names, steps)
def test_any_path_that_is_written_is_read_and_followed(first: str, more: list[Any]) -> None:
    """The text of steps parses to these steps, and they lead to the value that was put at their end."""
    path = [Name(first), *more]
    value: Any = "here"
    for step in reversed(path):
        if isinstance(step, Name):
            value = {step.name: value}
        elif isinstance(step, Element):
            value = [None] * step.number + [value]
        else:
            # The next step goes on inside the element that is found, so it has to be an object too.
            value = [{**(value if isinstance(value, dict) else {}), step.field: step.value}]
    text = "".join(map(_written, path)).removeprefix(".")
    parsed = parse(text)
    assert list(parsed.steps) == path
    assert Each() not in parsed.steps
    if not any(isinstance(step, Where) for step in path):
        assert follow(value, parsed.steps) == "here"


def _written(step: Any) -> str:
    if isinstance(step, Name):
        return '."' + step.name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"[{step.number}]" if isinstance(step, Element) else f"[{step.field}={step.value}]"
