"""Names that an attacker makes: XXH64 with its public seed takes any value one wants.

The last eight bytes of a key of sixteen go through steps that can all be undone, so for each first half there is a
second half that gives a wanted hash. Source: the XXH64 algorithm of the xxHash specification (version 0.1.1).
"""

from itertools import count

import xxhash

_P1, _P2, _P3, _P4, _P5 = (
    0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
)  # fmt: skip
_ALL = (1 << 64) - 1


def _rotate(x: int, n: int) -> int:
    return ((x << n) | (x >> (64 - n))) & _ALL


def _inverse(p: int) -> int:
    return pow(p, -1, 1 << 64)


def _round(word: int) -> int:
    return _rotate(word * _P2 & _ALL, 31) * _P1 & _ALL


def _undo_shift(x: int, n: int) -> int:
    """Undoes `x ^ (x >> n)`."""
    found = x
    for _ in range(64 // n + 1):
        found = x ^ (found >> n)
    return found


def with_hash(first: bytes, wanted: int) -> bytes:
    """A key of sixteen bytes that begins with `first` (eight bytes) and whose XXH64 is `wanted`."""
    h = _undo_shift(wanted, 32) * _inverse(_P3) & _ALL
    h = _undo_shift(h, 29) * _inverse(_P2) & _ALL
    h = _undo_shift(h, 33)
    h = _rotate((h - _P4) * _inverse(_P1) & _ALL, 64 - 27)
    before = (_P5 + 16) & _ALL
    before = (_rotate(before ^ _round(int.from_bytes(first, "little")), 27) * _P1 + _P4) & _ALL
    word = _rotate((h ^ before) * _inverse(_P1) & _ALL, 64 - 31) * _inverse(_P2) & _ALL
    key = first + word.to_bytes(8, "little")
    assert xxhash.xxh64_intdigest(key) == wanted
    return key


def colliding(n: int, wanted: int = 0x0123456789ABCDE0) -> list[bytes]:
    """`n` different keys of sixteen bytes with one XXH64."""
    return [with_hash(i.to_bytes(8, "big"), wanted) for i in range(n)]


def colliding_names(n: int, wanted: int = 0x0123456789ABCDE0) -> list[str]:
    """`n` different names of sixteen letters, digits and signs with one XXH64: one try in 3000 gives one."""
    found: list[str] = []
    tries = count()
    while len(found) < n:
        key = with_hash(b"%08x" % next(tries), wanted)
        if key.isascii() and (name := key.decode()).isprintable() and not set(name) & set('"\\'):
            found.append(name)
    return found
