"""Converts rows of another version's layout to this version's, field by field.

These changes need no further work:

- A new field gets its value of an empty row, and a dropped field is ignored. The order of fields does not matter.
- A field of a wider type takes values of the narrower one (i4 to i8, f4 to f8).
- An array whose places have names (`Layout.axes`) is copied name by name: new places get their value of an empty
  row, and dropped ones are ignored. A part of several places (the ring of a window) is copied as a whole. Its name
  contains its length, so a ring of another length is another part and begins empty.
- All this holds for fields inside fields, too.

Every other change gives a field another meaning: another length of an array without names, a narrower or a different
type, more or fewer axes. It needs a function in `Layout.migrations`, or a new field name; otherwise it is refused.

A number that refers to a place elsewhere is copied unchanged: `recent.kind` is an index of `EVENT_TYPES`, so a new
event type must go to their end. The hidden state after a row is not part of it: another width means another model.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from stream_app.state.errors import StateError
from stream_app.state.layout import Axis, Description, Field, Layout, Migration

_Axes = tuple[Axis, ...]


def convert(old: npt.NDArray[np.void], was: Description, layout: Layout) -> npt.NDArray[np.void]:
    """Rows (n,) of the layout `was` as rows (n,) of ours. Raises StateError if a field has another meaning."""
    new = np.repeat(layout.empty, len(old))
    before = {f.name: f for f in was.fields}
    for now in layout.description.fields:
        then = before.get(now.name)
        migration = layout.migrations.get(now.name)
        if migration is not None and _differs(then, now):
            migration(old, new)
        elif then is not None:
            _copy(old[now.name], new[now.name], then, now, ("", (), ()))
    return new


def _differs(then: Field | None, now: Field) -> bool:
    """Whether the type, axes or fields of a field differ; its place in the row does not matter."""
    if then is None or (then.type, then.axes, len(then.fields)) != (now.type, now.axes, len(now.fields)):
        return True
    return any(a.name != b.name or _differs(a, b) for a, b in zip(then.fields, now.fields, strict=True))


def _copy(
    old: npt.NDArray[Any], new: npt.NDArray[Any], then: Field, now: Field, around: tuple[str, _Axes, _Axes]
) -> None:
    """Copies a field (n, ...) and the fields in it. `around`: name and axes of the fields around it."""
    path, old_axes, new_axes = around[0] + now.name, (*around[1], *then.axes), (*around[2], *now.axes)
    other = _other(path, (then, old_axes), (now, new_axes))
    if bool(then.fields) != bool(now.fields) or len(old_axes) != len(new_axes):
        raise other
    if now.fields:
        before = {f.name: f for f in then.fields}
        for inner in now.fields:
            if inner.name in before:
                there = old[inner.name], new[inner.name]
                _copy(*there, before[inner.name], inner, (f"{path}.", old_axes, new_axes))
        return
    if not np.can_cast(old.dtype, new.dtype, "safe"):
        raise other
    put: list[npt.NDArray[np.intp]] = [np.arange(len(new))]
    for i, (a, b) in enumerate(zip(old_axes, new_axes, strict=True)):
        if (isinstance(a, int) or isinstance(b, int)) and a != b:
            raise other
        pairs = [(_places(a).index(name), at) for at, name in enumerate(_places(b)) if name in _places(a)]
        take, there_ = np.array(pairs, np.intp).reshape(-1, 2).T
        old = old.take(take, axis=i + 1)
        put.append(there_)
    new[np.ix_(*put)] = old


def _places(axis: Axis) -> list[tuple[str, int, int]]:
    if isinstance(axis, int):
        return [("", axis, i) for i in range(axis)]
    return [(name, n, i) for name, n in axis for i in range(n)]


def _other(path: str, then: tuple[Field, _Axes], now: tuple[Field, _Axes]) -> StateError:
    return StateError(
        f"the changelog's rows have a field {path!r} of another meaning ({_words(*then)}, here {_words(*now)}), and "
        "this version cannot turn one into the other: keep the old version, or use another FORECLICK_GROUP"
    )


def _words(f: Field, axes: _Axes) -> str:
    parts = [
        str(axis) if isinstance(axis, int) else "+".join(f"{n} {name}" for name, n in axis) for axis in axes
    ]
    return " x ".join([*parts, f.type or "fields"])


def ring(name: str, counter: str) -> Migration:
    """A migration of a ring buffer: element number n of `counter` is at n % length, and the newest are kept.

    The fields of its elements are copied by name.
    """

    def move(old: npt.NDArray[np.void], new: npt.NDArray[np.void]) -> None:
        if name not in (old.dtype.names or ()):
            return
        before, now = old[name], new[name]
        columns = [(before, now)]
        if now.dtype.names and before.dtype.names:
            columns = [(before[f], now[f]) for f in now.dtype.names if f in before.dtype.names]
        if before.ndim != 2 or any(not np.can_cast(b.dtype, n.dtype, "safe") for b, n in columns):
            raise StateError(
                f"the changelog's rows have a ring {name!r} of another type: keep the old version"
            )
        for back in range(1, min(before.shape[1], now.shape[1]) + 1):
            number = old[counter] - back
            rows = np.flatnonzero(number >= 0)
            source, target = number[rows] % before.shape[1], number[rows] % now.shape[1]
            for b, n in columns:
                n[rows, target] = b[rows, source]

    return move
