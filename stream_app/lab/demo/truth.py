"""What is known about the live traffic in advance, to check the worker's answers against."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.lab.generator import Label
from stream_app.lab.generator.trouble import FAULTS

#: Kinds of planted records; `planted` has indexes into this list.
PLANTED = ("", "bot", "fraud")


class _Body(msgspec.Struct):
    user_id: str
    event_id: str | None = None
    item_id: str | None = None


class Truth:
    """Each record of the live traffic is a row: R rows in the order of topic, partition and offset."""

    def __init__(self, records: Iterable[Record], labels: Iterable[Label], partitions: int) -> None:
        rows = sorted(records, key=lambda r: (INPUT_TOPICS.index(r.topic), r.partition, r.offset))
        n = len(rows)
        place = np.array([self._place(r.topic, r.partition, partitions) for r in rows], np.int64)
        self._partitions = partitions
        # A partition's offsets begin at zero and have no gaps, so a row's number is its offset plus a start.
        self._count = np.bincount(place, minlength=len(INPUT_TOPICS) * partitions)
        self._start = np.cumsum(self._count) - self._count
        planted = {"bot": 1, "fraud": 2}
        self.planted = np.zeros(n, np.int8)  # (R,) index into PLANTED
        self.duplicate = np.zeros(n, np.bool_)  # (R,)
        self.reasons: Counter[str] = Counter()  #: malformed records by the reason code they must get
        self.late = 0
        self.malformed = malformed = np.zeros(n, np.bool_)  # (R,)
        self.labelled = False  #: whether anything was planted, so that what was found can be judged
        for label in labels:
            self.labelled = True
            row = self.row(label.topic, label.partition, label.offset)
            if row < 0:
                raise ValueError(f"a label for a record that does not exist: {label}")
            if label.kind == "malformed":
                malformed[row] = True
                self.reasons[FAULTS[str(label.detail)]] += 1
            elif label.kind == "late":
                self.late += 1
            elif label.kind in planted:
                self.planted[row] = planted[label.kind]
        times = [r.timestamp for r in rows]
        self.span_ms = max(times, default=0) - min(times, default=0)  #: from first to last record
        self.users: list[str] = []
        self.items: list[str] = []
        self.user = np.full(n, -1, np.int32)  # (R,) index into `users`
        self.item = np.full(n, -1, np.int32)  # (R,) index into `items`, -1 for none
        self._name(rows, malformed)
        self.good = ~malformed & ~self.duplicate  # (R,) records that must have exactly one answer

    def __len__(self) -> int:
        return len(self.good)

    def row(self, topic: str, partition: int, offset: int) -> int:
        """Return the row of a record, -1 if there is none."""
        if topic not in INPUT_TOPICS or not 0 <= partition < self._partitions:
            return -1
        place = self._place(topic, partition, self._partitions)
        return int(self._start[place]) + offset if 0 <= offset < self._count[place] else -1

    def row_of_id(self, output_id: str) -> int:
        """Return the row of an output's source record, which its id names; -1 if there is none."""
        parts = output_id.rsplit("-", 2)
        if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
            return -1
        return self.row(parts[0], int(parts[1]), int(parts[2]))

    def users_of(self, kind: str, seen: npt.NDArray[np.bool_]) -> set[str]:
        """Users with at least one record in `seen` (R,) in which `kind` was planted."""
        rows = (self.planted == PLANTED.index(kind)) & seen & (self.user >= 0)
        return {self.users[i] for i in np.unique(self.user[rows]).tolist()}

    @staticmethod
    def _place(topic: str, partition: int, partitions: int) -> int:
        return INPUT_TOPICS.index(topic) * partitions + partition

    def _name(self, rows: list[Record], malformed: npt.NDArray[np.bool_]) -> None:
        """Number users and items, and mark the duplicates of an earlier record of this traffic."""
        json, packed = msgspec.json.Decoder(_Body), msgspec.msgpack.Decoder(_Body)
        users: dict[str, int] = {}
        items: dict[str, int] = {}
        ids: set[str] = set()
        for i in np.flatnonzero(~malformed).tolist():
            value = rows[i].value or b""
            body: Any = (json if value[:1] == b"{" else packed).decode(value)
            # A duplicate comes after its original in the same partition. If the original is older than this traffic,
            # the worker has not seen it, so the duplicate counts as new.
            if body.event_id is not None:
                self.duplicate[i] = body.event_id in ids
                ids.add(body.event_id)
            self.user[i] = users.setdefault(body.user_id, len(users))
            if body.item_id is not None:
                self.item[i] = items.setdefault(body.item_id, len(items))
        self.users, self.items = list(users), list(items)
