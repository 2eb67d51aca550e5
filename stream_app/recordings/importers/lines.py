"""Converts lines of text to rows and counts the lines that cannot be read."""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from stream_app.contract.events import MAX_ID_BYTES, MAX_TS_MS, MIN_TS_MS
from stream_app.recordings.errors import ImportFailed
from stream_app.recordings.output_paths import path_text

_EXAMPLES = 5
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
#: A header line: at least three names and no digit. No row of any format looks like this.
_HEADER = re.compile(rb"[A-Za-z_ \"-]+(?:[,;\t][A-Za-z_ \"-]+){2,}")


class Row(NamedTuple):
    """An event before it is written to a recording."""

    ts: int  #: Unix ms
    topic: str
    key: bytes
    value: bytes


class Source:
    """The files of an import: their lines, the progress of reading, and the bad lines."""

    def __init__(self, paths: list[Path], on_progress: Callable[[int], None] = lambda _: None) -> None:
        self.paths = paths
        self.lines = 0
        self.bad = 0
        self.examples: list[str] = []  # for the first bad lines: file, line number, what is wrong
        self.on_progress = on_progress
        self._bytes = 0

    @property
    def size(self) -> int:
        """Return the size of all files in bytes. Raises `ImportFailed` for one that cannot be read."""
        try:
            return sum(path.stat().st_size for path in self.paths)
        except OSError as error:
            raise ImportFailed(f"cannot read {error.filename}: {error.strerror}") from error

    def read(self, path: Path) -> Iterator[tuple[int, bytes]]:
        """Yield line numbers from 1 and lines without their ends; the file may be compressed with gzip.

        Empty lines, a header line and a byte order mark are skipped.
        """
        for number, line in enumerate(self.raw_lines(path), 1):
            text = line.rstrip(b"\r\n")
            if text and not (number == 1 and _HEADER.fullmatch(text)):
                self.lines += 1
                yield number, text

    def raw_lines(self, path: Path) -> Iterator[bytes]:
        """Yield all lines of a file with their ends, without a byte order mark; the caller counts them in `lines`."""
        try:
            with path.open("rb") as raw:
                packed = raw.read(2) == _GZIP
                raw.seek(0)
                for number, line in enumerate(_unpacked(raw, packed), 1):
                    if not number % 10_000:
                        self.on_progress(self._bytes + raw.tell())
                    yield line.removeprefix(_BOM) if number == 1 else line
                self._bytes += raw.tell()
        except (OSError, EOFError, zlib.error) as error:
            raise ImportFailed(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        self.on_progress(self._bytes)

    def rows(self, path: Path, row_of: Callable[[bytes], Row]) -> Iterator[Row]:
        """Yield the events of one file in the order of its lines; bad lines are counted."""
        for number, line in self.read(path):
            try:
                yield row_of(line)
            except ValueError as error:
                self.skip(path, number, error)

    def skip(self, path: Path, number: int, why: object) -> None:
        """Count a bad line."""
        self.bad += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{path_text(Path(path.name))}, line {number}: {why}")


def _unpacked(raw: BinaryIO, packed: bool) -> BinaryIO:
    return gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[return-value]


def number_id(raw: bytes, name: str) -> bytes:
    """Return the digits of an id, which are safe inside JSON quotes. Raises `ValueError` for anything else."""
    if not raw.isdigit() or len(raw) > MAX_ID_BYTES:
        raise ValueError(f"{name} must be a number, not {shown(raw)}")
    return raw


def in_range(ts: int) -> int:
    """Return the time if the contract allows it. Raises `ValueError` otherwise."""
    if not MIN_TS_MS <= ts <= MAX_TS_MS:
        raise ValueError(f"the time lies outside the years 1973 to 9999: {ts} ms")
    return ts


def shown(raw: bytes) -> str:
    """Return part of a line in a form that fits a message."""
    return repr(raw[:40].decode("utf-8", "replace"))
