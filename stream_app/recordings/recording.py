"""Writer and reader of recordings (`*.stream`); `file_format` defines the bytes."""

import errno
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec
import xxhash
import zstandard

from stream_app.contract.records import Record
from stream_app.recordings import file_format as layout
from stream_app.recordings.errors import (
    BrokenRecordingError,
    DamagedRecording,
    NotARecordingError,
    RecordingError,
    TruncatedRecording,
)

#: Uncompressed bytes after which a block is written: enough to compress well, few enough for readers that follow.
BLOCK_BYTES = 512 * 1024
#: Largest uncompressed block that a reader accepts; the last record of a block may be large.
MAX_BLOCK_BYTES = 64 << 20
#: Most records in a block that a reader accepts. The smallest record has 9 bytes, so writers stay at half of this.
MAX_BLOCK_RECORDS = 1 << 17
#: Most partitions per topic in a head; Kafka clusters have fewer.
MAX_PARTITIONS = 100_000

#: Errors that bytes with a valid checksum can cause if another program wrote them.
_BODY_ERRORS = (
    zstandard.ZstdError,
    msgspec.MsgspecError,
    UnicodeDecodeError,  # msgspec does not convert this error
    RecursionError,
    MemoryError,  # caused by an impossible length
)

_ZSTD_LEVEL = 1  # 3 saves 6 % of the bytes and takes twice the time


class RecordingWriter:
    """Writes a recording. As a context manager, it ends the file if the body raises no error.

    A body that raises leaves a file without an end mark, which a reader reports as truncated.

    Raises `RecordingError` if the file cannot be written (folder missing, disk full) and for a record of a
    topic or partition that `topics` does not name.
    """

    def __init__(
        self, path: Path, topics: Mapping[str, int], metadata: Mapping[str, object] | None = None
    ) -> None:
        self.path = Path(path)
        self.topics = dict(topics)
        self.records = 0  # appended so far
        self._buffer = bytearray()
        self._pending = 0  # records in the buffer
        self._whole = 0  # file position after the last complete block
        self._pack = msgspec.msgpack.Encoder()
        self._compress = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
        try:
            self._file = self.path.open("wb", buffering=0)
        except OSError as error:
            raise RecordingError(f"cannot write {self.path}: {error.strerror}") from error
        self._write(layout.head(self.topics, dict(metadata or {})))

    def append(self, record: Record) -> None:
        """Add one record; it is in the file after the next complete block or `flush`."""
        if not 0 <= record.partition < self.topics.get(record.topic, 0):
            raise RecordingError(
                f"{self.path} was opened for {self.topics}, so it cannot take a record of "
                f"topic {record.topic!r}, partition {record.partition}"
            )
        before = len(self._buffer)
        try:
            self._pack.encode_into(record, self._buffer, -1)
        except BaseException:
            del self._buffer[before:]
            raise
        self._pending += 1
        self.records += 1
        if len(self._buffer) >= BLOCK_BYTES:
            self.flush()

    def extend(self, records: Iterable[Record]) -> None:
        """Add records in order."""
        append = self.append
        for record in records:
            append(record)

    def flush(self) -> None:
        """Write the pending records as a block, so that readers can see them."""
        if not self._pending:
            return
        # NOTE: an array header of 32 bits in front of the frames makes the block one msgpack value.
        body = self._compress.compress(b"\xdd" + struct.pack(">I", self._pending) + self._buffer)
        self._write(layout.block(layout.BLK, body, self._pending))
        self._buffer.clear()
        self._pending = 0

    def close(self) -> None:
        """Write the pending records and the end mark, and close the file."""
        if self._file.closed:
            return
        try:
            self.flush()
            self._write(layout.block(layout.END, b"", self.records))
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._file.close()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            written = self.records - self._pending
            self._drop_part()
            why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
            raise RecordingError(
                f"cannot go on writing {self.path}: {why}; its first {written} records are whole, "
                "free some space and record again"
            ) from error
        self._whole += len(data)

    def _drop_part(self) -> None:
        """Remove a block that was written only partly; a device cannot be truncated."""
        if self.path.is_file():
            os.ftruncate(self._file.fileno(), self._whole)
        self._file.close()


