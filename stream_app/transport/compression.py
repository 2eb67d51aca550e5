"""Decompression of record batches, bounded: what expands without measure is refused before it fills the memory.

zstd makes 20 kB of 600 MB of zeros, so a single damaged or hostile batch could end a worker that trusts it.
"""

import struct
import zlib
from collections.abc import Callable

import cramjam
import zstandard
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError

#: Largest size of a batch's records uncompressed. Producers make batches of at most some megabytes.
MAX_BYTES = 256 << 20

_ZSTD_STEP = 4096  # expands to at most 1,024 blocks of 128 KiB
_XERIAL = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)
_ERRORS = (cramjam.DecompressionError, zlib.error, zstandard.ZstdError, EOFError, ValueError, MemoryError)


def decompress(kind: int, body: bytes) -> bytes:
    """The records of a batch whose attributes name the codec `kind`.

    Raises UnsupportedCodecError for a codec that Kafka does not have, and CorruptRecordException where the bytes are
    none of the codec's or expand beyond MAX_BYTES.
    """
    decode = _DECODE.get(kind)
    if decode is None:
        raise UnsupportedCodecError(f"Unknown compression codec {kind:#04x}")
    try:
        return decode(body)
    except _ERRORS as error:
        raise CorruptRecordException(f"Invalid compressed records: {error}") from error


def _checked(size: int) -> int:
    if size > MAX_BYTES:
        raise ValueError(f"they expand beyond {MAX_BYTES} bytes")
    return size


def _gzip(body: bytes) -> bytes:
    """All members of a gzip stream (RFC 1952); zeros may follow, as for Python's own reader."""
    parts: list[bytes] = []
    left = MAX_BYTES
    while body:
        stream = zlib.decompressobj(31)
        parts.append(stream.decompress(body, left + 1))
        left = MAX_BYTES - _checked(MAX_BYTES - left + len(parts[-1]))
        if not stream.eof:
            raise EOFError("the gzip stream is cut off")
        body = stream.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _zstd(body: bytes) -> bytes:
    """All frames of a zstd stream."""
    parts: list[bytes] = []
    size = 0
    while body:
        stream = zstandard.ZstdDecompressor().decompressobj()
        for at in range(0, len(body), _ZSTD_STEP):
            parts.append(stream.decompress(body[at : at + _ZSTD_STEP]))
            size = _checked(size + len(parts[-1]))
            if stream.eof:
                body = stream.unused_data + body[at + _ZSTD_STEP :]
                break
        else:
            raise EOFError("the zstd frame is cut off")
    return b"".join(parts)


def _lz4(body: bytes) -> bytes:
    # A byte makes at most 255, so the size of a fetch is bound enough to begin with it.
    expanded = bytes(cramjam.lz4.decompress(body))
    _checked(len(expanded))
    return expanded


def _snappy_block(block: bytes) -> bytes:
    _checked(cramjam.snappy.decompress_raw_len(block))
    return bytes(cramjam.snappy.decompress_raw(block))


def _snappy(body: bytes) -> bytes:
    """One block, or several each behind its length: the form of the xerial library, which Java clients use."""
    if len(body) <= len(_XERIAL) or not body.startswith(_XERIAL):
        return _snappy_block(body)
    parts: list[bytes] = []
    size = 0
    at = len(_XERIAL)
    while at < len(body):
        end = at + 4 + int.from_bytes(body[at : at + 4])
        if end > len(body):
            raise EOFError("a snappy block is cut off")
        parts.append(_snappy_block(body[at + 4 : end]))
        size = _checked(size + len(parts[-1]))
        at = end
    return b"".join(parts)


_DECODE: dict[int, Callable[[bytes], bytes]] = {1: _gzip, 2: _snappy, 3: _lz4, 4: _zstd}
