"""Rows of other layouts: read by field name, like a plain loop over names; impossible layouts are refused."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stream_app.contract.message_columns import MessageColumns
from stream_app.contract.records import INPUT_TOPICS
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.settings import Settings
from stream_app.state.errors import StateError
from stream_app.state.evolve import convert, ring
from stream_app.state.format_2 import FORMAT_2
from stream_app.state.layout import Description, Layout, decode, describe
from stream_app.state.row_layout import LAYOUT
from stream_app.state.users import Rows
from tests.stream_app.helpers import Log, changelog

# --- random layouts

_TYPES = {"i4": ("i4", "i8"), "i8": ("i8",), "f4": ("f4", "f8"), "f8": ("f8",), "u8": ("u8",)}
_PARTS = (("p", 1), ("q", 1), ("r", 3), ("r2", 2), ("s", 1))

parts = st.lists(st.sampled_from(_PARTS), min_size=1, max_size=4, unique=True).map(tuple)
#: The type of each field, and whether it has no axis, one without names, or one or two with names.
kinds = st.tuples(st.sampled_from(sorted(_TYPES)), st.integers(0, 3))


@st.composite
def layouts(draw: Any) -> tuple[Layout, Layout]:
    """Draw two layouts with some common fields, in another order, wider, with other places."""
    fields = {name: draw(kinds) for name in draw(st.sets(st.sampled_from("abcdef"), min_size=1))}

    def one(wider: bool) -> Layout:
        names = draw(st.permutations(sorted(fields)))
        names = names[: draw(st.integers(1, len(names)))]
        columns: list[Any] = []
        axes: dict[str, Any] = {}
        for name in names:
            kind, shape = fields[name]
            kind = draw(st.sampled_from(_TYPES[kind])) if wider else kind
            named = {0: (), 1: (4,), 2: (draw(parts),), 3: (draw(parts), draw(parts))}[shape]
            axes[name] = named
            lengths = tuple(a if isinstance(a, int) else sum(n for _, n in a) for a in named)
            columns.append((name, kind, lengths) if lengths else (name, kind))
        columns.append((draw(st.sampled_from("xyz")), "i8"))
        dtype = np.dtype(columns, align=True)
        empty = np.zeros(1, dtype)
        for name in dtype.names or ():
            empty[name] = draw(st.integers(0, 9))
        return Layout(empty, axes)

    return one(wider=False), one(wider=True)


def places(axis: Any) -> list[Any]:
    """Return the name of each place of an axis."""
    return list(range(axis)) if isinstance(axis, int) else [(p, i) for p, n in axis for i in range(n)]


def plain(row: np.void, layout: Layout) -> dict[Any, Any]:
    """Return a row as a dict by field and names of places."""
    found = {}
    for field in layout.description.fields:
        cells = [()]
        for axis in field.axes:
            cells = [(*cell, place) for cell in cells for place in places(axis)]
        values = np.asarray(row[field.name]).reshape(-1).tolist()
        found.update({(field.name, cell): v for cell, v in zip(cells, values, strict=True)})
    return found


def filled(layout: Layout, n: int, seed: int) -> np.ndarray:
    """Return rows with a value in each place."""
    random = np.random.default_rng(seed)
    rows = np.zeros(n, layout.dtype)
    for name in layout.dtype.names or ():
        rows[name] = random.integers(0, 1000, rows[name].shape)
    return rows


def table(layout: Layout) -> Rows:
    return Rows(64, layout)


def log_of(rows: Rows, users: list[str], values: np.ndarray) -> Log:
    """Return the records that a checkpoint writes of these users."""
    slots = rows.slots(0, users)
    rows.rows[slots] = values
    rows.dirty[slots] = True
    return MessageColumns.concat([rows.take_description(0), rows.take_dirty(0)]).each()


def read_back(rows: Rows, user: str) -> np.void:
    return rows.rows[rows.mapping(0)[user]]


@given(layouts(), st.integers(1, 5), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_rows_are_read_by_field_name(both: tuple[Layout, Layout], n: int, seed: int) -> None:
    """Common fields and places are kept, new ones have their default, as in a loop over names."""
    old, new = both
    assume(old.number != new.number or old.description == new.description)
    users = [f"u{i}" for i in range(n)]
    values = filled(old, n, seed)
    target = table(new)
    target.restore(0, changelog(log_of(table(old), users, values)))
    for user, row in zip(users, values, strict=True):
        before = plain(row, old)
        wanted = {cell: before.get(cell, v) for cell, v in plain(new.empty[0], new).items()}
        assert plain(read_back(target, user), new) == wanted


@given(layouts(), st.integers(0, 10**6), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_a_log_of_old_and_new_rows(both: tuple[Layout, Layout], seed: int, at_once: int) -> None:
    """After an upgrade one log has rows of both layouts, in any order that compaction leaves; all are read.

    The newer version describes its layout once, before its first row, and its rows of a user count.
    """
    old, new = both
    assume(old.number != new.number)
    before = log_of(table(old), [f"u{i}" for i in range(8)], filled(old, 8, seed))
    second = table(new)
    second.restore(0, changelog(before))
    after = log_of(second, ["u2", "u5", "u9"], filled(new, 3, seed + 1))
    assert [key for key, _ in after if key and key[0] == 0xFE] == [new.description.encode()]
    assert log_of(second, ["u3"], filled(new, 1, seed + 2))[0][0] == b"u3"  # described already
    log = [*before, *after]
    last = {key: i for i, (key, _) in enumerate(log)}
    compacted = [pair for i, pair in enumerate(log) if last[pair[0]] == i]
    third = table(new)
    for start in range(0, len(compacted), at_once):
        third.restore(0, changelog(compacted[start : start + at_once]))
    assert not len(third.take_description(0))
    for i in range(10):
        if i != 3 and i != 8:
            assert read_back(third, f"u{i}").tobytes() == read_back(second, f"u{i}").tobytes()


def test_the_layout_of_a_partition_that_left_is_described_again() -> None:
    """Knowledge of a changelog is removed with its partition, so another one gets its own description."""
    rows = table(LAYOUT)
    assert len(rows.take_description(0)) == 1
    assert not len(rows.take_description(0))
    assert len(rows.take_description(1)) == 1
    rows.drop(0)
    assert len(rows.take_description(0)) == 1


# --- what is refused


def simple(**columns: Any) -> Layout:
    """Return a row of these fields, all zero."""
    return Layout(
        np.zeros(
            1, np.dtype([(n, *t) if isinstance(t, tuple) else (n, t) for n, t in columns.items()], align=True)
        )
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (simple(a=("i8", (3,))), simple(a=("i8", (4,)))),
        (simple(a="i8"), simple(a="f4", b="i4")),
        (simple(a="f8"), simple(a="f4", b="f4")),
        (simple(a="i8"), simple(a=("i8", (1,)))),
        (simple(a="u8"), simple(a="i8")),
        (simple(a=([("x", "i8")], (2,))), simple(a=("i8", (2,)))),
        (simple(a=([("x", "i8")], (2,))), simple(a=([("x", "i8")], (3,)))),
    ],
)
def test_a_change_of_meaning_is_refused(old: Layout, new: Layout) -> None:
    """If a field has another meaning, the worker names it, and does not read it wrongly."""
    log = log_of(table(old), ["u"], filled_words(old))
    with pytest.raises(
        StateError, match=r"field 'a(\.x)?' of another meaning.*keep the old version"
    ) as refused:
        table(new).restore(0, changelog(log))
    assert "\n" not in str(refused.value)


def filled_words(layout: Layout) -> np.ndarray:
    rows = np.zeros(1, layout.dtype)
    rows.view(np.uint8)[:] = 1
    return rows


def test_a_row_of_a_layout_that_nothing_describes() -> None:
    """The record is refused with topic, partition and offset, and without the user's id."""
    log = log_of(table(simple(a="i8", b="i8")), ["someone"], filled_words(simple(a="i8", b="i8")))[1:]
    with pytest.raises(StateError, match=r"users, partition 0,.* offset 0.*describes its layout") as refused:
        table(simple(a="i8")).restore(0, changelog(log))
    assert "someone" not in str(refused.value)


