"""One training run: makes a network and its tables, not calibrated yet, from a table of interactions."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model.artifact.errors import TrainingError
from model.artifact.model_folder import Content, StoredSettings
from model.data import sequences, vocabulary
from model.data.features import NUMERIC, FeatureEncoder, fit_scale, numeric
from model.data.interactions import Interactions
from model.data.provenance import fingerprint
from model.data.sequences import Batch, Targets
from model.data.vocabulary import Vocabulary
from model.evaluation.metrics import mrr_at, ranks
from model.network.network import Network, Shape
from model.ranking import candidates
from model.training import fit_calibration
from model.training.loss import Examples, Loss
from model.training.settings import TrainSettings


class TrainingProgress(msgspec.Struct, frozen=True):
    """The progress of a training, reported once per batch and once per epoch."""

    epoch: int  # from 1
    epochs: int
    share: float  # of the epoch, 0..1
    loss: float  # mean of the epoch so far
    mrr: float | None = None  # on validation data, at the end of an epoch
    refit: bool = False


@dataclass(frozen=True)
class Trained:
    """A trained model; `model.training.export.export` writes it to a folder."""

    content: Content
    network: Network
    history: list[TrainingProgress]  # one entry per epoch
    stopped: bool = False  # training was asked to stop, and this is the best model so far


OnProgress = Callable[[TrainingProgress], None]
#: Called after each batch; returns True to stop and keep the best epoch so far.
Stop = Callable[[], bool]
_VALIDATED = 20_000  # so many of the latest events choose the epoch


class Stopped(Exception):  # noqa: N818 - reads as what happened
    """Training was asked to stop before its first epoch was complete: there is no model."""


def fit(
    known: Interactions,
    whole: Interactions | None,
    cut: int,
    settings: TrainSettings,
    epochs: int,
    *,
    device: torch.device,
    report: OnProgress,
    stop: Stop,
) -> Trained:
    """Train on `known`; if `whole` is given, its events from `cut` on choose the epoch.

    Raises TrainingError if the loss is NaN or infinite, Stopped if `stop` returns True during the first epoch.
    """
    torch.manual_seed(settings.seed)
    random = np.random.default_rng(settings.seed)
    names = vocabulary.build(
        known, min_count=settings.min_item_count, max_items=settings.max_items, buckets=settings.buckets
    )
    scale = fit_scale(numeric(known.price, known.quantity, known.windows))
    encoder = FeatureEncoder(scale)
    shape = Shape(
        names.items.size, names.items.known, names.categories.size, settings.hidden, settings.dropout
    )
    network = Network(shape).to(device)
    learning = _examples(known, names, encoder, settings.horizon_ms)
    counts = np.bincount(learning.item[learning.item >= 0].numpy(), minlength=shape.known_items)
    parts = sequences.learnable(
        sequences.chunks(known.user, settings.chunk, settings.context), learning.teaches().numpy()
    )
    learning = learning.to(device)
    checking = None if whole is None else _examples(whole, names, encoder, settings.horizon_ms).to(device)
    later = None if whole is None else torch.from_numpy(whole.ts >= cut)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    loss_of = Loss(network, names, counts, settings)
    steps = max(1, math.ceil(len(known) / settings.batch_events)) * epochs
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.05, 1.0 - step / steps))
    history: list[TrainingProgress] = []
    best: tuple[float, dict[str, Tensor]] = (-1.0, {})
    stopped = False
    for epoch in range(1, epochs + 1):
        network.train()
        total, seen = 0.0, 0
        for batch in sequences.batches(parts, settings.batch_events, random):
            if stopped := stop():
                break
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(learning, Batch(batch.rows.to(device), batch.learn.to(device)))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            optimizer.step()
            rate.step()
            total += loss.item() * len(batch.rows)
            seen += len(batch.rows)
            if seen < len(parts):
                report(TrainingProgress(epoch, epochs, seen / len(parts), total / seen, refit=whole is None))
        if stopped:
            break
        if not math.isfinite(total):
            raise TrainingError(
                f"The loss became NaN in epoch {epoch}: lower learning_rate (it is {settings.learning_rate})."
            )
        mrr = None
        if whole is not None and checking is not None and later is not None:
            mrr = _validate(network, checking, later, whole, settings)
        history.append(TrainingProgress(epoch, epochs, 1.0, total / max(seen, 1), mrr, refit=whole is None))
        report(history[-1])
        if mrr is not None:
            if mrr > best[0]:
                best = (mrr, copy.deepcopy(network.state_dict()))
            elif epoch - best_epoch(history) >= settings.patience:
                break
    if not history:
        raise Stopped
    if best[1]:
        network.load_state_dict(best[1])
    network.cpu().eval()
    item, category = names.columns(known)
    tables = candidates.build(known.user, item, category, shape.known_items, shape.category_rows)
    tables = candidates.fill(tables, _associates(network))
    content = Content(
        step=b"",
        vocabulary=names,
        tables=tables,
        calibration=fit_calibration.NEUTRAL,
        settings=StoredSettings(
            shape, scale, settings.horizon_ms, fingerprint(known), len(known), msgspec.to_builtins(settings)
        ),
        metrics={},
    )
    return Trained(content, network, history, stopped)


def best_epoch(history: list[TrainingProgress]) -> int:
    """Return the epoch with the best validation figure, the first of equal ones."""
    return max(history, key=lambda entry: entry.mrr or 0.0).epoch


def _examples(data: Interactions, names: Vocabulary, encoder: FeatureEncoder, horizon_ms: int) -> Examples:
    item, category = names.columns(data)
    inputs = encoder.encode(
        data.event_type, item, category, data.gap_s, data.ts, data.price, data.quantity, data.windows
    )  # fmt: skip
    wanted: Targets = sequences.targets(data, item, names.items.known, horizon_ms)
    assert inputs.numeric.shape[1] == NUMERIC
    return Examples(
        tuple(torch.from_numpy(column) for column in inputs),
        torch.from_numpy(wanted.event_type),
        torch.from_numpy(wanted.item),
        torch.from_numpy(wanted.bought),
    )


@torch.inference_mode()
def _associates(network: Network) -> np.ndarray:
    """Return the items (known items, FOLLOWERS) that rank first after a click on each item by a new user.

    Only the 20,000 most popular items are considered, which bounds the work for large catalogues.
    """
    shape = network.shape
    among = min(shape.known_items, 20_000)
    found = np.full((shape.known_items, candidates.FOLLOWERS), -1, np.int32)
    width = min(candidates.FOLLOWERS, among)
    for start in range(0, shape.known_items, 1024):
        item = torch.arange(start, min(start + 1024, shape.known_items)).unsqueeze(1)  # (events, 1)
        zero = torch.zeros_like(item)
        numbers = torch.zeros((*item.shape, NUMERIC))
        readout = network(zero, item, zero + shape.category_rows - 1, zero, zero, numbers)[:, 0]
        scores = torch.addmm(network.item_bias[:among], readout, network.item.weight[:among].T)
        found[start : start + 1024, :width] = scores.topk(width, dim=1).indices.numpy()
    return found


@torch.inference_mode()
def _validate(
    network: Network, data: Examples, later: Tensor, table: Interactions, settings: TrainSettings
) -> float:
    """Return MRR@20 of the next known item over all items, on events in the validation part.

    Without any such event, return the negative loss of the next type instead.
    """
    network.eval()
    later = later.clone()
    later[torch.nonzero(later)[:-_VALIDATED, 0]] = False
    on_device = later.to(data.event_type.device)
    # Scores of all items for a batch of chunks stay below about 100 MB.
    size = max(1, 25_000_000 // (settings.chunk * max(1, network.shape.known_items)))
    found: list[Tensor] = []
    event_types: list[Tensor] = []
    for part in sequences.in_order(table.user, later.numpy(), settings.chunk, 4 * settings.context, size):
        rows, learn = part.rows.to(on_device.device), part.learn.to(on_device.device)
        states = network(*(column[rows] for column in data.inputs))[learn]
        rows = rows[learn]
        states, rows = states[on_device[rows]], rows[on_device[rows]]
        target = data.item[rows]
        if bool((target >= 0).any()):
            scores = network.item_scores(states[target >= 0])
            found.append(torch.from_numpy(ranks(scores.cpu().numpy(), target[target >= 0].cpu().numpy())))
        target = data.event_type[rows]
        if bool((target >= 0).any()):
            logits = network.next_event_type(states[target >= 0])
            event_types.append(functional.cross_entropy(logits, target[target >= 0], reduction="none").cpu())
    if found:
        return mrr_at(torch.cat(found).numpy(), 20)
    return math.exp(-float(torch.cat(event_types).mean())) if event_types else 0.0
