"""Events as columns: a structured array, and a buffer with the ids that outputs repeat as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_app.kernels.jit import jit
from stream_app.kernels.memory import copy_bytes, pointer_to

#: The numeric columns of one event. One index operation moves a structured array, and numba can read it.
EVENT = np.dtype(
    [
        ("offset", "i8"),  # in its topic partition
        ("timestamp", "i8"),  # Unix ms, the record's Kafka timestamp
        ("ts", "i8"),  # Unix ms, the event's own time according to its sender
        ("time", "i8"),  # Unix ms, `ts`, or the time at which the record was first stored if that is earlier
        ("item_hash", "u8"),  # stable hash of item_id, 0 for none
        ("item_check", "u8"),  # 32 bits, see `item_checks`: distinguishes items of one hash, 0 if unknown
        ("category_hash", "u8"),  # stable hash of category_id, 0 for none
        ("event_hash", "u8"),  # stable hash of event_id, 0 for none
        ("text_at", "i8"),  # position of the user_id in the text; the event_id follows
        ("user_bytes", "i4"),
        ("event_bytes", "i4"),  # -1 if there is no event_id
        ("price", "f4"),  # unit price, NaN if unknown
        ("quantity", "i4"),
        ("item", "i4"),  # the model's number of the item
        ("category", "i4"),  # the model's number of the category
        ("partition", "i4"),
        ("event_type", "i4"),  # 0 click, 1 browse, 2 purchase: also the index of the topic
    ],
    align=True,
)


@dataclass(slots=True)
class Events:
    """n events as columns."""

    data: npt.NDArray[np.void]  # (n,) EVENT
    text: npt.NDArray[np.uint8]  # ids in UTF-8

    def __len__(self) -> int:
        return len(self.data)

    def take(self, index: Any) -> "Events":
        """The events at `index` (a slice, positions or a mask); they share the text."""
        return Events(self.data[index], self.text)

    @property
    def user(self) -> npt.NDArray[np.object_]:
        """The user ids (n,) as strings, created at each call: for people and tests, not for the hot path."""
        text = self.text.tobytes()
        users = np.empty(len(self), object)
        users[:] = [text[a : a + n].decode() for a, n, _ in self._places()]
        return users

    @property
    def event_id(self) -> npt.NDArray[np.object_]:
        """The event ids (n,) as strings or None; also created at each call."""
        text = self.text.tobytes()
        ids = np.empty(len(self), object)
        ids[:] = [None if m < 0 else text[a + n : a + n + m].decode() for a, n, m in self._places()]
        return ids

    def _places(self) -> list[tuple[int, int, int]]:
        d = self.data
        columns = d["text_at"].tolist(), d["user_bytes"].tolist(), d["event_bytes"].tolist()
        return list(zip(*columns, strict=True))

    @classmethod
    def of(
        cls, data: npt.NDArray[np.void], users: Sequence[str], event_ids: Sequence[str | None]
    ) -> "Events":
        """Events of a structured array (changed here) and the ids of each."""
        parts: list[bytes] = []
        sizes = np.empty((len(data), 2), np.int32)
        for i, (user, event_id) in enumerate(zip(users, event_ids, strict=True)):
            name, other = user.encode(), b"" if event_id is None else event_id.encode()
            parts += (name, other)
            sizes[i] = len(name), -1 if event_id is None else len(other)
        data["user_bytes"], data["event_bytes"] = sizes[:, 0], sizes[:, 1]
        size = text_bytes(data)
        data["text_at"] = np.cumsum(size) - size
        return cls(data, np.frombuffer(bytearray(b"".join(parts)), np.uint8))

    @classmethod
    def concat(cls, parts: Sequence["Events"]) -> "Events":
        """All events of `parts`, in their order."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls(np.empty(0, EVENT), np.empty(0, np.uint8))
        data = np.concatenate([p.data for p in parts])
        texts, row, shift = [], 0, 0
        for p in parts:
            if not len(p):
                continue
            low, high = p._extent()
            texts.append(p.text[low:high])
            data["text_at"][row : row + len(p)] += shift - low
            row += len(p)
            shift += high - low
        return cls(data, np.concatenate(texts) if texts else np.empty(0, np.uint8))

    def _extent(self) -> tuple[int, int]:
        """The part of the text that these events use; the rest belongs to events that were removed."""
        at = self.data["text_at"]
        return int(at.min()), int((at + text_bytes(self.data)).max())

    def packed(self) -> "Events":
        """The same events with a text that contains only their ids, in their order."""
        data = self.data.copy()
        text = np.empty(int(text_bytes(data).sum()), np.uint8)
        _pack(data, self.text, text)
        return Events(data, text)


def text_bytes(data: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    """Bytes of text (n,) of each event."""
    return data["user_bytes"].astype(np.int64) + np.maximum(data["event_bytes"], 0)


@jit
def _pack(data, text, out):  # type: ignore[no-untyped-def]
    source, target = pointer_to(text), pointer_to(out)
    at = 0
    for i in range(len(data)):
        e = data[i]
        start = e.text_at
        e.text_at = at
        at = copy_bytes(source, start, e.user_bytes + max(e.event_bytes, 0), target, at)
