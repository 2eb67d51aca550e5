"""Training: makes a model that is ready to export from a table of interactions. The same data, settings and number of
threads give the same model.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec
import numpy as np
import torch

from model.artifact.errors import TrainingError
from model.data.interactions import Interactions
from model.data.provenance import fingerprint, provenance
from model.evaluation.evaluate import evaluate
from model.training import fit_calibration
from model.training.fit import OnProgress, Stop, Stopped, Trained, TrainingProgress, best_epoch, fit
from model.training.settings import TrainSettings

__all__ = ["OnProgress", "Stopped", "Trained", "TrainingProgress", "fingerprint", "split_time", "train"]


def split_time(data: Interactions, valid_share: float) -> int:
    """Return the time (ms) at which the validation part begins.

    Events with the same time are never divided. If the earliest time has more events than the learning part
    should have, all later events are for validation.
    """
    ts = np.sort(data.ts)
    cut = int(ts[min(len(ts) - 1, int(len(ts) * (1.0 - valid_share)))])
    if cut == ts[0]:
        return int(ts[min(len(ts) - 1, int(np.searchsorted(ts, cut, side="right")))])
    return cut


def train(
    data: Interactions,
    settings: TrainSettings,
    progress: OnProgress | None = None,
    *,
    device: torch.device | None = None,
    stop: Stop | None = None,
    skipped: Mapping[str, int] | None = None,
    late: int = 0,
) -> Trained:
    """Train, stop early, calibrate and validate on the latest `valid_share` of the events.

    With `refit` a second training on all data follows, for as many epochs as the first needed; calibration and
    validation table stay those of the first model, whose validation data the second has seen. If `stop`
    returns True, the result is the best model of the first training. `skipped` and `late` are what the reader of
    the data counted; they are stored in the model folder.

    Raises TrainingError for a table from which nothing can be learned, Stopped before the first epoch is complete.
    """
    cut = split_time(data, settings.valid_share) if len(data) else 0
    early = data.take(data.ts < cut)
    _check(data, early, settings)
    place = device or torch.device("cpu")
    report, asked = progress or (lambda _: None), stop or (lambda: False)
    with torch.random.fork_rng([place] if place.type == "cuda" else []), _memory(settings):
        first = fit(early, data, cut, settings, settings.epochs, device=place, report=report, stop=asked)
        calibration = fit_calibration.calibrate(first.content, first.network, data, cut)
        calibrated = msgspec.structs.replace(first.content, calibration=calibration)
        table = evaluate(fit_calibration.runtime(calibrated, first.network), data, cut, exact=False)
        epochs = best_epoch(first.history)
        again = None
        if settings.refit and not first.stopped:
            again = _refit(data, cut, settings, epochs, place, report, asked)
    chosen, stopped = again or first, first.stopped or asked()
    history = first.history + (again.history if again else [])
    made = provenance(
        data, cut, refit=again is not None, epochs=epochs, stopped=stopped, skipped=skipped or {}, late=late
    )
    content = msgspec.structs.replace(
        chosen.content,
        calibration=calibration,
        step=fit_calibration.step_bytes(chosen.content, chosen.network),
        metrics={
            "epochs": [msgspec.to_builtins(entry) for entry in history],
            "data": msgspec.to_builtins(made),
            "validation": table,
        },
    )
    return Trained(content, chosen.network, history, stopped)


def _refit(
    data: Interactions,
    cut: int,
    settings: TrainSettings,
    epochs: int,
    place: torch.device,
    report: OnProgress,
    stop: Stop,
) -> Trained | None:
    """Train on all data; None if that was stopped, since validation did not choose fewer epochs."""
    try:
        found = fit(data, None, cut, settings, epochs, device=place, report=report, stop=stop)
    except Stopped:
        return None
    return None if found.stopped else found


def _check(data: Interactions, early: Interactions, settings: TrainSettings) -> None:
    """Refuse a table from which nothing can be learned, or so little that a model would be worthless."""
    users = len(np.unique(early.user))
    learnable = len(early) - users  # each user's last event has no next event
    if len(data) < 2:
        raise TrainingError(f"{len(data)} events are too few to train on: record more traffic first.")
    if not len(early):
        when = datetime.fromtimestamp(int(data.ts[0]) / 1000, UTC).isoformat(" ", "seconds")
        raise TrainingError(
            f"All {len(data):,} events have the same time ({when}), so there is no later part to validate on: "
            "give each event the time at which it happened (ts, in Unix milliseconds)."
        )
    if not learnable:
        raise TrainingError(
            f"Each of the {users:,} users has one event only, but a model learns what comes after an event: "
            "record more traffic, with one user_id for all events of a visit."
        )
    if learnable < settings.min_events:
        raise TrainingError(
            f"Only {learnable:,} events are followed by another event of their user, and training needs at least "
            f"{settings.min_events:,} (without the latest {len(data) - len(early):,} events, which are "
            f"held out): record more traffic first, or lower min_events."
        )


@contextmanager
def _memory(settings: TrainSettings) -> Iterator[None]:
    """Raise TrainingError, with advice, if the machine or the device runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(
            sign in str(error) for sign in ("alloc", "out of memory", "Storage size calculation overflowed")
        ):
            raise
        raise TrainingError(
            f"There is not enough memory to train with hidden = {settings.hidden}, batch_events = "
            f"{settings.batch_events} and max_items = {settings.max_items}: lower one of them."
        ) from error
