"""Bytes of an array without its bookkeeping, for small functions inside a kernel.

Each call that takes an array counts a reference up and down, atomically: some 10 ns, which is more than reading a
varint takes. A pointer costs nothing. It checks no bounds and takes no negative index, and is good for as long as
the kernel that made it holds the array.
"""

from typing import Any

from numba import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic


@intrinsic
def pointer_to(_: Any, array: types.Array) -> tuple[Signature, Any]:
    """A pointer to the first element of a contiguous array."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), code
