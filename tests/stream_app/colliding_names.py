"""Names made by an attacker: XXH64 with its public seed can be given any value.

The last eight bytes of a key of sixteen go through steps that can all be inverted, so for each first half there is a
second half with a wanted hash. One in some thousands is printable, so compiled code searches for them.
Source: the XXH64 algorithm of the xxHash specification (version 0.1.1).
"""

import numpy as np
import xxhash

from stream_app.kernels.jit import jit

_PRIMES = (
    0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
)  # fmt: skip
_P1, _P2, _P3, _P4 = map(np.uint64, _PRIMES[:4])
_P1_INVERSE, _P2_INVERSE, _P3_INVERSE = (np.uint64(pow(p, -1, 1 << 64)) for p in _PRIMES[:3])
_START = np.uint64((_PRIMES[4] + 16) % (1 << 64))
#: The last 24 bits of all hashes.
_LOW = 0x345678


def colliding(n: int) -> list[bytes]:
    """Return `n` different keys with the same XXH64, of sixteen printable bytes that need no escape in JSON."""
    return _crafted(n, 0x12345)


def ending_alike(n: int) -> list[bytes]:
    """Like `colliding`, but only the last 24 bits of the hashes are equal."""
    return _crafted(n, 0)


def _crafted(n: int, high: int) -> list[bytes]:
    """Find the keys. `high`: the bits of the hash above the last 24; 0 for different bits in each."""
    keys = np.zeros((n, 16), np.uint8)
    _fill(keys, np.uint64(_LOW), np.uint64(high))
    found = [key.tobytes() for key in keys]
    hashes = {xxhash.xxh64_intdigest(key) for key in found}
    assert len(set(found)) == n and len(hashes) == (1 if high else n)
    assert {h & 0xFFFFFF for h in hashes} == {_LOW}
    return found


@jit
def _rotate(x, n):  # type: ignore[no-untyped-def]
    return (x << np.uint64(n)) | (x >> np.uint64(64 - n))


@jit
def _second_half(first, wanted):  # type: ignore[no-untyped-def]
    h = (wanted ^ (wanted >> np.uint64(32))) * _P3_INVERSE
    h = (h ^ (h >> np.uint64(29)) ^ (h >> np.uint64(58))) * _P2_INVERSE
    h ^= h >> np.uint64(33)
    h = _rotate((h - _P4) * _P1_INVERSE, 64 - 27)
    before = _START ^ (_rotate(first * _P2, 31) * _P1)
    before = _rotate(before, 27) * _P1 + _P4
    return _rotate((h ^ before) * _P1_INVERSE, 64 - 31) * _P2_INVERSE


@jit
def _fill(keys, low, high):  # type: ignore[no-untyped-def]
    found = 0
    count = np.uint64(0)
    while found < len(keys):
        count += np.uint64(1)
        first = np.uint64(0)
        for i in range(8):  # in base 32, as letters
            letter = (count >> np.uint64(5 * i)) & np.uint64(31)
            first |= (letter + np.uint64(64)) << np.uint64(8 * i)
        upper = high if high else np.uint64(found + 1)
        second = _second_half(first, (upper << np.uint64(24)) | low)
        good = True
        for i in range(16):
            half = first if i < 8 else second
            byte = (half >> np.uint64(8 * (i % 8))) & np.uint64(255)
            keys[found, i] = byte
            good &= 32 < byte < 127 and byte != 34 and byte != 92  # neither quotation mark nor backslash
        if good:
            found += 1
