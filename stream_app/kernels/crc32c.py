"""CRC-32C, the checksum of record batches, for use inside other kernels.

It processes sixteen bytes per step with tables ("slicing"). Source: Kounavis and Berry, "A Systematic Approach to
Building High Performance Software-based CRC Generators" (2005). It runs without the GIL, inside the caller's kernel.
"""

import numpy as np
import numpy.typing as npt

from stream_app.kernels.jit import jit

_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed
_STEP = 16


def _tables() -> npt.NDArray[np.uint32]:
    """(16, 256): the effect of a byte on the checksum when 0 to 15 further bytes follow it."""
    tables = np.zeros((_STEP, 256), np.uint32)
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        tables[0, byte] = crc
    for i in range(1, _STEP):
        tables[i] = tables[0][tables[i - 1] & 0xFF] ^ tables[i - 1] >> np.uint32(8)
    return tables


_TABLES = _tables()
_ALL = np.uint32(0xFFFFFFFF)
_BYTE = np.uint32(0xFF)
_8, _16, _24 = np.uint32(8), np.uint32(16), np.uint32(24)


@jit
def crc32c(data, at, end):  # type: ignore[no-untyped-def]
    """Checksum (uint32) of the bytes from `at` to `end`; `data` is a pointer to uint8."""
    crc = _ALL
    while end - at >= _STEP:
        low = np.uint32(data[at]) | np.uint32(data[at + 1]) << _8
        low |= np.uint32(data[at + 2]) << _16 | np.uint32(data[at + 3]) << _24
        low ^= crc
        crc = _TABLES[15, low & _BYTE] ^ _TABLES[14, low >> _8 & _BYTE]
        crc ^= _TABLES[13, low >> _16 & _BYTE] ^ _TABLES[12, low >> _24]
        for k in range(4, _STEP):
            crc ^= _TABLES[_STEP - 1 - k, data[at + k]]
        at += _STEP
    while at < end:
        crc = _TABLES[0, (crc ^ np.uint32(data[at])) & _BYTE] ^ crc >> _8
        at += 1
    return crc ^ _ALL
