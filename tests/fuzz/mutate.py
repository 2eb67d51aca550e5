"""Damage to bytes, as by a broken disk, a cut connection or an attacker."""

import random

#: Bytes with a meaning in JSON, msgpack, varints or text.
TELLING = bytes([0, 1, 0x1F, 0x20, 0x22, 0x2C, 0x2D, 0x2E, 0x30, 0x39, 0x3A, 0x45, 0x5B, 0x5C, 0x5D, 0x65,
                 0x7B, 0x7D, 0x7F, 0x80, 0x81, 0x8F, 0x90, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xC4, 0xC6, 0xCA,
                 0xCB, 0xCF, 0xD3, 0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xE0, 0xED, 0xF0, 0xF4, 0xF5, 0xFE,
                 0xFF])  # fmt: skip


def mutate(data: bytes, draw: random.Random, other: bytes = b"") -> bytes:
    """Return the bytes with one change: a bit, a byte, a cut, or a piece removed, doubled, filled, or from `other`"""
    n = len(data)
    if not n:
        return TELLING[: draw.randrange(4)]
    at = draw.randrange(n)
    what = draw.randrange(9)
    if what == 0:
        return b"%b%c%b" % (data[:at], data[at] ^ (1 << draw.randrange(8)), data[at + 1 :])
    if what == 1:
        return b"%b%c%b" % (data[:at], TELLING[draw.randrange(len(TELLING))], data[at + 1 :])
    if what == 2:
        return b"%b%c%b" % (data[:at], TELLING[draw.randrange(len(TELLING))], data[at:])
    if what == 3:
        return data[:at]
    size = draw.randrange(1, 9)
    if what == 4:
        return data[:at] + data[at + size :]
    if what == 5:
        return data[: at + size] + data[at:]
    if what == 6:
        return data[:at] + draw.randbytes(size) + data[at + size :]
    if what == 7:
        return data[:at] + b"\xff" * size + data[at + size :]
    other = other or data
    start = draw.randrange(len(other))
    return data[:at] + other[start : start + draw.randrange(1, 60)] + data[at + draw.randrange(60) :]
