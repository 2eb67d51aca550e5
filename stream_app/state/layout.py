"""The layout of rows as plain data. It is stored in the changelog with the rows, which are read by field name.

A value in the changelog begins with the number of its layout. The layout itself is the key of a record that comes
before the first such value of its partition. So a version with another row reads the fields that it knows and gives
new fields their defaults; `evolve` says which changes need no further work.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from stream_app.state.errors import StateError

#: First byte of the key of a record that describes a layout; the description follows. No user_id begins with this
#: byte, since UTF-8 never contains it. The value is empty, which versions before format 3 do not accept as a row.
LAYOUT_KEY = 0xFE

#: The most bytes of a row that a description may have.
_MOST_BYTES = 1 << 20

#: An axis of an array: its length if its places have no names; otherwise a name and a length for each part.
Axis = int | tuple[tuple[str, int], ...]


class DescriptionError(StateError):
    """What should describe a layout cannot be read."""


class Field(msgspec.Struct, frozen=True, array_like=True):
    """One field of a row, or of another field."""

    name: str
    at: int  #: first byte
    type: str  #: as numpy writes it, "<i8"; empty if the field has fields of its own
    size: int  #: bytes of one element
    axes: tuple[Axis, ...] = ()
    fields: tuple["Field", ...] = ()


class Description(msgspec.Struct, frozen=True, array_like=True):
    """The fields of a row, and its size."""

    size: int  #: bytes of a row
    fields: tuple[Field, ...]

    def encode(self) -> bytes:
        """The key of the record that describes this layout."""
        return bytes([LAYOUT_KEY]) + msgspec.msgpack.encode(self)

    @property
    def number(self) -> int:
        """16 bits that name this layout in values: a hash, so that all versions give a layout the same number."""
        return int(xxhash.xxh64_intdigest(self.encode()) & 0xFFFF)

    def dtype(self) -> np.dtype[np.void]:
        """The type of rows of this layout. Raises ValueError or TypeError if the description is invalid."""
        if self.size % 8 or not 0 < self.size <= _MOST_BYTES:
            raise ValueError(f"a row of {self.size} bytes")
        return _dtype(self.fields, self.size)


def decode(key: bytes) -> Description:
    """Reads what `Description.encode` wrote. Raises DescriptionError for anything else."""
    try:
        found = msgspec.msgpack.decode(key[1:], type=Description)
        found.dtype()
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DescriptionError(f"a description of rows cannot be read ({error})") from error
    return found


def length(axis: Axis) -> int:
    """How many places an axis has."""
    return axis if isinstance(axis, int) else sum(n for _, n in axis)


def describe(dtype: np.dtype[Any], axes: Mapping[str, tuple[Axis, ...]]) -> Description:
    """The description of a type of rows. `axes`: of the fields whose axes have names."""
    return Description(dtype.itemsize, _fields(dtype, axes))


def _fields(dtype: np.dtype[Any], axes: Mapping[str, tuple[Axis, ...]]) -> tuple[Field, ...]:
    found = []
    for name in dtype.names or ():
        type_, at = dtype.fields[name][:2]  # type: ignore[index]
        base = type_.base
        named = axes.get(name, type_.shape)
        if tuple(map(length, named)) != type_.shape:
            raise ValueError(f"the axes of {name} have {named} places, its shape is {type_.shape}")
        inner = _fields(base, {}) if base.names else ()
        found.append(Field(name, at, "" if inner else base.str, base.itemsize, tuple(named), inner))
    return tuple(found)


def _dtype(fields: tuple[Field, ...], bytes_: int) -> np.dtype[Any]:
    formats = []
    for f in fields:
        base = _dtype(f.fields, f.size) if f.fields else np.dtype(f.type)
        shape = tuple(map(length, f.axes))
        if base.itemsize != f.size or any(n < 1 for n in shape) or not (f.fields or base.kind in "iufb"):
            raise ValueError(f"the field {f.name} is of no type that a row may have")
        formats.append((base, shape) if shape else base)
    names, offsets = [f.name for f in fields], [f.at for f in fields]
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": bytes_})


#: Fills one field of `new` (n,) from rows `old` (n,) of another layout.
Migration = Callable[[npt.NDArray[np.void], npt.NDArray[np.void]], None]


@dataclass(frozen=True, eq=False)
class Layout:
    """The rows of one processor: their type, the row of a user never seen, and what the places of arrays mean.

    `axes` names the places of arrays, so that an array may gain or lose places. `migrations` fill fields that changed
    in other ways. `first` describes the values of format 2, which have no number; None if there
    are none.
    """

    empty: npt.NDArray[np.void]  # (1,)
    axes: Mapping[str, tuple[Axis, ...]] = field(default_factory=dict)
    migrations: Mapping[str, Migration] = field(default_factory=dict)
    first: Description | None = None

    def __post_init__(self) -> None:
        if self.dtype.itemsize % 8:
            raise ValueError(f"a row has {self.dtype.itemsize} bytes, which is no multiple of eight")

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The type of a row."""
        return self.empty.dtype

    @cached_property
    def description(self) -> Description:
        """The description that is written to the changelog."""
        return describe(self.dtype, self.axes)

    @cached_property
    def number(self) -> int:
        """The number that begins each value."""
        return self.description.number
