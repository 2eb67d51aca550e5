"""Rows as changelog values. They contain only words that are not zero, since most of a row is empty for most users.

A value consists of the number of its layout (16 bits), a bitmap of the row's 64-bit words (bit i % 8 of byte i // 8),
the words whose bit is set as they are in memory, and the hidden state as 32-bit floats, all little-endian. Up to
three zero bytes follow, so that its size is two more than a multiple of four. This distinguishes it from a value of
format 2, which has neither number nor zero bytes, and whose size is never of this form (see `told_apart`).
"""

import sys

import numpy as np
import numpy.typing as npt

from stream_app.kernels.jit import jit
from stream_app.kernels.memory import contiguous, copy_bytes, load64, pointer_to, store64

if sys.byteorder != "little":
    raise ImportError("the changelog's format is that of little-endian machines")


#: Bytes of the number before a row, and the remainder of the size of a numbered value divided by `_GRAIN`.
NUMBER_BYTES, _NUMBERED, _GRAIN = 2, 2, 4


def bitmap_bytes(row_bytes: int) -> int:
    """Bytes of the bitmap of a row."""
    return (row_bytes // 8 + 7) // 8


def told_apart(row_bytes: int) -> bool:
    """Whether the size of a value tells if it has a number, for rows of this size."""
    return bitmap_bytes(row_bytes) % _GRAIN != _NUMBERED


def numbers(
    data: npt.NDArray[np.uint8], at: npt.NDArray[np.int64], size: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """The number (n,) of the layout of each value, -1 for values of format 2, which have none."""
    found = np.full(len(at), -1, np.int32)
    there = np.flatnonzero(size % _GRAIN == _NUMBERED)
    start = at[there]
    found[there] = data[start].astype(np.int32) | data[start + 1].astype(np.int32) << 8
    return found


def pack(
    rows: npt.NDArray[np.void],
    slots: npt.NDArray[np.int64],
    hidden: npt.NDArray[np.uint8],
    number: int,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """A buffer with the values of n slots, and where (n + 1,) each ends; the first entry is 0.

    `hidden` (n, a multiple of four bytes) follows each row. The size of a row must be a multiple of eight bytes.
    `number`: of the layout.
    """
    words, bitmap = _words(rows), bitmap_bytes(rows.dtype.itemsize)
    pad = -bitmap % _GRAIN
    most = len(slots) * (NUMBER_BYTES + bitmap + 8 * words.shape[1] + hidden.shape[1] + pad)
    out = np.empty(most, np.uint8)  # pages that are not written take no memory
    ends = np.zeros(len(slots) + 1, np.int64)
    _pack(words, slots, hidden, number, pad, out, ends)
    return out[: ends[-1]], ends


def unpack(
    rows: npt.NDArray[np.void],
    slots: npt.NDArray[np.int64],
    data: npt.NDArray[np.uint8],
    at: npt.NDArray[np.int64],
    size: npt.NDArray[np.int32],
) -> npt.NDArray[np.int64]:
    """Writes n values into the rows of their slots; returns where (n,) the hidden state of each begins.

    It is -1 for a value that ends before its row does.
    """
    hidden_at = np.empty(len(slots), np.int64)
    _unpack(_words(rows), slots, data, *contiguous(at, size), hidden_at)
    return hidden_at


def _words(rows: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    return rows.view(np.uint64).reshape(len(rows), rows.dtype.itemsize // 8)


@jit
def _pack(words, slots, hidden, number, pad, out, ends):  # type: ignore[no-untyped-def]
    width = words.shape[1]
    hidden_, target = pointer_to(hidden), pointer_to(out)
    at = 0
    for i in range(len(slots)):
        row = words[slots[i]]
        out[at] = number & 255
        out[at + 1] = number >> 8
        at += 2
        bitmap = at
        at += (width + 7) // 8
        for b in range(bitmap, at):
            out[b] = 0
        for w in range(width):
            word = row[w]
            if word != 0:
                out[bitmap + w // 8] |= np.uint8(1 << (w % 8))
                store64(target, at, word)
                at += 8
        at = copy_bytes(hidden_, i * hidden.shape[1], hidden.shape[1], target, at)
        for _ in range(pad):
            out[at] = 0
            at += 1
        ends[i + 1] = at


@jit
def _unpack(words, slots, data, at, size, hidden_at):  # type: ignore[no-untyped-def]
    width = words.shape[1]
    bitmap_bytes = (width + 7) // 8
    source = pointer_to(data)
    for i in range(len(slots)):
        start = at[i]
        place = start + bitmap_bytes
        end = start + size[i]
        hidden_at[i] = -1
        if place > end:
            continue
        row = words[slots[i]]
        whole = True
        for w in range(width):
            if data[start + w // 8] & (1 << (w % 8)):
                if place + 8 > end:
                    whole = False
                    break
                row[w] = load64(source, place)
                place += 8
            else:
                row[w] = 0
        if whole:
            hidden_at[i] = place


@jit
def gather(data, at, size, out):  # type: ignore[no-untyped-def]
    """Copies n pieces of `size` bytes into the rows of `out` (n, size)."""
    source, target = pointer_to(data), pointer_to(out)
    for i in range(len(at)):
        copy_bytes(source, at[i], size, target, i * size)
