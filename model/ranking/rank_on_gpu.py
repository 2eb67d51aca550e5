"""The ranking of `rank_candidates` in torch, for states on a GPU: the same answers, without a copy to the host."""

import torch
from torch import Tensor

from model.ranking.candidates import QUOTAS, Tables


class DeviceTables:
    """Candidate tables as tensors on a device."""

    def __init__(self, tables: Tables, device: torch.device) -> None:
        self.followers = torch.from_numpy(tables.followers).to(device)
        self.strength = torch.from_numpy(tables.strength).to(device)
        self.category_best = torch.from_numpy(tables.category_best).to(device)
        self.popular = torch.from_numpy(tables.popular).to(device)


def rank(
    states: Tensor,  # (m, hidden)
    recent: Tensor,  # (m, R)
    category: Tensor,  # (m,)
    table: Tensor,  # (item rows, hidden)
    bias: Tensor,  # (known items,)
    tables: DeviceTables,
    boost: float,
    k: int,
) -> tuple[Tensor, Tensor]:
    """Return items (m, k) int32 and scores (m, k) of the k best candidates, as `rank_candidates.rank`."""
    items, bonuses = _unique(*_candidates(recent, category, bias.shape[0], tables, boost))
    safe = items.clamp(min=0)
    raw = torch.bmm(table[safe], states.unsqueeze(2)).squeeze(2) + bias[safe] + bonuses  # (m, candidates)
    raw = raw.masked_fill(items < 0, -torch.inf)
    # Items are ascending within a row, so a stable sort keeps the lower number first among equal scores.
    raw, order = raw.sort(dim=1, descending=True, stable=True)
    shares = torch.softmax(raw, dim=1).nan_to_num(0.0)  # a row without candidates
    return _fill(items.gather(1, order), shares, k)


def rank_exact(
    states: Tensor, recent: Tensor, table: Tensor, bias: Tensor, tables: DeviceTables, boost: float, k: int
) -> tuple[Tensor, Tensor]:
    """Return items and scores (m, k) of the k best of all items."""
    raw = torch.addmm(bias, states, table[: bias.shape[0]].T)
    items, bonuses = _followers(recent, bias.shape[0], tables, boost)
    raw.scatter_add_(1, items.clamp(min=0), bonuses)  # padding adds 0 to item 0
    raw, order = raw.sort(dim=1, descending=True, stable=True)
    return _fill(order, torch.softmax(raw, dim=1), k)


def _fill(items: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the first k columns; if there are fewer, items -1 with score 0."""
    lack = max(0, k - items.shape[1])
    items = torch.nn.functional.pad(items[:, :k], (0, lack), value=-1)
    return items.to(torch.int32), torch.nn.functional.pad(scores[:, :k], (0, lack))


def _followers(recent: Tensor, known: int, tables: DeviceTables, boost: float) -> tuple[Tensor, Tensor]:
    items, bonuses = [], []
    for place, quota in zip(range(recent.shape[1]), QUOTAS, strict=False):
        last = recent[:, place].long()
        valid = ((last >= 0) & (last < known)).unsqueeze(1)
        row = last.clamp(0, known - 1)
        follower = torch.where(valid, tables.followers[row, :quota].long(), -1)
        items.append(follower)
        bonuses.append(torch.where(follower >= 0, tables.strength[row, :quota] * (boost * 0.5**place), 0.0))
    return torch.cat(items, dim=1), torch.cat(bonuses, dim=1)


def _candidates(
    recent: Tensor, category: Tensor, known: int, tables: DeviceTables, boost: float
) -> tuple[Tensor, Tensor]:
    """Return candidates (m, c) with repetitions, -1 for none, and their bonuses."""
    followers, bonuses = _followers(recent, known, tables, boost)
    last = recent[:, : len(QUOTAS)].long()
    last = torch.where(last < known, last, -1)
    best = tables.category_best[category.long()].long()
    popular = tables.popular.long().expand(len(recent), -1)
    items = torch.cat((followers, last, best, popular), dim=1)
    return items, torch.nn.functional.pad(bonuses, (0, items.shape[1] - bonuses.shape[1]))


def _unique(items: Tensor, bonuses: Tensor) -> tuple[Tensor, Tensor]:
    """Return every row's distinct items, ascending, with their bonuses summed; -1 fills the remaining places."""
    items, order = items.sort(dim=1)
    bonuses = bonuses.gather(1, order)
    new = torch.ones_like(items, dtype=torch.bool)
    new[:, 1:] = items[:, 1:] != items[:, :-1]
    place = new.long().cumsum(dim=1) - 1
    summed = torch.zeros_like(bonuses).scatter_add_(1, place, bonuses)
    once = torch.full_like(items, -1).scatter_(1, place, items)
    return once, summed
