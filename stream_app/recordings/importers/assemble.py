"""Writes the rows of an importer to a recording: sorted by time, in Kafka's partitions, with offsets from 0."""

import heapq
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np

from stream_app.contract.partitioner import partitions_of
from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.contract.times import Spread
from stream_app.recordings.errors import ImportFailed
from stream_app.recordings.importers import complete_journey, taobao, yoochoose
from stream_app.recordings.importers.lines import Row, Source
from stream_app.recordings.importers.shop import SHOP_FORMATS, ShopRows
from stream_app.recordings.output_paths import path_text
from stream_app.recordings.recording import RecordingReader, RecordingWriter

#: The function that converts a line to an event, by the name of the format.
FORMATS: Mapping[str, Callable[[bytes], Row]] = {"taobao": taobao.row, "yoochoose": yoochoose.row}
#: Modules for data sets from an installed package: the function `rows` of each returns all events.
PACKAGES: Mapping[str, ModuleType] = {"complete-journey": complete_journey}

#: Rows sorted in memory; more are sorted in pieces of this size and merged from disk.
SORT_ROWS = 500_000
_WRITE_ROWS = 10_000
_PROGRESS_ROWS = 10_000


class ImportStats(msgspec.Struct, frozen=True):
    """The result of an import."""

    recording: str
    records: int
    topics: dict[str, int]  #: number of records per topic
    bad_lines: int
    examples: list[str]  #: for the first bad lines: file, line number, what is wrong
    first_ms: int  #: Unix ms of the first event
    last_ms: int
    warnings: list[str] = []


def import_files(
    format_name: str,
    files: Sequence[Path],
    out: Path,
    *,
    partitions: int = 4,
    on_progress: Callable[[int], None] = lambda _: None,
    sort_rows: int = SORT_ROWS,
    shop: ShopRows | None = None,
) -> ImportStats:
    """Write the events of all files to the recording `out`, in the order of their times.

    Events of the same time keep the order of files and lines. A record's timestamp is the event's time, its
    key is the user. `on_progress` gets the bytes read so far. Bad lines are counted and never end the import. A
    format of `PACKAGES` takes no files; then `on_progress` gets the number of events so far. `shop`: the mapping of
    a format of `SHOP_FORMATS`, which also holds afterwards what was skipped.

    Raises `ImportFailed` for an unknown format, an unreadable file, files without a single good line, or a package
    that is not installed, and `RecordingError` if `out` cannot be written.
    """
    check_source(format_name, files)
    if partitions < 1:
        raise ImportFailed(f"a topic needs at least one partition, not {partitions}")
    source = Source(list(files), on_progress)
    if shop is not None:
        rows = shop.rows(source)
    elif format_name in PACKAGES:
        rows = _counted(PACKAGES[format_name].rows(), source)
    else:
        row_of = FORMATS[format_name]
        rows = chain.from_iterable(source.rows(path, row_of) for path in source.paths)
    topics = dict.fromkeys(INPUT_TOPICS, 0)
    names = [path_text(Path(path.name)) for path in source.paths]
    with tempfile.TemporaryDirectory(prefix=".import-", dir=_folder(out)) as spill:
        ordered = _by_time(rows, Path(spill), sort_rows)
        # A line of a shop may be several events, so that its bad ones say nothing about the lines.
        if source.lines == source.bad if shop is None else not (shop.events or shop.skipped):
            why = f"; {source.examples[0]}" if source.examples else ""
            raise ImportFailed(
                f"{', '.join(names)}: none of {source.lines} lines is of format {format_name}{why}"
            )
        if shop is not None and not shop.events:
            raise ImportFailed(f"{', '.join(names)}: no line is an event: {'; '.join(shop.summary())}")
        metadata = {"made_by": "import", "format": format_name, "files": names}
        spread = Spread()
        with RecordingWriter(out, dict.fromkeys(INPUT_TOPICS, partitions), metadata) as writer:
            for batch in records_of(ordered, partitions):
                writer.extend(batch)
                spread.add(np.array([record.timestamp for record in batch], np.int64))
                for record in batch:
                    topics[record.topic] += 1
    far = spread.far_off()
    return ImportStats(
        path_text(out), sum(topics.values()), topics, source.bad, source.examples, spread.first_ms or 0,
        spread.last_ms or 0, [] if far is None else [far],
    )  # fmt: skip


def check_source(format_name: str, files: Sequence[Path]) -> None:
    """Raise `ImportFailed` for an unknown format, for files that the format does not take, if files are missing, and
    for a package that is not installed.
    """
    known = (*SHOP_FORMATS, *FORMATS, *PACKAGES)
    if format_name not in known:
        raise ImportFailed(f"there is no format {format_name!r}: take one of {', '.join(known)}")
    if format_name in PACKAGES and files:
        raise ImportFailed(f"{format_name} is read from an installed package: leave {files[0]} out")
    if format_name not in PACKAGES and not files:
        raise ImportFailed(f"{format_name} needs files: name those of the data set")
    if format_name in PACKAGES:
        PACKAGES[format_name].require()


def _counted(rows: Iterator[Row], source: Source) -> Iterator[Row]:
    for row in rows:
        source.lines += 1
        if not source.lines % _PROGRESS_ROWS:
            source.on_progress(source.lines)
        yield row


def _folder(out: Path) -> Path:
    """A temporary folder for the pieces of a large import: beside the result, where there must be room anyway."""
    if not out.parent.is_dir():
        raise ImportFailed(f"there is no folder {out.parent}: make it first")
    return out.parent


def _by_time(rows: Iterator[Row], folder: Path, sort_rows: int) -> Iterable[Row]:
    """Yield all rows in the order of time, stable; reads `rows` to its end first."""
    pieces: list[Iterable[Row]] = []
    while piece := list(islice(rows, sort_rows)):
        piece.sort(key=attrgetter("ts"))
        if len(piece) < sort_rows and not pieces:
            return piece
        path = folder / f"{len(pieces)}.stream"
        with RecordingWriter(path, dict.fromkeys(INPUT_TOPICS, 1)) as writer:
            writer.extend(Record(row.topic, 0, 0, row.ts, row.key, row.value) for row in piece)
        pieces.append(_read_piece(path))
    return heapq.merge(*pieces, key=attrgetter("ts"))


def _read_piece(path: Path) -> Iterator[Row]:
    for record in RecordingReader(path):
        yield Row(record.timestamp, record.topic, record.key or b"", record.value or b"")


def records_of(rows: Iterable[Row], partitions: int) -> Iterator[list[Record]]:
    """Yield the rows as records in their partitions, with offsets from 0, some thousand at a time."""
    rows = iter(rows)
    offsets = {topic: [0] * partitions for topic in INPUT_TOPICS}
    while batch := list(islice(rows, _WRITE_ROWS)):
        records = []
        places = partitions_of([row.key for row in batch], partitions).tolist()
        for (ts, topic, key, value), place in zip(batch, places, strict=True):
            of_topic = offsets[topic]
            records.append(Record(topic, place, of_topic[place], ts, key, value))
            of_topic[place] += 1
        yield records
