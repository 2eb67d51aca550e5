"""Second hashes of item names, which distinguish names whose public hashes are equal.

They are 32 bits of SipHash-1-3 with a key that only this process knows, so nobody can construct names for which both
hashes are equal. These hashes stay in the process: after a restart the checks of earlier events are unknown.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stream_app.kernels.hashing import Key, random_key, siphash13
from stream_app.kernels.jit import jit
from stream_app.kernels.memory import pointer_to

#: The check if there is no item, or if its check is not known.
UNKNOWN_CHECK = 0

#: One key for all decoders of the process, since their events end up in the same rows. Compiled code gets it as an
#: argument, because numba would write a global into its cache on disk.
KEY: Key = random_key()


@jit
def check(data, at, size, k0, k1):  # type: ignore[no-untyped-def]
    """The check of a name of `size` bytes at position `at` of a pointer, never UNKNOWN_CHECK."""
    found = siphash13(data, at, size, k0, k1) & np.uint64(0xFFFFFFFF)
    return found if found != UNKNOWN_CHECK else np.uint64(1)


def checks_of(names: Sequence[str | int | None], key: Key = KEY) -> npt.NDArray[np.uint64]:
    """The checks (n,) of the names; an integer counts as its decimal string."""
    texts = [b"" if name is None else str(name).encode() for name in names]
    sizes = np.array([len(text) for text in texts], np.int64)
    found = np.full(len(texts), UNKNOWN_CHECK, np.uint64)
    _check_all(np.frombuffer(bytearray(b"".join(texts)), np.uint8), sizes, *key, found)
    return found


@jit
def _check_all(text, sizes, k0, k1, out):  # type: ignore[no-untyped-def]
    data = pointer_to(text)
    at = 0
    for i in range(len(sizes)):
        if sizes[i] > 0:
            out[i] = check(data, at, sizes[i], k0, k1)
        at += sizes[i]
