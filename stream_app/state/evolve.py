"""Rows of another version's layout as rows of ours, field by field.

What goes by itself:

- a field that is new gets its value of an empty row; one that is gone is passed over; the order does not matter;
- a number of a wider type takes the narrower one (i4 to i8, f4 to f8);
- an array whose places have names (`Layout.axes`) is copied name by name: new places get their value of an empty row,
  places that are gone are passed over. A part of several places (the ring of a window) is one thing: its name says how
  long it is, so a ring of another length is another part and begins empty;
- all this holds for fields of fields, too.

Everything else changes what a field means: another length of an array without names, a narrower or another type, more
or fewer axes. It needs a function in `Layout.migrations`, or a new name, and is refused without.

A number that stands for a place elsewhere is copied as it is: `recent.kind` counts `EVENT_TYPES`, so a new event type
goes to their end. The hidden state behind a row is not part of it: another width is another model.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stream_app.errors import StateError
from stream_app.state.layout import Axis, Description, Field, Layout, Migration, length


def convert(old: npt.NDArray[np.void], was: Description, layout: Layout) -> npt.NDArray[np.void]:
    """Rows (n,) of the layout `was` as rows (n,) of ours. Raises StateError where a field means something else."""
    new = np.repeat(layout.empty, len(old))
    before = {f.name: f for f in was.fields}
    for now in layout.description.fields:
        then = before.get(now.name)
        migration = layout.migrations.get(now.name)
        if migration is not None and _differs(then, now):
            migration(old, new)
        elif then is not None:
            _copy(old[now.name], new[now.name], then, now, (), ())
    return new


def _differs(then: Field | None, now: Field) -> bool:
    """Whether a field is another one, wherever in the row it stands."""
    if then is None or (then.type, then.axes, len(then.fields)) != (now.type, now.axes, len(now.fields)):
        return True
    return any(a.name != b.name or _differs(a, b) for a, b in zip(then.fields, now.fields, strict=True))


def _copy(
    old: npt.NDArray[np.generic],
    new: npt.NDArray[np.generic],
    then: Field,
    now: Field,
    old_axes: Sequence[Axis],
    new_axes: Sequence[Axis],
) -> None:
    """Copies a field (n, ...) and the fields in it. `old_axes`, `new_axes`: of the fields around it."""
    old_axes, new_axes = (*old_axes, *then.axes), (*new_axes, *now.axes)
    if bool(then.fields) != bool(now.fields):
        raise _other(then, now)
    if now.fields:
        before = {f.name: f for f in then.fields}
        for inner in now.fields:
            if inner.name in before:
                _copy(old[inner.name], new[inner.name], before[inner.name], inner, old_axes, new_axes)
        return
    if len(old_axes) != len(new_axes) or not np.can_cast(old.dtype, new.dtype, "safe"):
        raise _other(then, now)
    put: list[npt.NDArray[np.intp]] = [np.arange(len(new))]
    for i, (a, b) in enumerate(zip(old_axes, new_axes, strict=True)):
        if (isinstance(a, int) or isinstance(b, int)) and a != b:
            raise _other(then, now)
        pairs = [(_places(a).index(name), at) for at, name in enumerate(_places(b)) if name in _places(a)]
        take, there = np.array(pairs, np.intp).reshape(-1, 2).T
        old = old.take(take, axis=i + 1)
        put.append(there)
    new[np.ix_(*put)] = old


def _places(axis: Axis) -> list[tuple[str, int, int]]:
    if isinstance(axis, int):
        return [("", axis, i) for i in range(axis)]
    return [(name, n, i) for name, n in axis for i in range(n)]


def _other(then: Field, now: Field) -> StateError:
    return StateError(
        f"the changelog's rows have a field {now.name!r} of another meaning ({_words(then)}, here {_words(now)}), "
        "and this version has no way from one to the other: keep the old version, or start with another FORECLICK_GROUP"
    )


def _words(f: Field) -> str:
    shape = " x ".join(str(length(axis)) for axis in f.axes)
    return f"{shape} {f.type or 'fields'}".strip()


def ring(name: str, counter: str) -> Migration:
    """A migration of a ring: number n of `counter` in all stands at n % length, and the newest are kept.

    Its element's fields are copied by name.
    """

    def move(old: npt.NDArray[np.void], new: npt.NDArray[np.void]) -> None:
        if name not in (old.dtype.names or ()):
            return
        before, now = old[name], new[name]
        if before.ndim != 2:
            raise StateError(
                f"the changelog's rows have a field {name} that is no ring: keep the old version"
            )
        shared = [f for f in now.dtype.names or () if f in (before.dtype.names or ())]
        for f in shared:
            if not np.can_cast(before.dtype[f], now.dtype[f], "safe"):
                raise StateError(
                    f"the changelog's rows have a field {name}.{f} of another type: keep the old version"
                )
        for back in range(1, min(before.shape[1], now.shape[1]) + 1):
            number = old[counter] - back
            rows = np.flatnonzero(number >= 0)
            source, target = number[rows] % before.shape[1], number[rows] % now.shape[1]
            for f in shared:
                now[f][rows, target] = before[f][rows, source]

    return move
