"""What the stream processor calls: load a model folder, advance micro-batches, rank, calibrate.

A runtime and its slabs belong to one thread at a time; the heavy parts release the GIL.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from model import folder as folders
from model import ranking, ranking_device, script
from model.calibration import TAILS
from model.candidates import QUOTAS
from model.features import Encoder
from model.folder import Content, ModelError
from model.interactions import WINDOW_FEATURES
from model.slab import Slab
from model.step import Arrangement, arrange

__all__ = ["ModelError", "Runtime", "Slab", "StepBatch", "StepResult"]

#: How many of the user's last distinct items the ranking reads; more columns of `recent` do no harm.
RECENT = len(QUOTAS)


@dataclass(frozen=True)
class StepBatch:
    """One micro-batch of m events in processing order; a slot may occur many times."""

    slots: npt.NDArray[np.int64]  # (m,)
    kind: npt.NDArray[np.int8]  # (m,) 0 click, 1 browse, 2 purchase
    item: npt.NDArray[np.int32]  # (m,) from `Runtime.item_index`, or `Runtime.none_item`
    category: npt.NDArray[np.int32]  # (m,) from `Runtime.category_index`, or `Runtime.none_category`
    gap_s: npt.NDArray[np.float32]  # (m,) seconds since the user's event before, -1 for the first
    ts: npt.NDArray[np.int64]  # (m,) Unix ms
    price: npt.NDArray[np.float32]  # (m,) NaN where unknown
    quantity: npt.NDArray[np.int32]  # (m,)
    windows: npt.NDArray[np.float32]  # (m, len(WINDOW_FEATURES)), this event included
    recent: npt.NDArray[np.int32]  # (m, R) the user's last distinct items, this event's first, none-padded
    first: npt.NDArray[np.bool_]  # (m,) the user has no earlier event

    def __len__(self) -> int:
        return len(self.slots)


@dataclass(frozen=True)
class StepResult:
    """Answers for m events, in processing order, as numpy arrays on the host."""

    next_event: npt.NDArray[np.float32]  # (m, 3) probability of each type of the next event
    purchase: npt.NDArray[np.float32]  # (m,) probability of a purchase within the horizon
    items: npt.NDArray[np.int32]  # (m, k) numbers below len(item_ids), best first; -1 where there are fewer
    scores: npt.NDArray[np.float32]  # (m, k) share of the item among the candidates, 0..1
    p_value: npt.NDArray[np.float32]  # (m,) chance of an event as surprising as this one; 1 for a first event
    surprise: npt.NDArray[np.float32]  # (m,) -log p(type) - log p(item) in nats; 0 for a first event
    type_probability: npt.NDArray[np.float32]  # (m,) probability the model gave to this event's type
    raw_purchase: npt.NDArray[np.float32]  # (m,) purchase score before calibration


class Runtime:
    """A model ready to run."""

    def __init__(
        self, content: Content, step: torch.jit.ScriptModule, label: str, device: torch.device, exact: bool
    ) -> None:
        self.content = content
        self.label = label  #: "name@version", named in every output
        self.device = device
        self.exact = exact  #: rank all items instead of the candidates
        #: Width of a slab row: the GRU's hidden state and the number of the last item (see `model.step`).
        self.hidden = content.settings.shape.hidden + 1
        self.horizon_ms = content.settings.horizon_ms
        self.item_ids = content.vocabulary.items.ids
        self.none_item = content.vocabulary.items.none
        self.none_category = content.vocabulary.categories.none
        self.item_index = content.vocabulary.items.of
        self.category_index = content.vocabulary.categories.of
        self._step = step
        self._encoder = Encoder(content.settings.scale)
        self._table = step.item.detach()  # (item rows, hidden)
        self._bias = step.item_bias.detach()  # (known items,)
        self._device_tables = ranking_device.DeviceTables(content.tables, device)

    @classmethod
    def load(cls, folder: Path, device: str = "auto", exact: bool = False) -> "Runtime":
        """Return the model of a folder on a device: "auto" (CUDA where there is one), "cpu", "cuda" ...

        Every checksum is verified. Raises ModelError for a missing, damaged or foreign folder and for a
        device that this machine lacks.
        """
        manifest, content = folders.read(folder)
        place = choose_device(device)
        try:
            step = script.from_bytes(content.step, place)
        except RuntimeError as error:
            raise ModelError(
                f"torch {torch.__version__} cannot read step.ts of the model at {folder}: train it again."
            ) from error
        return cls(content, step, f"{manifest.name}@{manifest.version}", place, exact)

    def exactly(self) -> "Runtime":
        """Return the same model with the ranking over all items."""
        return Runtime(self.content, self._step, self.label, self.device, True)

    def slab(self, capacity: int) -> Slab:
        """Return hidden states for `capacity` users, all zero, on the device."""
        return Slab(capacity, self.hidden, self.device)

    def warm_up(self) -> None:
        """Run micro-batches of typical shapes, so that nothing is compiled when real events come."""
        slab = self.slab(64)
        for m in (1, 2, 64, 64, 64):
            self.step(slab, self._blank(m))
            self.replay(slab, self._blank(m))

    @torch.inference_mode()
    def step(self, slab: Slab, batch: StepBatch, k: int = 10) -> StepResult:
        """Advance the slab by a micro-batch and return the answers for every event."""
        if not len(batch):
            return _empty(k)
        plan = arrange(batch.slots)
        before, after = self._tensor(plan.before), self._tensor(plan.after)
        users, last = self._tensor(plan.users), self._tensor(plan.last)
        readout, next_event, purchase, log_kind, log_item = self._step(
            slab.states, users, plan.sizes, last, before, after, *self._inputs(batch, plan)
        )
        items, scores = self._rank(readout, batch, k)
        raw = purchase.cpu().numpy()
        curves = self.content.calibration
        log_kind, log_item = log_kind.cpu().numpy(), log_item.cpu().numpy()
        surprise = np.where(batch.first, np.float32(0.0), -(log_kind + log_item))
        known = batch.item < len(self.item_ids)
        log_p = np.where(known, curves.surprise_item(surprise), curves.surprise(surprise))
        return StepResult(
            next_event=next_event.cpu().numpy(),
            purchase=curves.purchase(raw),
            items=items,
            scores=scores,
            p_value=np.where(batch.first, np.float32(1.0), np.exp(log_p)),
            surprise=surprise,
            type_probability=np.exp(log_kind),
            raw_purchase=raw,
        )

    @torch.inference_mode()
    def replay(self, slab: Slab, batch: StepBatch) -> None:
        """Advance the slab only: to rebuild hidden states from the last events after a change of model."""
        if len(batch):
            plan = arrange(batch.slots)
            users, last = self._tensor(plan.users), self._tensor(plan.last)
            self._step.advance(slab.states, users, plan.sizes, last, *self._inputs(batch, plan))

    def tail(self, name: str, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Return the chance that an event's window feature is at least this value; `name` is one of TAILS."""
        if name not in TAILS:
            raise KeyError(f"no tail table for {name}: there are {', '.join(TAILS)}")
        return np.exp(self.content.calibration.tails[name](values))

    def _inputs(self, batch: StepBatch, plan: Arrangement) -> tuple[torch.Tensor, ...]:
        inputs = self._encoder.encode(
            batch.kind,
            batch.item,
            batch.category,
            batch.gap_s,
            batch.ts,
            batch.price,
            batch.quantity,
            batch.windows,
        )
        return tuple(self._tensor(column[plan.order]) for column in inputs)

    def _rank(
        self, readout: torch.Tensor, batch: StepBatch, k: int
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        tables, boost = self.content.tables, self.content.calibration.boost
        if self.device.type == "cpu" and not self.exact:
            return ranking.rank(
                readout.numpy(),
                batch.recent,
                batch.category,
                self._table.numpy(),
                self._bias.numpy(),
                tables,
                boost,
                k,
            )
        if self.device.type == "cpu":
            raw = torch.addmm(self._bias, readout, self._table[: len(self.item_ids)].T).numpy()
            return ranking.rank_exact(raw, batch.recent, tables, boost, k)
        recent = self._tensor(batch.recent)
        if self.exact:
            items, scores = ranking_device.rank_exact(
                readout, recent, self._table, self._bias, self._device_tables, boost, k
            )
        else:
            items, scores = ranking_device.rank(
                readout,
                recent,
                self._tensor(batch.category),
                self._table,
                self._bias,
                self._device_tables,
                boost,
                k,
            )
        return items.cpu().numpy(), scores.cpu().numpy()

    def _tensor(self, column: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(column)).to(self.device)

    def _blank(self, m: int) -> StepBatch:
        return StepBatch(
            slots=np.arange(m, dtype=np.int64) // 2,
            kind=np.zeros(m, np.int8),
            item=np.full(m, self.none_item, np.int32),
            category=np.full(m, self.none_category, np.int32),
            gap_s=np.full(m, -1.0, np.float32),
            ts=np.zeros(m, np.int64),
            price=np.full(m, np.nan, np.float32),
            quantity=np.ones(m, np.int32),
            windows=np.zeros((m, len(WINDOW_FEATURES)), np.float32),
            recent=np.full((m, RECENT), self.none_item, np.int32),
            first=np.ones(m, np.bool_),
        )


def choose_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is CUDA where there is one. Raises ModelError if it is absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"The device {name!r} is not one torch knows: use auto, cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"This machine offers no CUDA device ({name!r} was asked for): use auto or cpu.")
    return device


def _empty(k: int) -> StepResult:
    none = np.zeros(0, np.float32)
    return StepResult(
        np.zeros((0, 3), np.float32), none, np.zeros((0, k), np.int32), np.zeros((0, k), np.float32),
        none, none, none, none,
    )  # fmt: skip