def test_two_layouts_of_one_number() -> None:
    """A collision of the 16 bits is noticed before anything is written."""
    seen: dict[int, Description] = {}
    for i in range(100_000):
        found = describe(np.dtype([(f"a{i}", "i8")]), {})
        if seen.setdefault(found.number, found) != found:
            break
    first, second = (f.encode() for f in (seen[found.number], found))
    with pytest.raises(StateError, match="two layouts of rows"):
        table(simple(a="i8")).restore(0, changelog([(first, b""), (second, b"")]))
    ours = Layout(np.zeros(1, found.dtype()))
    with pytest.raises(StateError, match="two layouts of rows"):
        table(ours).restore(0, changelog([(first, b"")]))


@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda b: FORMAT_2.encode()[1:-20] + b))
@settings(max_examples=300, deadline=None)
def test_a_damaged_description(body: bytes) -> None:
    """Any bytes are a layout or are refused in one sentence."""
    try:
        found = decode(b"\xfe" + body)
    except StateError as refused:
        assert "cannot be read" in str(refused)
    else:
        assert found.dtype().itemsize == found.size


@pytest.mark.parametrize("kind", ["O", "S4", "M8[s]", ">c8", "i4,i4", "2i4", "V8", "no"])
def test_a_description_with_types_that_no_row_has(kind: str) -> None:
    """Types that no row has, such as Python objects, are refused."""
    raw = b"\xfe" + msgspec.msgpack.encode([8, [["a", 0, kind, 8, [], []]]])
    with pytest.raises(StateError, match="cannot be read"):
        decode(raw)


