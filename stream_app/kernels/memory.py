"""Pointers into arrays, for small functions inside a kernel.

Each call that takes an array increments and decrements a reference count atomically. This takes about 10 ns, more
than reading a varint. A pointer costs nothing. It checks no bounds, takes no negative index, and is valid as long as
the kernel that made it holds the array.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from stream_app.kernels.jit import jit


def contiguous(*columns: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """Columns of records as contiguous arrays.

    A column of a structured array is contiguous for one record and strided for several. numba sees two types there,
    and would compile a kernel twice.
    """
    return tuple(np.ascontiguousarray(column) for column in columns)


@intrinsic
def pointer_to(_: Any, array: types.Array) -> tuple[Signature, Any]:
    """A pointer to the first element of a contiguous array."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), code


def _place(builder: Any, pointer: Any, at: Any, bits: int) -> Any:
    return builder.bitcast(cgutils.gep(builder, pointer, at), ir.IntType(bits).as_pointer())


@intrinsic
def load64(_: Any, data: types.CPointer, at: types.Integer) -> tuple[Signature, Any]:
    """Reads eight bytes at position `at`, little-endian, with any alignment."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_place(builder, args[0], args[1], 64), align=1)

    return types.uint64(data, types.intp), code


@intrinsic
def load32(_: Any, data: types.CPointer, at: types.Integer) -> tuple[Signature, Any]:
    """Reads four bytes, as `load64`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = builder.load(_place(builder, args[0], args[1], 32), align=1)
        return builder.zext(word, ir.IntType(64))

    return types.uint64(data, types.intp), code


@intrinsic
def store64(_: Any, data: types.CPointer, at: types.Integer, word: types.Integer) -> tuple[Signature, Any]:
    """Writes eight bytes to position `at`, little-endian, with any alignment."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _place(builder, args[0], args[1], 64), align=1)
        return context.get_dummy_value()

    return types.void(data, types.intp, types.uint64), code


@jit
def same_bytes(a, a_at, b, b_at, size):  # type: ignore[no-untyped-def]
    """Whether `size` bytes are equal."""
    i = 0
    while i + 8 <= size:
        if load64(a, a_at + i) != load64(b, b_at + i):
            return False
        i += 8
    while i < size:
        if a[a_at + i] != b[b_at + i]:
            return False
        i += 1
    return True


@jit
def copy_bytes(source, at, size, out, out_at):  # type: ignore[no-untyped-def]
    """Copies `size` bytes to a place that does not overlap; returns the position after them."""
    i = 0
    while i + 8 <= size:
        store64(out, out_at + i, load64(source, at + i))
        i += 8
    while i < size:
        out[out_at + i] = source[at + i]
        i += 1
    return out_at + size
