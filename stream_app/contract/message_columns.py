"""Messages to send as columns: keys and values in buffers, without a Python object per message."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(slots=True)
class MessageColumns:
    """n messages without headers. A length of -1 means that there is no key, or no value (a tombstone)."""

    keys: npt.NDArray[np.uint8]
    key_at: npt.NDArray[np.int64]  # (n,)
    key_bytes: npt.NDArray[np.int32]  # (n,)
    values: npt.NDArray[np.uint8]
    value_at: npt.NDArray[np.int64]  # (n,)
    value_bytes: npt.NDArray[np.int32]  # (n,)

    def __len__(self) -> int:
        return len(self.key_at)

    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """All six arrays, in the order of their declaration."""
        return self.keys, self.key_at, self.key_bytes, self.values, self.value_at, self.value_bytes

    def take(self, index: Any) -> "MessageColumns":
        """The messages at `index` (a slice, positions or a mask); they share the buffers."""
        return MessageColumns(
            self.keys,
            self.key_at[index],
            self.key_bytes[index],
            self.values,
            self.value_at[index],
            self.value_bytes[index],
        )

    def each(self) -> list[tuple[bytes | None, bytes | None]]:
        """(key, value) of each message: for people and tests, not for the hot path."""
        keys = _pieces(self.keys, self.key_at, self.key_bytes)
        return list(zip(keys, _pieces(self.values, self.value_at, self.value_bytes), strict=True))

    @classmethod
    def of(cls, messages: Sequence[tuple[bytes | None, bytes | None]]) -> "MessageColumns":
        """Columns of (key, value) pairs."""
        return cls(*_joined([k for k, _ in messages]), *_joined([v for _, v in messages]))

    @classmethod
    def concat(cls, parts: Sequence["MessageColumns"]) -> "MessageColumns":
        """All messages of `parts`, in their order."""
        keys_before = np.cumsum([0, *(len(p.keys) for p in parts)]).tolist()
        values_before = np.cumsum([0, *(len(p.values) for p in parts)]).tolist()
        return cls(
            np.concatenate([p.keys for p in parts]),
            np.concatenate([p.key_at + n for p, n in zip(parts, keys_before, strict=False)]),
            np.concatenate([p.key_bytes for p in parts]),
            np.concatenate([p.values for p in parts]),
            np.concatenate([p.value_at + n for p, n in zip(parts, values_before, strict=False)]),
            np.concatenate([p.value_bytes for p in parts]),
        )


def _pieces(
    data: npt.NDArray[np.uint8], at: npt.NDArray[np.int64], size: npt.NDArray[np.int32]
) -> list[bytes | None]:
    return [
        None if n < 0 else data[a : a + n].tobytes() for a, n in zip(at.tolist(), size.tolist(), strict=True)
    ]


def _joined(
    parts: Sequence[bytes | None],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    size = np.array([-1 if p is None else len(p) for p in parts], np.int32)
    bytes_ = np.maximum(size, 0).astype(np.int64)
    return np.frombuffer(b"".join(p or b"" for p in parts), np.uint8), np.cumsum(bytes_) - bytes_, size
