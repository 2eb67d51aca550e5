"""What goes wrong between the shop and Kafka: late, duplicate and malformed events."""

import numpy as np

from stream_app.lab.generator.columns import EventRows
from stream_app.lab.generator.settings import GeneratorSettings

#: By how much a late event is older than its neighbours in the stream, on average.
LATE_MEAN_MS = 600_000.0
_AGAIN_MEAN_MS = 2_000.0

#: Faults of malformed records, and the reason code that each gets in `dead-letters`.
FAULTS = {
    "broken_json": "malformed",
    "broken_msgpack": "malformed",
    "invalid_utf8": "malformed",
    "empty": "empty",
    "missing_user": "missing_field",
    "missing_time": "missing_field",
    "wrong_type": "invalid_field",
    "negative_price": "invalid_field",
    "too_large": "too_large",
    "future_time": "future",
    "other_key": "key_mismatch",
}


def append_times(events: EventRows, rng: np.random.Generator) -> None:
    """Set the broker's time: that of the event plus a log-normal delay of about 15 ms."""
    delay = np.exp(rng.standard_normal(len(events), np.float32) * 0.5 + np.log(15.0))
    events["append"] = events["ts"] + 1 + delay.astype(np.int64)


def make_late(events: EventRows, settings: GeneratorSettings, rng: np.random.Generator) -> None:
    """Move the event time of some events back; their places in the stream do not change."""
    late = np.flatnonzero(rng.random(len(events)) < settings.late_share)
    shift = 5_000 + rng.exponential(LATE_MEAN_MS, len(late)).astype(np.int64)
    shift = np.minimum(shift, events["ts"][late])
    events["late_ms"][late] = shift
    events["ts"][late] -= shift


def duplicates(events: EventRows, settings: GeneratorSettings, rng: np.random.Generator) -> EventRows:
    """Return copies of some events, which arrive a little later."""
    share = _of_the_good(settings.duplicate_share, settings)
    copies = events[rng.random(len(events)) < share]
    copies["append"] += 1 + rng.exponential(_AGAIN_MEAN_MS, len(copies)).astype(np.int64)
    copies["duplicate"] = True
    return copies


def malformed(
    events: EventRows, serial: int, settings: GeneratorSettings, rng: np.random.Generator
) -> EventRows:
    """Return records that break the contract, made from some events, as new events with numbers from `serial` on."""
    share = _of_the_good(settings.malformed_share, settings)
    copies = events[rng.random(len(events)) < share]
    copies["append"] += 1 + rng.exponential(_AGAIN_MEAN_MS, len(copies)).astype(np.int64)
    copies["serial"] = serial + np.arange(len(copies))
    copies["fault"] = rng.integers(0, len(FAULTS), len(copies))
    return copies


def _of_the_good(share: float, settings: GeneratorSettings) -> float:
    """Return the share of the valid original events to copy so that the copies are `share` of all records."""
    return share / (1 - settings.duplicate_share - settings.malformed_share)
