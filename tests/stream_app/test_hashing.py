"""The compiled hash against the reference library."""

import base64

import numpy as np
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.hashing import xxh64
from stream_app.pointer import copy_bytes, jit, pointer_to, same_bytes


@jit
def hashed(data, at, size):  # type: ignore[no-untyped-def]
    return xxh64(pointer_to(data), at, size)


@jit
def same(a, a_at, b, b_at, size):  # type: ignore[no-untyped-def]
    return same_bytes(pointer_to(a), a_at, pointer_to(b), b_at, size)


@jit
def copied(source, at, size, out, out_at):  # type: ignore[no-untyped-def]
    return copy_bytes(pointer_to(source), at, size, pointer_to(out), out_at)


@given(st.binary(max_size=200), st.integers(0, 9))
@settings(deadline=None)
def test_xxh64_is_that_of_the_reference(data: bytes, before: int) -> None:
    """The same 64 bits as the `xxhash` package, wherever the bytes lie in memory."""
    buffer = np.frombuffer(bytes(before) + data + b"behind", np.uint8)
    assert int(hashed(buffer, before, len(data))) == xxhash.xxh64_intdigest(data)


@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(0, 9))
@settings(deadline=None)
def test_same_bytes(a: bytes, b: bytes, shift: int) -> None:
    """Equal where the bytes are equal, and only there; one changed byte is seen at any place."""
    n = min(len(a), len(b))
    left, right = np.frombuffer(bytes(shift) + a, np.uint8), np.frombuffer(b + bytes(1), np.uint8)
    assert same(left, shift, right, 0, n) == (a[:n] == b[:n])
    for i in range(len(a)):
        changed = bytearray(a)
        changed[i] ^= 1
        assert not same(left, shift, np.frombuffer(bytes(changed), np.uint8), 0, len(a))


@given(st.binary(max_size=40), st.integers(0, 9), st.integers(0, 9))
@settings(deadline=None)
def test_copy_bytes(data: bytes, before: int, place: int) -> None:
    """Exactly the bytes asked for arrive, and nothing around them changes."""
    out = np.full(60, 255, np.uint8)
    assert copied(
        np.frombuffer(bytes(before) + data + bytes(8), np.uint8), before, len(data), out, place
    ) == place + len(data)
    assert out.tobytes() == b"\xff" * place + data + b"\xff" * (60 - place - len(data))


def test_hash_of_names_is_the_published_one() -> None:
    """State refers to items by XXH3-64, so the value is fixed for good (XXH3 specification)."""
    assert xxhash.xxh3_64_intdigest(b"") == 0x2D06800538D394C2
    assert base64.b64encode(xxhash.xxh3_64_digest(b"item")) == base64.b64encode(
        xxhash.xxh3_64_intdigest(b"item").to_bytes(8, "big")
    )