class RecordingReader:
    """Reads a recording; each iteration starts at the beginning.

    With `strict`, the iteration raises `TruncatedRecording` or `DamagedRecording` after the last good record;
    otherwise it ends there and `broken` has that error. Opening raises `NotARecordingError` for any other
    file, and `TruncatedRecording` if even the head is incomplete.
    """

    def __init__(self, path: Path, strict: bool = True) -> None:
        self.path = Path(path)
        self.strict = strict
        self.broken: BrokenRecordingError | None = None
        self._decode = msgspec.msgpack.Decoder(list[layout.Row])
        self._expand = zstandard.ZstdDecompressor()
        with self._open() as file:
            head = self._read_head(file)
            self._start = file.tell()
        self.topics: dict[str, int] = head.topics
        self.metadata: dict[str, Any] = head.metadata

    def __iter__(self) -> Iterator[Record]:
        for block in self.blocks():
            yield from block

    def blocks(self) -> Iterator[list[Record]]:
        """Yield the records in the blocks in which they were written; the fastest way to read a file."""
        return self._blocks(lambda: False)

    def count(self) -> int:
        """Return the number of records according to the block heads, up to the end or the first broken block."""
        total = 0
        with self._open() as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(self._start)
            while len(head := file.read(layout.BLOCK.size)) == layout.BLOCK.size:
                mark, length, count, _ = layout.BLOCK.unpack(head)
                if mark != layout.BLK or file.seek(length, os.SEEK_CUR) > size:
                    break
                total += count
        return total

    def batches(self, n: int) -> Iterator[list[Record]]:
        """Yield the records in lists of `n`; the last one may be shorter."""
        batch: list[Record] = []
        for block in self.blocks():
            batch += block
            whole = len(batch) - len(batch) % n
            for at in range(0, whole, n):
                yield batch[at : at + n]
            del batch[:whole]
        if batch:
            yield batch

    def follow(
        self, timeout_s: float, poll_s: float = 0.05, sleep: Callable[[float], None] = time.sleep
    ) -> Iterator[Record]:
        """Yield the records of a file that may still grow, up to its end mark or `timeout_s` without a new block."""
        waited = 0.0

        def wait() -> bool:
            nonlocal waited
            if waited >= timeout_s:
                return False
            sleep(poll_s)
            waited += poll_s
            return True

        for block in self._blocks(wait):
            waited = 0.0
            yield from block

    def _blocks(self, wait: Callable[[], bool]) -> Iterator[list[Record]]:
        """Yield blocks up to the end mark. If the file stops before it, `wait` decides whether to try again."""
        self.broken = None
        good = 0
        with self._open() as file:
            file.seek(self._start)
            while True:
                place = file.tell()
                try:
                    block = self._read_block(file, good)
                except TruncatedRecording as error:
                    if wait():
                        file.seek(place)
                        continue
                    self.broken = error
                except DamagedRecording as error:
                    self.broken = error
                if self.broken is not None:
                    if self.strict:
                        raise self.broken
                    return
                if block is None:
                    return
                good += len(block)
                yield block

    def _read_block(self, file: BinaryIO, good: int) -> list[Record] | None:
        """Return the next block, or None at the end mark."""
        head = file.read(layout.BLOCK.size)
        if len(head) < layout.BLOCK.size:
            raise TruncatedRecording(self.path, "is cut off or still being written", good)
        mark, length, count, checksum = layout.BLOCK.unpack(head)
        if mark not in (layout.BLK, layout.END):
            raise DamagedRecording(self.path, "is damaged (no block where one must start)", good)
        if length > os.fstat(file.fileno()).st_size - file.tell():
            raise TruncatedRecording(self.path, "is cut off or still being written", good)
        body = file.read(length)
        if layout.checksum(mark, body, count) != checksum:
            raise DamagedRecording(self.path, "is damaged (a checksum does not fit)", good)
        if mark == layout.END:
            if count != good or file.read(1):
                raise DamagedRecording(self.path, "is damaged (its end mark is not at its end)", good)
            return None
        try:
            if zstandard.frame_content_size(body) > MAX_BLOCK_BYTES:
                raise zstandard.ZstdError(f"more than {MAX_BLOCK_BYTES} bytes")
            unpacked = self._expand.decompress(body)
            # Checked before any record is decoded, because a few kB can claim to be millions of records.
            if count > MAX_BLOCK_RECORDS or unpacked[:5] != b"\xdd" + struct.pack(">I", count):
                raise zstandard.ZstdError(
                    f"not the {count} records of its head, or more than {MAX_BLOCK_RECORDS}"
                )
            rows = self._decode.decode(unpacked)
        except _BODY_ERRORS as error:
            raise DamagedRecording(
                self.path, f"holds a block that is not of this format ({error})", good
            ) from error
        if len(rows) != count:
            raise DamagedRecording(self.path, "holds a block of another length than its head says", good)
        return list(map(Record._make, rows))

    def _read_head(self, file: BinaryIO) -> layout.Head:
        raw = file.read(layout.HEAD.size)
        if not raw or not layout.MAGIC.startswith(raw[: len(layout.MAGIC)]):
            raise NotARecordingError(
                f"{self.path} is not a recording; make one with generate, import or record"
            )
        if len(raw) < layout.HEAD.size:
            raise TruncatedRecording(self.path, "is cut off in its head", 0)
        _, version, length, checksum = layout.HEAD.unpack(raw)
        if version != layout.VERSION:
            raise NotARecordingError(
                f"{self.path} is of version {version}, this program reads version {layout.VERSION}; update it"
            )
        if length > os.fstat(file.fileno()).st_size - file.tell():
            raise TruncatedRecording(self.path, "is cut off in its head", 0)
        body = file.read(length)
        if xxhash.xxh3_64_intdigest(body) != checksum:
            raise DamagedRecording(self.path, "is damaged in its head", 0)
        try:
            found = msgspec.msgpack.decode(body, type=layout.Head)
        except _BODY_ERRORS as error:
            raise DamagedRecording(
                self.path, f"has a head that is not of this format ({error})", 0
            ) from error
        for topic, partitions in found.topics.items():
            if not 0 <= partitions <= MAX_PARTITIONS:
                raise DamagedRecording(
                    self.path, f"names {partitions} partitions of topic {topic!r} in its head", 0
                )
        return found

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise RecordingError(f"cannot read {self.path}: {error.strerror}") from error
