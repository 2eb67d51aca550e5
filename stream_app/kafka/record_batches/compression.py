"""Decompresses record batches piece by piece, so that no batch needs more memory than one piece.

zstd compresses 600 MB of zeros to 20 kB, so the expanded bytes must never be in memory as a whole. This module
accepts the same streams, with the same ends, as the Java client (Kafka 4.1, `org.apache.kafka.common.compress`),
because the broker stores what that client can read. In particular, gzip, lz4 and snappy ignore bytes after the end,
and several gzip members, zstd frames or snappy streams are read as one.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import cramjam
import xxhash
import zstandard
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError

from stream_app.kafka.record_batches.zstd_frames import frames

#: Bytes of a piece, which a codec returns at once. Blocks of snappy and lz4 come whole: at most some megabytes.
PIECE_BYTES = 128 << 10

_INPUT_STEP = 16 << 10  # input of gzip at once; small because it copies the unused rest
_XERIAL = b"\x82SNAPPY\0"
_XERIAL_BYTES = 16  # includes two version numbers, which are ignored
_SNAPPY_RATIO = 64  # three bytes can make a copy of 64
_LZ4_MAGIC = 0x184D2204
_GZIP_EXTRA, _GZIP_NAME, _GZIP_COMMENT, _GZIP_HEADER_CRC = 4, 8, 16, 2
_ERRORS = (
    cramjam.DecompressionError, zlib.error, zstandard.ZstdError, struct.error, EOFError, ValueError, IndexError,
    MemoryError,
)  # fmt: skip


def pieces(codec: int, body: bytes) -> Iterator[bytes]:
    """Yields the decompressed records of a batch in pieces of at least one byte; `codec` is its number in Kafka.

    Raises UnsupportedCodecError for a codec that Kafka does not have. If the bytes are invalid, yields the pieces
    that can be read and then raises CorruptRecordException.
    """
    decode = _DECODE.get(codec)
    if decode is None:
        raise UnsupportedCodecError(f"Unknown compression codec {codec:#04x}")
    try:
        for piece in decode(body):
            if piece:
                yield piece
    except _ERRORS as error:
        raise CorruptRecordException(f"Invalid compressed records: {error}") from error


def expand(codec: int, body: bytes, limit: int) -> bytes | None:
    """All pieces joined; None if they have more than `limit` bytes or cannot all be read."""
    parts: list[bytes] = []
    size = 0
    try:
        for piece in pieces(codec, body):
            size += len(piece)
            if size > limit:
                return None
            parts.append(piece)
    except (CorruptRecordException, UnsupportedCodecError):
        return None
    return parts[0] if len(parts) == 1 else b"".join(parts)


# --- gzip (RFC 1952), as java.util.zip.GZIPInputStream reads it


def _gzip(body: bytes) -> Iterator[bytes]:
    at = _gzip_header(body, 0)
    while True:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        crc = size = 0
        while not inflate.eof:
            given = inflate.unconsumed_tail or body[at : at + _INPUT_STEP]
            if not inflate.unconsumed_tail:
                at += len(given)
            piece = inflate.decompress(given, PIECE_BYTES)
            if not piece and not given:
                raise EOFError("the gzip stream is cut off")
            crc, size = zlib.crc32(piece, crc), size + len(piece)
            yield piece
        at -= len(inflate.unused_data)
        if struct.unpack_from("<II", body, at) != (crc, size & 0xFFFFFFFF):
            raise ValueError("the checksum of a gzip member is wrong")
        at += 8
        try:
            at = _gzip_header(body, at)
        except (ValueError, IndexError, EOFError, struct.error):
            return  # bytes after the last member are ignored


def _gzip_header(body: bytes, at: int) -> int:
    """The position of a member's deflated bytes. Raises ValueError, IndexError, EOFError or struct.error."""
    start = at
    magic, method, flags = struct.unpack_from("<HBB", body, at)
    if magic != 0x8B1F or method != zlib.DEFLATED:
        raise ValueError("no gzip member")
    at += 10
    if flags & _GZIP_EXTRA:
        at += 2 + struct.unpack_from("<H", body, at)[0]
    for named in (_GZIP_NAME, _GZIP_COMMENT):
        if flags & named:
            at = body.index(0, at) + 1
    if flags & _GZIP_HEADER_CRC:
        if struct.unpack_from("<H", body, at)[0] != zlib.crc32(body[start:at]) & 0xFFFF:
            raise ValueError("the checksum of a gzip header is wrong")
        at += 2
    if at > len(body):
        raise EOFError("a gzip header is cut off")
    return at


