"""Single-precision functions for numba kernels that LLVM turns into SIMD code.

`math.exp` in a kernel calls the C library once per number. These functions are plain arithmetic, so LLVM can
vectorise a loop that calls them.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from model.kernels.jit import jit

_F = np.float32
_LOG2_E = np.float32(1.4426950408889634)
_LN_2 = np.float32(0.6931471805599453)
_LIMIT = np.float32(80.0)  # exp(+-80) and its products with a few hundred terms stay normal float32


@intrinsic
def _float_of_bits(_context: Any, bits: Any) -> Any:
    """Return the float32 that has the bits of an int32."""

    def code(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), code


@intrinsic
def prefetch(_context: Any, address: Any) -> Any:
    """Prefetch the cache line at an address (int64) that will soon be read; there is no other effect."""

    def code(target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        ask = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, keep, data = (ir.Constant(number, value) for value in (0, 3, 1))
        builder.call(ask, [builder.inttoptr(arguments[0], byte), read, keep, data])
        return target.get_dummy_value()

    return types.none(types.int64), code


@jit(inline="always")
def exp(x):  # type: ignore[no-untyped-def]
    """Return exp(x) of a float32 between -80 and 80 (beyond these limits: exp of the limit), relative error below
    5e-7: 2^n times a Taylor polynomial of the remainder."""
    x = max(min(x, _LIMIT), -_LIMIT)
    n = np.int32(np.int32(x * _LOG2_E + _F(128.5)) - np.int32(128))  # to the nearest: the cast truncates
    r = x - _F(n) * _LN_2
    p = _F(1.0 / 120.0) + r * _F(1.0 / 720.0)
    p = _F(1.0 / 6.0) + r * (_F(1.0 / 24.0) + r * p)
    p = _F(1.0) + r * (_F(1.0) + r * (_F(0.5) + r * p))
    return p * _float_of_bits(np.int32((n + np.int32(127)) << np.int32(23)))


@jit(inline="always")
def sigmoid(x):  # type: ignore[no-untyped-def]
    """Return 1 / (1 + exp(-x)) of a float32."""
    return _F(1.0) / (_F(1.0) + exp(-x))


@jit(inline="always")
def tanh(x):  # type: ignore[no-untyped-def]
    """Return tanh(x) of a float32, absolute error about 1e-7."""
    return _F(2.0) / (_F(1.0) + exp(_F(-2.0) * x)) - _F(1.0)
