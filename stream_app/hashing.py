"""XXH64 for compiled code: the hash under which names and users are found, and which the state keeps.

Source: the XXH64 algorithm of the xxHash specification (version 0.1.1); compared with the `xxhash` package in the
tests.
"""

import llvmlite.ir
import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)

jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@intrinsic
def load64(typingctx, data, at):  # type: ignore[no-untyped-def]
    """Eight bytes of a uint8 array from position `at`, little-endian, however they are aligned."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        array = context.make_array(signature.args[0])(context, builder, args[0])
        where = cgutils.gep(builder, array.data, args[1])
        wide = builder.bitcast(where, llvmlite.ir.IntType(64).as_pointer())
        return builder.load(wide, align=1)

    return types.uint64(data, types.intp), codegen


@intrinsic
def load32(typingctx, data, at):  # type: ignore[no-untyped-def]
    """Four bytes, as `load64`."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        array = context.make_array(signature.args[0])(context, builder, args[0])
        where = cgutils.gep(builder, array.data, args[1])
        wide = builder.bitcast(where, llvmlite.ir.IntType(32).as_pointer())
        return builder.zext(builder.load(wide, align=1), llvmlite.ir.IntType(64))

    return types.uint64(data, types.intp), codegen


@intrinsic
def store64(typingctx, data, at, word):  # type: ignore[no-untyped-def]
    """Writes eight bytes to a uint8 array at position `at`, little-endian, however they are aligned."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        array = context.make_array(signature.args[0])(context, builder, args[0])
        where = cgutils.gep(builder, array.data, args[1])
        wide = builder.bitcast(where, llvmlite.ir.IntType(64).as_pointer())
        builder.store(args[2], wide, align=1)
        return context.get_dummy_value()

    return types.void(data, types.intp, types.uint64), codegen


@jit
def _rotate(x, n):  # type: ignore[no-untyped-def]
    return (x << np.uint64(n)) | (x >> np.uint64(64 - n))


@jit
def _round(lane, word):  # type: ignore[no-untyped-def]
    lane += word * _P2
    return _rotate(lane, 31) * _P1


@jit
def _merge(h, lane):  # type: ignore[no-untyped-def]
    return (h ^ _round(np.uint64(0), lane)) * _P1 + _P4


@jit
def xxh64(data, at, size):  # type: ignore[no-untyped-def]
    """XXH64 with seed 0 of `size` bytes of a uint8 array from `at`."""
    end = at + size
    if size >= 32:
        a, b, c, d = _P1 + _P2, _P2, np.uint64(0), np.uint64(0) - _P1
        while at + 32 <= end:
            a = _round(a, load64(data, at))
            b = _round(b, load64(data, at + 8))
            c = _round(c, load64(data, at + 16))
            d = _round(d, load64(data, at + 24))
            at += 32
        h = _rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)
        h = _merge(_merge(_merge(_merge(h, a), b), c), d)
    else:
        h = _P5
    h += np.uint64(size)
    while at + 8 <= end:
        h ^= _round(np.uint64(0), load64(data, at))
        h = _rotate(h, 27) * _P1 + _P4
        at += 8
    if at + 4 <= end:
        h ^= load32(data, at) * _P1
        h = _rotate(h, 23) * _P2 + _P3
        at += 4
    while at < end:
        h ^= np.uint64(data[at]) * _P5
        h = _rotate(h, 11) * _P1
        at += 1
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))


@jit
def same_bytes(a, a_at, b, b_at, size):  # type: ignore[no-untyped-def]
    """Whether `size` bytes of two uint8 arrays are equal."""
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
    """Copies bytes from one uint8 array to another; returns the position behind them."""
    for i in range(size):
        out[out_at + i] = source[at + i]
    return out_at + size
