"""Lines of text in, rows out, and a note of each line that could not be read."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from stream_app.errors import ForeclickError
from stream_app.events import MAX_ID_BYTES, MAX_TS_MS

_EXAMPLES = 5


class ImportFailed(ForeclickError):  # noqa: N818 - reads as what happened
    """The files cannot be read, or are not of the format that was named."""


class Row(NamedTuple):
    """An event on its way to a recording."""

    ts: int  #: Unix ms
    topic: str
    key: bytes
    value: bytes


class Source:
    """The files of an import: their lines, how far the reading is, what was bad."""

    def __init__(self, paths: list[Path], on_progress: Callable[[int], None] = lambda _: None) -> None:
        self.paths = paths
        self.lines = 0
        self.bad = 0
        self.examples: list[str] = []  # of the first bad lines: file, line number, what is wrong
        self._on_progress = on_progress
        self._bytes = 0

    @property
    def size(self) -> int:
        """Bytes of all files; raises `ImportFailed` for one that cannot be read."""
        try:
            return sum(path.stat().st_size for path in self.paths)
        except OSError as error:
            raise ImportFailed(f"cannot read {error.filename}: {error.strerror}") from error

    def read(self, path: Path) -> Iterator[tuple[int, bytes]]:
        """Numbers from 1 and lines without their ends; empty ones are passed over."""
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    self._bytes += len(line)
                    if not number % 10_000:
                        self._on_progress(self._bytes)
                    text = line.rstrip(b"\r\n")
                    if text:
                        self.lines += 1
                        yield number, text
        except OSError as error:
            raise ImportFailed(f"cannot read {path}: {error.strerror}") from error
        self._on_progress(self._bytes)

    def skip(self, path: Path, number: int, why: object) -> None:
        """Note a bad line."""
        self.bad += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{path.name}, line {number}: {why}")


def number_id(raw: bytes, name: str) -> bytes:
    """The digits of an id, safe inside JSON quotes; `ValueError` for anything else."""
    if not raw.isdigit() or len(raw) > MAX_ID_BYTES:
        raise ValueError(f"{name} must be a number, not {shown(raw)}")
    return raw


def in_range(ts: int) -> int:
    """The time where the contract allows it, else `ValueError`."""
    if not 0 <= ts <= MAX_TS_MS:
        raise ValueError(f"the time lies outside the years 1970 to 9999: {ts} ms")
    return ts


def shown(raw: bytes) -> str:
    """A piece of a line as a message can hold it."""
    return repr(raw[:40].decode("utf-8", "replace"))
