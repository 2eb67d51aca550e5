"""XXH64 for compiled code: the hash under which names and users are found, and which the state keeps.

Source: the XXH64 algorithm of the xxHash specification (version 0.1.1); compared with the `xxhash` package in the
tests.
"""

import numpy as np

from stream_app.pointer import jit, load32, load64

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)


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
    """XXH64 with seed 0 of `size` bytes from position `at` of a pointer."""
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
