"""The step in TorchScript and torch alone: for CUDA, and the reference on a CPU."""

import numpy as np
import numpy.typing as npt
import torch

from model.artifact.model_folder import Content
from model.data.features import Inputs
from model.ranking import rank_on_gpu
from model.serving.rounds import Arrangement
from model.serving.step_types import RawAnswers, StepInputs


class TorchStep:
    """One model's step on one device."""

    def __init__(self, step: torch.jit.ScriptModule, content: Content, device: torch.device) -> None:
        self._step = step
        self._device = device
        self._table = step.item.detach()  # (item rows, hidden)
        self._bias = step.item_bias.detach()  # (known items,)
        self._tables = rank_on_gpu.DeviceTables(content.tables, device)

    def advance(self, states: torch.Tensor, plan: Arrangement, inputs: Inputs) -> None:
        """Update the hidden states."""
        users, last = self._tensor(plan.users), self._tensor(plan.last)
        self._step.advance(states, users, plan.sizes, last, *self._in_rounds(inputs, plan))

    def __call__(self, states: torch.Tensor, step: StepInputs) -> RawAnswers:
        """Update the hidden states and return the answers."""
        plan, inputs, batch, boost, k, exact = step
        readout, *found = self._step(
            states,
            self._tensor(plan.users),
            plan.sizes,
            self._tensor(plan.last),
            self._tensor(plan.before),
            self._tensor(plan.after),
            *self._in_rounds(inputs, plan),
        )
        recent, tables = self._tensor(batch.recent), self._tables
        if exact:
            items, scores = rank_on_gpu.rank_exact(readout, recent, self._table, self._bias, tables, boost, k)
        else:
            category = self._tensor(batch.category)
            items, scores = rank_on_gpu.rank(
                readout, recent, category, self._table, self._bias, tables, boost, k
            )
        heads = [each.cpu().numpy() for each in found]
        return RawAnswers(heads[0], heads[1], heads[2], heads[3], items.cpu().numpy(), scores.cpu().numpy())

    def _in_rounds(self, inputs: Inputs, plan: Arrangement) -> tuple[torch.Tensor, ...]:
        return tuple(self._tensor(values[plan.order]) for values in inputs)

    def _tensor(self, values: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)
