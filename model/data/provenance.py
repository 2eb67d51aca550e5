"""The provenance of a model: the part of `metrics.json` about its training data and held-out data."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from model.data.interactions import Interactions

#: Event types, in the order of their numbers in `Interactions.event_type`.
TYPES = ("click", "browse", "purchase")


class Part(msgspec.Struct, frozen=True):
    """A part of the events; times are those of its first and last event, None if it is empty."""

    events: int
    users: int
    first_ms: int | None
    last_ms: int | None


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """The data that a model was made from; nothing here depends on the machine or the time of the training."""

    given: Part  # all valid events of the recording, up to --until if that was given
    learned: Part  # events that the weights were learned from
    held_out: Part  # the latest events: the epoch, the calibration and the table of metrics come from them
    validated: Part  # events that the model of the table learned from: as `learned`, unless there was a refit
    learned_until_ms: int  # no event of this time or later was learned from
    refit: bool  # after the table was made, the model was trained again on all events
    epochs: int  # how many epochs the weights were trained for
    stopped: bool  # the user ended the training early
    items: int
    categories: int
    types: dict[str, int]  # events given, by type
    skipped: dict[str, int]  # records that are not in the table, by reason
    late: int  # events of `given` that were too late to count in their windows

    @property
    def made_until_ms(self) -> int:
        """No event of this time or later influenced the model, not even the choice of its epoch."""
        return (self.given.last_ms or 0) + 1


def part_of(data: Interactions, rows: npt.NDArray[np.bool_]) -> Part:
    """Return the size and the span of some rows of a table."""
    ts = data.ts[rows]
    if not len(ts):
        return Part(0, 0, None, None)
    return Part(len(ts), len(np.unique(data.user[rows])), int(ts.min()), int(ts.max()))


def provenance(
    data: Interactions,
    cut: int,
    *,
    refit: bool,
    epochs: int,
    stopped: bool,
    skipped: Mapping[str, int],
    late: int,
) -> Provenance:
    """Return the provenance of a model that was validated on the rows of `data` from time `cut` on."""
    early = data.ts < cut
    every = np.ones(len(data), np.bool_)
    learned = part_of(data, every if refit else early)
    return Provenance(
        given=part_of(data, every),
        learned=learned,
        held_out=part_of(data, ~early),
        validated=part_of(data, early),
        learned_until_ms=(learned.last_ms or 0) + 1 if refit else cut,
        refit=refit,
        epochs=epochs,
        stopped=stopped,
        items=_distinct(data.item),
        categories=_distinct(data.category),
        types={name: int((data.event_type == number).sum()) for number, name in enumerate(TYPES)},
        skipped=dict(skipped),
        late=late,
    )


def provenance_of(metrics: Mapping[str, Any]) -> Provenance | None:
    """Return the provenance in `metrics.json`; None for models of releases that did not store it."""
    try:
        return msgspec.convert(metrics.get("data"), Provenance)
    except msgspec.ValidationError:
        return None


def fingerprint(data: Interactions) -> str:
    """Return a hash of everything a model learns from: 16 hex digits of sha256."""
    digest = hashlib.sha256()
    for column in (data.user, data.ts, data.event_type, data.item, data.category, data.price, data.quantity):
        digest.update(np.ascontiguousarray(column).tobytes())
    digest.update(data.windows.tobytes() + data.gap_s.tobytes())
    digest.update(msgspec.json.encode([data.items, data.categories]))
    return digest.hexdigest()[:16]


def _distinct(column: npt.NDArray[np.int64]) -> int:
    return len(np.unique(column[column >= 0]))
