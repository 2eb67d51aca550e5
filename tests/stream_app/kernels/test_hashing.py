"""The compiled hashes, compared with the reference library and with CPython."""

import base64
import os
import subprocess
import sys

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.kernels.hashing import siphash13, siphash13_word, xxh64
from stream_app.kernels.jit import jit
from stream_app.kernels.memory import copy_bytes, pointer_to, same_bytes


@jit
def hashed(data, at, size):  # type: ignore[no-untyped-def]
    return xxh64(pointer_to(data), at, size)


@jit
def sipped(data, at, size, k0, k1):  # type: ignore[no-untyped-def]
    return siphash13(pointer_to(data), at, size, k0, k1)


@jit
def same(a, a_at, b, b_at, size):  # type: ignore[no-untyped-def]
    return same_bytes(pointer_to(a), a_at, pointer_to(b), b_at, size)


@jit
def copied(source, at, size, out, out_at):  # type: ignore[no-untyped-def]
    return copy_bytes(pointer_to(source), at, size, pointer_to(out), out_at)


@given(st.binary(max_size=200), st.integers(0, 9))
@settings(deadline=None)
def test_xxh64_is_that_of_the_reference(data: bytes, before: int) -> None:
    """The same 64 bits as the `xxhash` package, wherever the bytes are in memory."""
    buffer = np.frombuffer(bytes(before) + data + b"behind", np.uint8)
    assert int(hashed(buffer, before, len(data))) == xxhash.xxh64_intdigest(data)


@pytest.mark.skipif(sys.hash_info.algorithm != "siphash13", reason="this Python hashes bytes in another way")
def test_siphash_is_that_of_cpython() -> None:
    """The same 64 bits as CPython's `hash` of bytes, keyed by PYTHONHASHSEED=0 (Python/bootstrap_hash.c)."""
    keys = [bytes(range(1, n + 1)) for n in range(1, 40)]
    code = f"print(*(hash(key) for key in {keys!r}))"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    zero = np.uint64(0)
    for key, expected in zip(keys, map(int, run.stdout.split()), strict=True):
        buffer = np.frombuffer(b"before" + key + b"behind", np.uint8)
        assert int(sipped(buffer, 6, len(key), zero, zero)) == expected % 2**64


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
@settings(deadline=None)
def test_siphash_of_a_word(word: int, k0: int, k1: int) -> None:
    """The short form equals the long one on the word's eight bytes, under any key."""
    key = np.uint64(k0), np.uint64(k1)
    buffer = np.frombuffer(word.to_bytes(8, "little"), np.uint8)
    assert siphash13_word(np.uint64(word), *key) == sipped(buffer, 0, 8, *key)


@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(0, 9))
@settings(deadline=None)
def test_same_bytes(a: bytes, b: bytes, shift: int) -> None:
    """Equal only if the bytes are equal; one changed byte is noticed at any place."""
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
    """Exactly the requested bytes are copied, and nothing around them changes."""
    out = np.full(60, 255, np.uint8)
    assert copied(
        np.frombuffer(bytes(before) + data + bytes(8), np.uint8), before, len(data), out, place
    ) == place + len(data)
    assert out.tobytes() == b"\xff" * place + data + b"\xff" * (60 - place - len(data))


def test_hash_of_names_is_the_published_one() -> None:
    """State refers to items by XXH3-64, so the value must never change (XXH3 specification)."""
    assert xxhash.xxh3_64_intdigest(b"") == 0x2D06800538D394C2
    assert base64.b64encode(xxhash.xxh3_64_digest(b"item")) == base64.b64encode(
        xxhash.xxh3_64_intdigest(b"item").to_bytes(8, "big")
    )
