"""The function that training minimises: the losses of the three heads on a batch of sequences."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from model.data.sequences import Batch
from model.data.vocabulary import Vocabulary
from model.network.network import Network
from model.training.settings import TrainSettings


@dataclass(frozen=True)
class Examples:
    """A table as tensors."""

    inputs: tuple[Tensor, ...]  # event_type, item, category, gap, hour, numeric
    event_type: Tensor
    item: Tensor
    bought: Tensor

    def teaches(self) -> Tensor:
        """Return whether each event has a target, (n,)."""
        return (self.event_type >= 0) | (self.item >= 0) | (self.bought >= 0)

    def to(self, device: torch.device) -> "Examples":
        """Return the same on a device."""
        inputs = tuple(column.to(device) for column in self.inputs)
        return Examples(inputs, self.event_type.to(device), self.item.to(device), self.bought.to(device))


class Loss:
    """The weighted sum of the three heads' losses on one batch."""

    def __init__(
        self, network: Network, names: Vocabulary, counts: npt.NDArray[np.int64], settings: TrainSettings
    ) -> None:
        self.network = network
        self.settings = settings
        self.known = names.items.known
        device = network.item_bias.device
        self.unknown = torch.from_numpy(names.items.lookup_buckets()).to(device)
        share = (torch.from_numpy(counts).double() + 1.0) ** 0.75
        self.share = (share / share.sum()).float().to(device)  # share of each item among the negatives

    def __call__(self, data: Examples, batch: Batch) -> Tensor:
        """Return the loss of a batch, a scalar with its gradient."""
        event_type, item, *others = (column[batch.rows] for column in data.inputs)
        hidden = torch.rand(item.shape, device=item.device) < self.settings.unknown_rate
        item = torch.where(hidden, self.unknown[item], item)
        states = self.network(event_type, item, *others)[batch.learn]  # (learning events, hidden)
        rows = batch.rows[batch.learn]
        loss = states.new_zeros(())
        target = data.item[rows]
        if bool((target >= 0).any()):
            loss = loss + self._item_loss(states[target >= 0], target[target >= 0])
        target = data.event_type[rows]
        if bool((target >= 0).any()):
            logits = self.network.next_event_type(states[target >= 0])
            loss = loss + self.settings.kind_weight * functional.cross_entropy(logits, target[target >= 0])
        target = data.bought[rows]
        if bool((target >= 0).any()):
            logits = self.network.purchase(states[target >= 0]).squeeze(-1)
            bought = functional.binary_cross_entropy_with_logits(logits, target[target >= 0].float())
            loss = loss + self.settings.purchase_weight * bought
        return loss

    def _item_loss(self, states: Tensor, target: Tensor) -> Tensor:
        """Return the summed loss divided by a constant, so each case weighs the same in batches of any size."""
        if self.known <= self.settings.full_softmax_items:
            scores = self.network.item_scores(states)
            return functional.cross_entropy(scores, target, reduction="sum") / self.settings.batch_events
        # Sampled softmax with logQ correction (Bengio and Senecal 2008; Yi et al. 2019): negatives are
        # shared by the batch, and the logarithm of how often its item is drawn is subtracted from each score.
        table, bias = self.network.item.weight, self.network.item_bias
        drawn = torch.multinomial(self.share, self.settings.negatives, replacement=True)
        expected = torch.log(self.share * self.settings.negatives)
        others = states @ table[drawn].T + bias[drawn] - expected[drawn]
        others = others.masked_fill(drawn == target.unsqueeze(1), -torch.inf)
        own = (states * table[target]).sum(1) + bias[target] - expected[target]
        return (torch.logaddexp(own, torch.logsumexp(others, 1)) - own).sum() / self.settings.batch_events