# --- zstd, as zstd-jni reads it


def _zstd(body: bytes) -> Iterator[bytes]:
    for start, end, size in frames(body):
        frame = body[start:end] if (start, end) != (0, len(body)) else body
        if 0 < size <= PIECE_BYTES:
            yield zstandard.ZstdDecompressor().decompress(frame)
            continue
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(frame)) as reader:
            while piece := reader.read(PIECE_BYTES):
                yield piece


# --- lz4 frames, as Kafka's own Lz4BlockInputStream reads them


def _lz4(body: bytes) -> Iterator[bytes]:
    magic, flags, block = struct.unpack_from("<IBB", body)
    if magic != _LZ4_MAGIC:
        raise ValueError("no lz4 frame")
    if flags >> 6 != 1 or flags & 3 or block & 0x8F or block >> 4 < 4:
        raise ValueError("an lz4 frame of a version that Kafka does not know")
    if not flags & 0x20:
        raise ValueError("the blocks of an lz4 frame depend on each other")
    at = 6 + (8 if flags & 0x08 else 0)
    if xxhash.xxh32_intdigest(body[4:at]) >> 8 & 0xFF != body[at]:
        raise ValueError("the checksum of an lz4 header is wrong")
    at += 1
    largest = 1 << 8 + 2 * (block >> 4)
    room = bytearray()
    while True:
        (size,) = struct.unpack_from("<I", body, at)
        at += 4
        stored, size = size >> 31, size & 0x7FFFFFFF
        if not size:
            return  # the checksum of all blocks and everything after it are ignored
        if size > largest or size > len(body) - at:
            raise EOFError("an lz4 block is too long or cut off")
        piece = body[at : at + size]
        at += size
        if flags & 0x10:
            if struct.unpack_from("<I", body, at)[0] != xxhash.xxh32_intdigest(piece):
                raise ValueError("the checksum of an lz4 block is wrong")
            at += 4
        if stored:
            yield piece
            continue
        room = room or bytearray(largest)
        filled = cramjam.lz4.decompress_block_into(piece, room, output_len=largest)
        yield bytes(memoryview(room)[:filled])


# --- snappy: one block, or several blocks with their lengths (the format of the xerial library, used by Java clients)


def _snappy_block(block: bytes) -> bytes:
    size = cramjam.snappy.decompress_raw_len(block)
    if size > _SNAPPY_RATIO * len(block):
        raise ValueError("a snappy block says that it is longer than it can be")
    return bytes(cramjam.snappy.decompress_raw(block))


def _snappy(body: bytes) -> Iterator[bytes]:
    if len(body) < _XERIAL_BYTES or not body.startswith(_XERIAL):
        yield _snappy_block(body)
        return
    at = _XERIAL_BYTES
    while len(body) - at >= 4:
        (size,) = struct.unpack_from(">i", body, at)
        if body[at : at + 4] == _XERIAL[:4]:  # another stream
            if len(body) - at < _XERIAL_BYTES:
                raise EOFError("a snappy header is cut off")
            if not body.startswith(_XERIAL, at):
                return
            at += _XERIAL_BYTES
            continue
        at += 4
        if not 0 <= size <= len(body) - at:
            raise EOFError("a snappy block is cut off")
        yield _snappy_block(body[at : at + size])
        at += size


_DECODE: dict[int, Callable[[bytes], Iterator[bytes]]] = {1: _gzip, 2: _snappy, 3: _lz4, 4: _zstd}
