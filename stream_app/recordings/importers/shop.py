"""Files of a shop's own events, as its shop file maps them: JSON lines and CSV."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from stream_app.contract.events import MAX_VALUE_BYTES, encode_json
from stream_app.contract.mapping import TopicMapping
from stream_app.contract.records import EVENT_TYPES, INPUT_TOPICS
from stream_app.decoding.mapped import Invalid, Skipped, map_value
from stream_app.recordings.errors import ImportFailed
from stream_app.recordings.importers.lines import Row, Source

#: The formats of files that a shop file applies to.
SHOP_FORMATS = ("jsonl", "csv")
#: How many types and reasons a summary names.
_MOST_SHOWN = 10
_DELIMITERS = ",;\t|"
_SURROGATE = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of bytes that are not UTF-8
_TOPIC_OF = dict(zip(EVENT_TYPES, INPUT_TOPICS, strict=True))


class ShopRows:
    """The events of files, and what was skipped: by the shop's name of the type, and by the reason."""

    def __init__(self, format_name: str, mapping: TopicMapping, keep: int = 0) -> None:
        """`keep`: how many events to keep as they were read, for a person to look at."""
        self.skipped: Counter[str] = Counter()  #: events whose type the shop file does not use
        self.reasons: Counter[str] = Counter()  #: lines that are not events, by what is wrong
        self.events: Counter[str] = Counter()  #: by event type
        self.first: list[
            dict[str, Any]
        ] = []  #: the first events: their type, and the fields that have a value
        self._format, self._mapping, self._keep = format_name, mapping, keep

    def rows(self, source: Source) -> Iterator[Row]:
        """Yield the events of all files, in the order of their lines. Raises ImportFailed for an unreadable file."""
        values = _json_values if self._format == "jsonl" else _csv_values
        for path in source.paths:
            for number, value in values(source, path):
                yield from self._events(source, path, number, value)

    def summary(self) -> list[str]:
        """What was read and what was not, one line for each."""
        events = ", ".join(f"{n:,} {name}" for name, n in self.events.most_common()) or "none"
        parts = [f"events: {events}"]
        if self.skipped:
            parts.append(f"types that are not used: {_listed(self.skipped)}")
        if self.reasons:
            parts.append(f"not events: {_listed(self.reasons)}")
        return parts

    def _events(self, source: Source, path: Path, number: int, value: Any) -> Iterator[Row]:
        if isinstance(value, _Unreadable):
            self._bad(source, path, number, value.why)
            return
        for found in map_value(value, self._mapping):
            if isinstance(found, Invalid):
                problem = found.problem
                which = f"event {found.line + 1} of the line: " if found.line else ""
                self._bad(source, path, number, f"{problem.got}, expected {problem.expected}", which)
            elif isinstance(found, Skipped):
                self.skipped[found.name] += 1
            else:
                body = encode_json(found.event)
                if len(body) > MAX_VALUE_BYTES:
                    self._bad(source, path, number, f"the event has more than {MAX_VALUE_BYTES} bytes")
                    continue
                self.events[found.event_type] += 1
                if len(self.first) < self._keep:
                    fields = msgspec.structs.asdict(found.event)
                    given = {name: value for name, value in fields.items() if value is not None}
                    self.first.append({"type": found.event_type, **given})
                yield Row(found.event.ts, _TOPIC_OF[found.event_type], found.event.user_id.encode(), body)

    def _bad(self, source: Source, path: Path, number: int, why: str, which: str = "") -> None:
        self.reasons[why] += 1
        source.skip(path, number, which + why)


def _listed(counts: Counter[str]) -> str:
    shown = ", ".join(f"{n:,} x {name or 'without a name'}" for name, n in counts.most_common(_MOST_SHOWN))
    return shown + (f", and {len(counts) - _MOST_SHOWN} more" if len(counts) > _MOST_SHOWN else "")


class _Unreadable(NamedTuple):
    why: str


def _json_values(source: Source, path: Path) -> Iterator[tuple[int, Any]]:
    """Yield line numbers and values."""
    decode = msgspec.json.Decoder().decode
    for number, line in source.read(path):
        try:
            yield number, decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            yield number, _Unreadable(f"the line is not valid JSON ({error})")


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
            yield table.line_num + 1, _Unreadable(f"the line is not CSV ({error})")
            continue
        if row is None:
            return
        if not row:  # an empty line
            continue
        source.lines += 1
        yield table.line_num + 1, _row(names, row)


def _row(names: list[str], row: list[str]) -> dict[str, str] | _Unreadable:
    if len(row) != len(names):
        return _Unreadable(f"the line has {len(row)} columns, the first one has {len(names)}")
    if any(_SURROGATE.search(cell) for cell in row):
        return _Unreadable("the line is not text in UTF-8")
    return dict(zip(names, row, strict=True))
