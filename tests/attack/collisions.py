"""Printable names whose XXH64 an attacker chose: as `tests.stream_app.crafted`, compiled, since few are printable."""

import numpy as np
import numpy.typing as npt

from stream_app.pointer import jit
from tests.stream_app.crafted import _P1, _P2, _P3, _P4, _P5, _inverse

_P1_INVERSE, _P2_INVERSE, _P3_INVERSE = (np.uint64(_inverse(p)) for p in (_P1, _P2, _P3))
_P1_, _P2_, _P4_, _START = (np.uint64(p) for p in (_P1, _P2, _P4, (_P5 + 16) % 2**64))


def crafted(n: int, low: int, high: int) -> list[bytes]:
    """`n` names of sixteen printable bytes that need no escape in JSON.

    Their XXH64 ends with the 24 bits of `low`. Above these stands `high`, or where that is 0 another number for each.
    """
    names = np.zeros((n, 16), np.uint8)
    _fill(names, np.uint64(low), np.uint64(high))
    return [name.tobytes() for name in names]


@jit
def _rotate(x, n):  # type: ignore[no-untyped-def]
    return (x << np.uint64(n)) | (x >> np.uint64(64 - n))


@jit
def _word(first, wanted):  # type: ignore[no-untyped-def]
    """The second half of a name whose first half is given and whose hash shall be `wanted`."""
    h = (wanted ^ (wanted >> np.uint64(32))) * _P3_INVERSE
    h = (h ^ (h >> np.uint64(29)) ^ (h >> np.uint64(58))) * _P2_INVERSE
    h ^= h >> np.uint64(33)
    h = _rotate((h - _P4_) * _P1_INVERSE, 64 - 27)
    before = _START ^ (_rotate(first * _P2_, 31) * _P1_)
    before = _rotate(before, 27) * _P1_ + _P4_
    return _rotate((h ^ before) * _P1_INVERSE, 64 - 31) * _P2_INVERSE


@jit
def _fill(names: npt.NDArray[np.uint8], low, high):  # type: ignore[no-untyped-def]
    found = 0
    count = np.uint64(0)
    while found < len(names):
        count += np.uint64(1)
        first = np.uint64(0)
        for i in range(8):  # in base 32, as letters
            letter = (count >> np.uint64(5 * i)) & np.uint64(31)
            first |= (letter + np.uint64(64)) << np.uint64(8 * i)
        upper = high if high else np.uint64(found + 1)
        word = _word(first, (upper << np.uint64(24)) | low)
        good = True
        for i in range(16):
            source = first if i < 8 else word
            byte = (source >> np.uint64(8 * (i % 8))) & np.uint64(255)
            names[found, i] = byte
            # "[" and "]" are fine, quotation mark and backslash are not.
            good &= 32 < byte < 127 and byte != 34 and byte != 92
        if good:
            found += 1
