"""The network as the stream processor runs it: one micro-batch through the GRU on the slab, in TorchScript.

Where every event stands: `model.serving.rounds`. A slab row holds a user's state and, behind it, the item of the
user's last event (number + 1; 0 = never seen), which the readout needs. As a float32 an item number is exact up to
16 million.

This module is all that a device needs, and the reference. On a CPU `model.serving.cpu_step` calls only `rounds` of it
and does the rest in kernels, with tables made from the same weights.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.network.network import Network

#: Rows that advance together on a CPU: their gates stay in the second-level cache.
CHUNK = 512


class Step(nn.Module):
    """The network as the stream processor runs it: advance the slab, apply the heads.

    `references` is a fixed set of items, `log_weight` the logarithm of how many items each stands for: with
    them the normaliser of the item head is estimated at the cost of a few hundred scores.
    """

    # The name in the file of a model. It stays when this module moves: a model's version is a hash of that file.
    _jit_override_qualname = "__torch__.model.step.Step"

    # Declared for the type checker; TorchScript finds them as buffers.
    shortcut: Tensor
    input_weight: Tensor
    state_weight: Tensor
    input_bias: Tensor
    state_bias: Tensor
    item_bias: Tensor
    head_weight: Tensor
    head_bias: Tensor
    reference_items: Tensor
    reference_bias: Tensor

    def __init__(self, network: Network, references: Tensor, log_weight: Tensor) -> None:
        super().__init__()
        self.item = nn.Parameter(network.item.weight.detach().clone(), requires_grad=False)
        self.category = nn.Parameter(network.category.weight.detach().clone(), requires_grad=False)
        self.kind = nn.Parameter(network.event_type.weight.detach().clone(), requires_grad=False)
        self.gap = nn.Parameter(network.gap.weight.detach().clone(), requires_grad=False)
        self.hour = nn.Parameter(network.hour.weight.detach().clone(), requires_grad=False)
        gru = network.gru
        self.hidden: int = network.shape.hidden
        self.known_items: int = network.shape.known_items
        self.none_item: int = network.shape.item_rows - 1
        self.chunk: int = CHUNK
        self.register_buffer("shortcut", network.shortcut.weight.detach().T.contiguous())
        # (inputs, 3 hidden) and (hidden, 3 hidden):
        self.register_buffer("input_weight", gru.get_parameter("weight_ih_l0").detach().T.contiguous())
        self.register_buffer("state_weight", gru.get_parameter("weight_hh_l0").detach().T.contiguous())
        self.register_buffer("input_bias", gru.get_parameter("bias_ih_l0").detach().clone())
        self.register_buffer("state_bias", gru.get_parameter("bias_hh_l0").detach().clone())
        self.register_buffer("item_bias", network.item_bias.detach().clone())
        heads = torch.cat((network.next_event_type.weight, network.purchase.weight)).detach()  # (4, hidden)
        self.register_buffer("head_weight", heads.T.contiguous())
        self.register_buffer(
            "head_bias", torch.cat((network.next_event_type.bias, network.purchase.bias)).detach()
        )
        self.register_buffer("reference_items", network.item.weight.detach()[references].T.contiguous())
        self.register_buffer("reference_bias", network.item_bias.detach()[references] + log_weight)

    @torch.jit.export
    def rounds(self, buffer: Tensor, gates: Tensor, users: int, sizes: list[int]) -> None:
        """Fill the buffer's rows behind the users' first states, round by round.

        `gates` (at least sum(sizes), 3 hidden) is what the inputs add, in the order of the rounds (Cho et al.
        2014; torch's gate order r, z, n). `sizes` may be a part of the rounds from the first on.
        """
        two = 2 * self.hidden
        before = 0
        row = 0
        for size in sizes:
            chunk = size if buffer.is_cuda else self.chunk
            for start in range(0, size, chunk):
                end = min(start + chunk, size)
                state = buffer[before + start : before + end]
                given = gates[row + start : row + end]
                inner = torch.addmm(self.state_bias, state, self.state_weight)
                rz = inner[:, :two].add_(given[:, :two]).sigmoid_()
                new = torch.addcmul(given[:, two:], rz[:, : self.hidden], inner[:, two:])
                # tanh(x) = 2 sigmoid(2 x) - 1: on a CPU torch's sigmoid is five times as fast as its tanh.
                new = new.mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)
                after = buffer[users + row + start : users + row + end]
                torch.lerp(new, state, rz[:, self.hidden :], out=after)
            before = users + row
            row += size

    @torch.jit.export
    def advance(
        self,
        slab: Tensor,
        users: Tensor,
        sizes: list[int],
        last: Tensor,
        kind: Tensor,
        item: Tensor,
        category: Tensor,
        gap: Tensor,
        hour: Tensor,
        numeric: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Update the slab in place; return the buffers of states (u + m, hidden) and of items (u + m,).

        Event columns stand in the order of the rounds. One matrix product makes the input gates of all
        events; only the recurrent part runs round by round.
        """
        inputs = torch.cat(
            (
                functional.embedding(item, self.item),
                functional.embedding(category, self.category),
                functional.embedding(kind, self.kind),
                functional.embedding(gap, self.gap),
                functional.embedding(hour, self.hour),
                numeric,
            ),
            dim=1,
        )
        gates = torch.addmm(self.input_bias, inputs, self.input_weight)  # (m, 3 hidden)
        u = users.size(0)
        buffer = torch.empty((u + item.size(0), self.hidden), dtype=slab.dtype, device=slab.device)
        resident = slab.index_select(0, users)  # (u, hidden + 1)
        buffer[:u] = resident[:, : self.hidden]
        seen = resident[:, self.hidden].to(torch.int64) - 1
        seen = torch.where(seen < 0, torch.full_like(seen, self.none_item), seen)
        items = torch.cat((seen, item.to(torch.int64)))  # the item of the event that led to each state
        self.rounds(buffer, gates, u, sizes)
        final = (items.index_select(0, last) + 1).to(slab.dtype).unsqueeze(1)
        slab.index_copy_(0, users, torch.cat((buffer.index_select(0, last), final), dim=1))
        return buffer, items

    def forward(
        self,
        slab: Tensor,
        users: Tensor,
        sizes: list[int],
        last: Tensor,
        before: Tensor,
        after: Tensor,
        kind: Tensor,
        item: Tensor,
        category: Tensor,
        gap: Tensor,
        hour: Tensor,
        numeric: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Advance, then return for every event in processing order:

        the readout after it (m, hidden); probabilities of the next type (m, 3); the raw purchase score (m,);
        and under the state before it the log probability of its type (m,) and of its item (m,), 0 where the
        item is unknown or absent.
        """
        states, items = self.advance(slab, users, sizes, last, kind, item, category, gap, hour, numeric)
        buffer = torch.addmm(states, functional.embedding(items, self.item), self.shortcut)  # readouts
        heads = torch.addmm(self.head_bias, buffer, self.head_weight)  # (u + m, 4)
        readout = buffer.index_select(0, after)
        now = heads.index_select(0, after)
        row = after - users.size(0)  # from processing order to the order of the rounds
        seen_kind = kind.index_select(0, row).to(torch.int64)
        seen_item = item.index_select(0, row).to(torch.int64)
        earlier = buffer.index_select(0, before)
        log_kind = torch.log_softmax(heads.index_select(0, before)[:, :3], dim=1)
        log_kind = log_kind.gather(1, seen_kind.unsqueeze(1)).squeeze(1)
        known = seen_item < self.known_items
        target = torch.where(known, seen_item, torch.zeros_like(seen_item))
        score = (earlier * functional.embedding(target, self.item)).sum(1)
        score = score + self.item_bias.index_select(0, target)
        others = torch.logsumexp(torch.addmm(self.reference_bias, earlier, self.reference_items), dim=1)
        # The item's own term joins the estimate, so its probability can never pass 1.
        log_item = score - torch.logaddexp(score, others)
        log_item = torch.where(known, log_item, torch.zeros_like(log_item))
        return readout, torch.softmax(now[:, :3], dim=1), now[:, 3], log_kind, log_item
