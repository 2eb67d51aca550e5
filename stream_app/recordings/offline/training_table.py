"""Makes the training table of a recording: every event with the features that the worker computes."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from model.training.api import Interactions
from stream_app.contract.outputs import REASON_HEADER
from stream_app.decoding.name_table import NameTable
from stream_app.processing.micro_batch import Outputs
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.recordings.errors import RecordingMismatchError
from stream_app.recordings.offline.drive import ReadProgress, drive, partitions_of
from stream_app.recordings.recording import RecordingReader
from stream_app.settings import Settings
from stream_app.state.apply_events import LATE


class _Growing(dict[str, int]):
    """Numbers names in the order of their first use."""

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self)
        return number


class Recorded(msgspec.Struct, frozen=True):
    """The training table of a recording, and counts of the records that are not in it."""

    events: Interactions
    skipped: dict[str, int]  # records that are not in the table, by reason: duplicate, malformed ...
    late: npt.NDArray[np.bool_]  # (events,) events that were too late to count in their windows

    def until(self, ts: int) -> "Recorded":
        """Return the same without events at time `ts` (ms) or later, which are counted as skipped (`after_until`)."""
        kept = self.events.ts < ts
        left_out = int((~kept).sum())
        return Recorded(self.events.take(kept), self.skipped | {"after_until": left_out}, self.late[kept])


def interactions(path: Path, settings: Settings, progress: ReadProgress | None = None) -> Interactions:
    """Return only the training table of a recording, see `tabulate`."""
    return tabulate(path, settings, progress).events


def tabulate(path: Path, settings: Settings, progress: ReadProgress | None = None) -> Recorded:
    """Return the training table of a recording: every valid event with the features that the worker computes.

    The kernel that serves live traffic computes the window features and gaps, so training and serving cannot
    differ. Raises RecordingMismatchError if no event is valid.
    """
    reader = RecordingReader(path)
    items, categories = _Growing(), _Growing()
    names = NameTable(items.__getitem__, -1), NameTable(categories.__getitem__, -1)
    # All users stay in memory, even if they are spread unevenly over the partitions: only a worker forgets users
    # for lack of room.
    partitions, records = partitions_of(reader), max(1, reader.count())
    unbounded = msgspec.structs.replace(settings, resident_users=records * partitions, model=None)
    processor = ShopProcessor(unbounded, partitions=partitions, names=names, publish=False, slots=records)
    users: dict[str, int] = {}
    parts: list[tuple[np.ndarray, ...]] = []
    skipped: Counter[str] = Counter()
    for output in drive(processor, reader, progress):
        skipped.update(_reasons(processor.dead_letters()))
        if output is not None:
            skipped.update(duplicate=output.duplicates, already_applied=output.already_applied)
        for batch in output.batches if output else ():
            number = [users.setdefault(user, len(users)) for user in batch.events.user.tolist()]
            d = batch.events.data
            parts.append(
                (
                    np.array(number, np.int64),
                    d["ts"].copy(),
                    d["event_type"].astype(np.int8),
                    d["item"].astype(np.int64),
                    d["category"].astype(np.int64),
                    d["price"].copy(),
                    d["quantity"].copy(),
                    batch.applied["gap_s"].copy(),
                    batch.features,
                    batch.applied["status"] == LATE,
                )
            )
    if not parts:
        raise RecordingMismatchError(f"{path} holds no good event{_listed(+skipped)}")
    columns: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    late = columns.pop()
    table = Interactions(*columns, items=list(items), categories=list(categories))  # type: ignore[misc]
    return Recorded(table, dict(sorted((+skipped).items())), late)


def _reasons(dead: Outputs) -> Iterator[str]:
    """Yield the reason of each dead letter."""
    for messages in dead.values():
        for _, _, headers in messages:
            yield dict(headers)[REASON_HEADER].decode()  # only the processor sets this header


def _listed(skipped: Counter[str]) -> str:
    return (
        f" ({', '.join(f'{count:,} {reason}' for reason, count in skipped.most_common())})" if skipped else ""
    )