# --- the shop's row


def test_the_row_of_format_2_is_read() -> None:
    """The frozen description has 1,992 bytes, and our row has each of its fields or converts it."""
    assert FORMAT_2.size == 1992
    old = np.zeros(3, FORMAT_2.dtype())
    old["source"], old["clock"] = -1, 5
    assert convert(old, FORMAT_2, LAYOUT)["clock"].tolist() == [5, 5, 5]


def test_event_types_are_only_added() -> None:
    """Recent events store their type by its index, so a new type must be the last one."""
    (types,) = next(f.axes for f in FORMAT_2.fields if f.name == "source")
    assert isinstance(types, tuple)
    named = [name for name, _ in LAYOUT.axes["source"][0]]  # type: ignore[union-attr]
    assert named[: len(types)] == [name for name, _ in types]


@given(st.integers(1, 12), st.integers(1, 12), st.lists(st.integers(0, 30), min_size=1, max_size=6))
@settings(deadline=None)
def test_a_ring_of_another_length(before: int, now: int, events: list[int]) -> None:
    """The newest events that fit both rings are where our ring expects them; a new field of them is empty."""

    def layout(length: int, *more: tuple[str, str]) -> Layout:
        dtype = np.dtype([("n", "i8"), ("last", [("v", "i8"), *more], (length,)), ("plain", "f8", (length,))])
        return Layout(np.zeros(1, dtype), migrations={name: ring(name, "n") for name in ("last", "plain")})

    old, new = layout(before, ("gone", "i8")), layout(now, ("added", "f8"))
    rows = np.zeros(len(events), old.dtype)
    rows["n"] = events
    for row in rows:
        for number in range(int(row["n"])):
            row["last"][number % before]["v"] = row["plain"][number % before] = number + 1
    found = convert(rows, old.description, new)
    for row in found:
        n = int(row["n"])
        kept = range(max(0, n - min(before, now)), n)
        assert [int(row["last"][i % now]["v"]) for i in kept] == [i + 1 for i in kept]
        assert row["plain"].tolist() == row["last"]["v"].tolist()
        assert not row["last"]["added"].any()
        assert np.count_nonzero(row["last"]["v"]) == len(kept)


# --- versions before format 3


def test_an_earlier_version_refuses_this_changelog() -> None:
    """For format 2 the first record is neither a row nor a user, and the partition's record has another number.

    The test has a short reader of format 2: a bitmap and the words it names, then the hidden state.
    """
    processor = ShopProcessor(Settings(max_idle_ms=60_000), partitions=1)
    processor.assign(0, [0] * len(INPUT_TOPICS))
    processor.restored(0)
    processor.merge(0).skip([1, 0, 0])
    made = processor.checkpoint(0, 1)
    assert made is not None
    (key, value), *_, (last, meta) = made.records.each()
    assert key is not None and value == b"" and last == b""
    with pytest.raises(UnicodeDecodeError):
        key.decode()
    assert len(value) < (FORMAT_2.size // 8 + 7) // 8  # "a record of 0 bytes, which is no row of 1992"
    assert msgspec.msgpack.decode(meta or b"")["format"] == 3
