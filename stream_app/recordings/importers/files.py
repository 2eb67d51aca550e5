"""Readers of files with one value per line or row: JSON lines, CSV and Parquet."""

import csv
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from stream_app.recordings.errors import ImportFailed
from stream_app.recordings.importers.lines import Source

_DELIMITERS = ",;\t|"
_SURROGATE = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of bytes that are not UTF-8
#: How many lines of a CSV file may be read again, beside as many as it has: a made-up file could need that for ever.
_MOST_REREAD = 1_000_000
#: What Arrow raises for a value without a Python object.
_NO_OBJECT = (OverflowError, ValueError, KeyError)
_ROWS = 10_000  # rows of a Parquet file that become Python objects at a time


class Unreadable(NamedTuple):
    """A line that has no value."""

    why: str


def _json_values(source: Source, path: Path) -> Iterator[tuple[int, Any]]:
    """Yield line numbers and values."""
    decode = msgspec.json.Decoder().decode
    for number, line in source.read(path):
        try:
            yield number, decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            yield number, Unreadable(f"the line is not valid JSON ({error})")


def _csv_values(source: Source, path: Path) -> Iterator[tuple[int, Any]]:
    """Yield line numbers and rows as objects of text, by the names in the first line; an empty cell is absent.

    Source of the format: RFC 4180, with the delimiters , ; tab and | as well.
    """
    lines = _Lines(source.raw_lines(path))
    names, delimiter = _columns(next(lines, ""), path)
    table = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.of_row.clear()
        try:
            row = next(table, None)
        except csv.Error as error:
            lines.back_to_second()
            if lines.reread > _MOST_REREAD + lines.number:
                raise ImportFailed(f"{path} has too many quotes that do not close") from error
            source.lines += 1
            yield lines.number, Unreadable(f"the line is not CSV ({_reason(error)})")
            continue
        if row is None:
            return
        if not row:  # an empty line
            continue
        source.lines += 1
        yield lines.number, _row(names, row)


class _Lines:
    """The lines of a CSV file as text; those after a quote that never closes can be read again."""

    def __init__(self, raw: Iterator[bytes]) -> None:
        self.number = 0
        self.reread = 0
        self.of_row: list[str] = []
        self._raw, self._again = raw, deque[str]()

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._raw).decode("utf-8", "surrogateescape")
        self.number += 1
        self.of_row.append(line)
        return line

    def back_to_second(self) -> None:
        """Go back to the second line of the row."""
        again = self.of_row[1:]
        self._again.extendleft(reversed(again))
        self.number -= len(again)
        self.reread += len(again)


def _columns(head: str, path: Path) -> tuple[list[str], str]:
    """The names in the first line, and the delimiter."""
    if not head.strip():
        raise ImportFailed(
            f"{path} begins with an empty line: a CSV file begins with the names of its columns"
        )
    if "\0" in head or _SURROGATE.search(head):
        raise ImportFailed(f"the first line of {path} is not text in UTF-8")
    delimiter = max(_DELIMITERS, key=head.count)
    try:
        names = next(csv.reader([head], delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise ImportFailed(f"the first line of {path} is not CSV ({_reason(error)})") from error
    _check_names(names, path)
    return names, delimiter


def _reason(error: csv.Error) -> str:
    why = str(error).partition(" - ")[0]
    return "a quote does not close" if why == "unexpected end of data" else why


def _check_names(names: list[str], path: Path) -> None:
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise ImportFailed(f"{path} has several columns of the name {twice[0]!r}")


def _row(names: list[str], row: list[str]) -> dict[str, str] | Unreadable:
    if len(row) != len(names):
        return Unreadable(f"the line has {len(row)} columns, the first one has {len(names)}")
    if any(_SURROGATE.search(cell) for cell in row):
        return Unreadable("the line is not text in UTF-8")
    return dict(zip(names, row, strict=True))


def _parquet_values(source: Source, path: Path) -> Iterator[tuple[int, Any]]:
    """Yield row numbers from 1 and rows as objects; a date or a timestamp is text in ISO 8601.

    Raises ImportFailed if the package pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ImportFailed("parquet needs the package pyarrow: pip install 'foreclick[parquet]'") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            _check_names(file.schema_arrow.names, path)
            for batch in file.iter_batches(_ROWS):
                table = pyarrow.Table.from_batches([batch])
                # Python has microseconds; nanoseconds of a file are cut. A cast of other units may overflow silently.
                schema = pyarrow.schema(
                    [field.with_type(_coarse(pyarrow, field.type)) for field in table.schema]
                )
                for row in _objects(table.cast(schema, safe=False)):
                    number += 1
                    source.lines += 1
                    yield number, _plain(row)
                source.on_progress(source.lines)
    except (OSError, pyarrow.ArrowException) as error:
        raise ImportFailed(f"cannot read {path} as Parquet: {error}") from error


def _coarse(pyarrow: Any, type_: Any) -> Any:
    nanoseconds = pyarrow.types.is_timestamp(type_) and type_.unit == "ns"
    return pyarrow.timestamp("us", type_.tz) if nanoseconds else type_


def _objects(table: Any) -> list[dict[str, Any] | Unreadable]:
    """The rows of a table of Arrow; a row with a value that Python cannot hold has none."""
    try:
        rows: list[dict[str, Any] | Unreadable] = table.to_pylist()
    except _NO_OBJECT:
        if len(table) > 1:
            return [row for n in range(len(table)) for row in _objects(table.slice(n, 1))]
        return [Unreadable("the row has a time out of range, an unknown time zone or text that is not UTF-8")]
    return rows


def _plain(value: Any) -> Any:
    """A value of Arrow as JSON has it."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        if value and isinstance(value[0], tuple):  # a map
            return {_plain(name): _plain(each) for name, each in value}
        return [_plain(each) for each in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return _text_of(value)
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


def _text_of(value: bytes) -> str | bytes:
    """Text that a column without a type of text holds, as some writers make it."""
    try:
        return value.decode()
    except ValueError:
        return value


#: By format: yields the numbers of lines and their values.
READERS: Mapping[str, Callable[[Source, Path], Iterator[tuple[int, Any]]]] = {
    "jsonl": _json_values,
    "csv": _csv_values,
    "parquet": _parquet_values,
}
