"""Reads rows of any layout that a partition's changelog describes."""

import contextlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stream_app.contract.record_columns import RecordColumns
from stream_app.kernels.memory import contiguous
from stream_app.state.errors import StateError
from stream_app.state.evolve import convert
from stream_app.state.layout import LAYOUT_KEY, Description, Layout, decode
from stream_app.state.plausibility import WRONG, Damaged, ascii_only
from stream_app.state.row_codec import NUMBER_BYTES, numbers, unpack

#: What `Layouts.read` returns instead of a position: the value is too short; its layout is unknown.
TOO_SHORT, UNKNOWN_LAYOUT = -1, -2


def is_users(data: npt.NDArray[np.uint8], key_at: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which keys (n,), none of them empty, are users. Our own keys begin with a byte that UTF-8 never has."""
    return np.asarray(data[key_at] < LAYOUT_KEY, np.bool_)


@dataclass(slots=True)
class Layouts:
    """The layouts of the values in one partition's changelog."""

    own: Layout
    described: dict[int, Description] = field(default_factory=dict)

    def learn(self, key: bytes) -> None:
        """Stores the layout that the key of a record describes; ignores other keys.

        Raises StateError if the key cannot be read, or if one number would mean two layouts.
        """
        if key[:1] != bytes([LAYOUT_KEY]):
            return
        found = decode(key)
        number = found.number
        for other in (
            self.described.get(number),
            self.own.description if number == self.own.number else None,
        ):
            if other not in (None, found):
                raise StateError(
                    f"the number {number} stands for two layouts of rows, by a rare chance: start with another "
                    "FORECLICK_GROUP, or keep the old version"
                )
        self.described[number] = found

    def to_describe(self) -> list[tuple[bytes, bytes]]:
        """Key and value of the record that must come before the next value; none if the changelog has it already.

        It is written once per partition: compaction keeps the last record of a key, so a second record would remove
        the first one, which earlier values need.
        """
        if self.own.number in self.described:
            return []
        self.described[self.own.number] = self.own.description
        return [(self.own.description.encode(), b"")]

    def _layout(self, number: int) -> Description | None:
        if number < 0:
            return self.own.first
        return self.own.description if number == self.own.number else self.described.get(number)

    def read(
        self,
        rows: npt.NDArray[np.void],
        slots: npt.NDArray[np.int64],
        data: npt.NDArray[np.uint8],
        at: npt.NDArray[np.int64],
        size: npt.NDArray[np.int32],
    ) -> npt.NDArray[np.int64]:
        """Writes n values into the rows of their slots; returns where (n,) the hidden state of each begins.

        For an invalid value it returns TOO_SHORT or UNKNOWN_LAYOUT instead, and the row of its slot is undefined.
        Raises StateError if a field has another meaning.
        """
        found = numbers(data, at, size)
        hidden_at = np.full(len(slots), UNKNOWN_LAYOUT, np.int64)
        for number in np.unique(found).tolist():
            was = self._layout(number)
            if was is None:
                continue
            mine = np.flatnonzero(found == number)
            skip = NUMBER_BYTES if number >= 0 else 0
            part = slots[mine], data, at[mine] + skip, size[mine] - skip
            if was == self.own.description:
                hidden_at[mine] = unpack(rows, *part)
            else:
                old = np.zeros(len(mine), was.dtype())
                hidden_at[mine] = unpack(old, np.arange(len(mine)), *part[1:])
                rows[part[0]] = convert(old, was, self.own)
        return hidden_at


def keys_of(data: npt.NDArray[np.uint8], spans: npt.NDArray[np.void]) -> list[bytes]:
    """The key of each span."""
    places = zip(spans["key_at"].tolist(), spans["key_bytes"].tolist(), strict=True)
    return [data[at : at + size].tobytes() for at, size in places]


def are_text(data: npt.NDArray[np.uint8], spans: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Which keys (n,) are UTF-8."""
    found: npt.NDArray[np.bool_] = ascii_only(data, *contiguous(spans["key_at"], spans["key_bytes"]))
    for i in np.flatnonzero(~found).tolist():
        with contextlib.suppress(UnicodeDecodeError):
            keys_of(data, spans[i : i + 1])[0].decode()
            found[i] = True
    return found


def damaged_of(records: RecordColumns, span: np.void, why: str) -> Damaged:
    """The record of a span; `why` says what is wrong with it."""
    at = int(span["key_at"])
    return Damaged(int(span["offset"]), records.data[at : at + int(span["key_bytes"])].tobytes(), why)


def why_of(hidden_at: int, wrong: int) -> str:
    """What is wrong with a value, from the results of `Layouts.read` and of `plausibility.wrong_rows`."""
    if hidden_at < 0:
        return (
            "nothing describes its layout" if hidden_at == UNKNOWN_LAYOUT else "it ends before its row does"
        )
    return WRONG[wrong]
