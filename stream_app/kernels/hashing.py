"""Two hashes for compiled code.

XXH64 identifies names in the state, since it is the same in every process and release. Anybody can construct names
with equal hashes, so no hash table depends on it alone.

SipHash-1-3 with a secret key addresses hash tables: without the key nobody can choose names that collide.

Sources: the XXH64 algorithm of the xxHash specification (version 0.1.1); Aumasson and Bernstein, "SipHash: a fast
short-input PRF" (2012), with one round per word and three at the end, as CPython and Rust use it. The tests compare
them with the `xxhash` package and with CPython.
"""

import secrets

import numpy as np

from stream_app.kernels.jit import jit
from stream_app.kernels.memory import load32, load64

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)

Key = tuple[np.uint64, np.uint64]


def random_key() -> Key:
    """A secret key for `siphash13`, for the tables of one process."""
    return np.uint64(secrets.randbits(64)), np.uint64(secrets.randbits(64))


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


@jit
def _sip_round(a, b, c, d):  # type: ignore[no-untyped-def]
    a += b
    c += d
    b = _rotate(b, 13) ^ a
    d = _rotate(d, 16) ^ c
    a = _rotate(a, 32)
    c += b
    a += d
    b = _rotate(b, 17) ^ c
    d = _rotate(d, 21) ^ a
    c = _rotate(c, 32)
    return a, b, c, d


@jit
def _sip_start(k0, k1):  # type: ignore[no-untyped-def]
    return (
        k0 ^ np.uint64(0x736F6D6570736575),
        k1 ^ np.uint64(0x646F72616E646F6D),
        k0 ^ np.uint64(0x6C7967656E657261),
        k1 ^ np.uint64(0x7465646279746573),
    )


@jit
def _sip_word(a, b, c, d, word):  # type: ignore[no-untyped-def]
    a, b, c, d = _sip_round(a, b, c, d ^ word)
    return a ^ word, b, c, d


@jit
def _sip_end(a, b, c, d):  # type: ignore[no-untyped-def]
    c ^= np.uint64(0xFF)
    for _ in range(3):
        a, b, c, d = _sip_round(a, b, c, d)
    return a ^ b ^ c ^ d


@jit
def siphash13(data, at, size, k0, k1):  # type: ignore[no-untyped-def]
    """SipHash-1-3 of `size` bytes from position `at` of a pointer under the key (k0, k1)."""
    a, b, c, d = _sip_start(k0, k1)
    end = at + size
    while at + 8 <= end:
        a, b, c, d = _sip_word(a, b, c, d, load64(data, at))
        at += 8
    last = np.uint64(size) << np.uint64(56)
    shift = np.uint64(0)
    while at < end:
        last |= np.uint64(data[at]) << shift
        shift += np.uint64(8)
        at += 1
    a, b, c, d = _sip_word(a, b, c, d, last)
    return _sip_end(a, b, c, d)


@jit
def siphash13_word(word, k0, k1):  # type: ignore[no-untyped-def]
    """`siphash13` of the eight bytes of a word, little-endian."""
    a, b, c, d = _sip_start(k0, k1)
    a, b, c, d = _sip_word(a, b, c, d, word)
    a, b, c, d = _sip_word(a, b, c, d, np.uint64(8 << 56))
    return _sip_end(a, b, c, d)
