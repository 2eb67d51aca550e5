"""Finds where the frames of a zstd stream begin and end (RFC 8878, section 3.1), without decompressing them.

This is needed because the reader of the `zstandard` package does not say whether the last frame was complete.
"""

from collections.abc import Iterator

import zstandard

_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = 0x184D2A5  # a skippable frame's magic number without its last four bits
_RLE, _RESERVED = 1, 3
#: Bytes that zstd-jni reads at once, `ZSTD_DStreamInSize()`.
_INPUT_BYTES = 131_075


def frames(body: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields start, end and uncompressed size (0 if unknown) of each frame with data, in order.

    A frame that is cut off is yielded too, and then EOFError is raised. As in zstd-jni, it is not an error if another
    frame ended within the same block of input. Raises ValueError or ZstdError if the bytes after a frame are not a
    frame.
    """
    at = ended = 0
    while at < len(body):
        start, end = at, _frame_end(body, at)
        if end is None:
            if body.startswith(_MAGIC, start) and len(body) - start > len(_MAGIC) + 14:
                yield start, len(body), 0
            last_input = (len(body) - 1) // _INPUT_BYTES * _INPUT_BYTES
            if ended <= last_input:
                raise EOFError("the zstd frame is cut off")
            return
        if body.startswith(_MAGIC, start):
            size = zstandard.frame_content_size(body[start : start + 18])
            yield start, end, max(size, 0)
        at = ended = end


def _frame_end(body: bytes, at: int) -> int | None:
    """The end of the frame at `at`, None if it is cut off. Raises ValueError if there is no frame."""
    if len(body) - at < 4:
        return None
    if int.from_bytes(body[at : at + 4], "little") >> 4 == _SKIPPABLE:
        end = at + 8 + int.from_bytes(body[at + 4 : at + 8], "little")
        return end if len(body) - at >= 8 and end <= len(body) else None
    if not body.startswith(_MAGIC, at):
        raise ValueError("no zstd frame")
    if len(body) - at < 5:
        return None
    descriptor = body[at + 4]
    single = descriptor >> 5 & 1
    content = (single, 2, 4, 8)[descriptor >> 6]
    at += 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3] + content
    while True:
        if len(body) - at < 3:
            return None
        block = body[at] | body[at + 1] << 8 | body[at + 2] << 16
        block_type = block >> 1 & 3
        if block_type == _RESERVED:
            raise ValueError("a zstd block of no known type")
        at += 3 + (1 if block_type == _RLE else block >> 3)
        if block & 1:
            break
    at += 4 * (descriptor >> 2 & 1)  # a checksum
    return at if at <= len(body) else None
