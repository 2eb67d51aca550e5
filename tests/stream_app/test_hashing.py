"""The compiled hash against the reference library."""

import numpy as np
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.hashing import same_bytes, xxh64


@given(st.binary(max_size=200), st.integers(0, 9))
@settings(deadline=None)
def test_xxh64_is_that_of_the_reference(data: bytes, before: int) -> None:
    """The same 64 bits as the `xxhash` package, wherever the bytes lie in memory."""
    buffer = np.frombuffer(bytes(before) + data + b"behind", np.uint8)
    assert int(xxh64(buffer, before, len(data))) == xxhash.xxh64_intdigest(data)


@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(0, 9))
@settings(deadline=None)
def test_same_bytes(a: bytes, b: bytes, shift: int) -> None:
    """Equal where the bytes are equal, and only there; one changed byte is seen at any place."""
    n = min(len(a), len(b))
    left, right = np.frombuffer(bytes(shift) + a, np.uint8), np.frombuffer(b + bytes(1), np.uint8)
    assert same_bytes(left, shift, right, 0, n) == (a[:n] == b[:n])
    for i in range(len(a)):
        changed = bytearray(a)
        changed[i] ^= 1
        assert not same_bytes(left, shift, np.frombuffer(bytes(changed), np.uint8), 0, len(a))
