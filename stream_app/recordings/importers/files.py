"""Readers of files with one value per line or row: JSON lines, CSV and Parquet."""

import csv
import re
from collections import Counter
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
    lines = (line.decode("utf-8", "surrogateescape") for line in source.raw_lines(path))
    head = next(lines, "")
    if not head.strip():
        raise ImportFailed(
            f"{path} begins with an empty line: a CSV file begins with the names of its columns"
        )
    delimiter = max(_DELIMITERS, key=head.count)
    names = next(csv.reader([head], delimiter=delimiter))
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise ImportFailed(f"{path} has several columns of the name {twice[0]}")
    table = csv.reader(lines, delimiter=delimiter)
    while True:
        try:
            row = next(table, None)
        except csv.Error as error:
            source.lines += 1
            yield table.line_num + 1, Unreadable(f"the line is not CSV ({error})")
            continue
        if row is None:
            return
        if not row:  # an empty line
            continue
        source.lines += 1
        yield table.line_num + 1, _row(names, row)


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
            for batch in file.iter_batches(_ROWS):
                table = pyarrow.Table.from_batches([batch])
                # Python's times have microseconds; nanoseconds of a file are cut.
                schema = pyarrow.schema(
                    [field.with_type(_coarse(pyarrow, field.type)) for field in table.schema]
                )
                for row in table.cast(schema, safe=False).to_pylist():
                    number += 1
                    source.lines += 1
                    yield number, _plain(row)
                source.on_progress(source.lines)
    except (OSError, pyarrow.ArrowException) as error:
        raise ImportFailed(f"cannot read {path} as Parquet: {error}") from error


def _coarse(pyarrow: Any, type_: Any) -> Any:
    return pyarrow.timestamp("us", type_.tz) if pyarrow.types.is_timestamp(type_) else type_


def _plain(value: Any) -> Any:
    """A value of Arrow as JSON has it."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


#: By format: yields the numbers of lines and their values.
READERS: Mapping[str, Callable[[Source, Path], Iterator[tuple[int, Any]]]] = {
    "jsonl": _json_values,
    "csv": _csv_values,
    "parquet": _parquet_values,
}
