"""The step on a CPU: TorchScript runs the wide rounds of the GRU, kernels do the rest with tables computed once.

RawAnswers equal those of `Step.forward` except for rounding. Working memory is kept between micro-batches, since
fresh pages cost more than the computation in them; so only one thread may use a runtime at a time.
"""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model.artifact.model_folder import Content
from model.data.features import Inputs
from model.kernels.helper_thread import THREADS, HelperThread, Task
from model.ranking import rank_all_items
from model.ranking.rank_candidates import Ranked, Ranker
from model.serving import gru_kernel, heads_kernel
from model.serving.embedding_products import EmbeddingProducts
from model.serving.input_gates import InputGates
from model.serving.rounds import Arrangement
from model.serving.step_types import RawAnswers, StepBatch, StepInputs

#: Memory for the items' part of the readout: enough for 65,000 items of width 128.
SHORTCUT_BYTES = 32 << 20
#: Working memory for more events than this is released after the call.
_KEPT = 16_384
_CHUNK = 512  # so many rows of scores of the reference items fit the second-level cache


class _Scratch:
    """Working memory for micro-batches of up to `events` events."""

    def __init__(self, events: int, hidden: int, references: int) -> None:
        self.events = events
        self.buffer = np.empty((2 * events, hidden), np.float32)
        self.gates = np.empty((events, 3 * hidden), np.float32)
        self.items = np.empty(2 * events, np.int32)
        self.heads = np.empty((2 * events, 4), np.float32)
        self.earlier = np.empty((THREADS, _CHUNK, hidden), np.float32)
        self.others = np.empty((THREADS, _CHUNK, references), np.float32)


class CpuStep:
    """One model's step with its tables and its working memory."""

    def __init__(self, step: torch.jit.ScriptModule, content: Content) -> None:
        self.gates = InputGates(step, content.vocabulary.categories.known)
        self.shortcut = EmbeddingProducts(
            step.item.detach(), step.shortcut.detach(), int(step.known_items), SHORTCUT_BYTES
        )
        self._step = step
        self._hidden = int(step.hidden)
        self._known = int(step.known_items)
        self._none_item = int(step.none_item)
        self._table = step.item.detach().numpy()
        self._bias = step.item_bias.detach().numpy()
        self._tables = content.tables
        self.helper = HelperThread()
        self.ranker = Ranker(self._table, self._bias, content.tables)
        self._state_weight = step.state_weight.detach().numpy()
        self._state_bias = step.state_bias.detach().numpy()
        self._head_weight = np.ascontiguousarray(step.head_weight.detach().numpy().T)
        self._head_bias = step.head_bias.detach().numpy()
        self._references = step.reference_items.detach()  # (hidden, references)
        self._reference_bias = step.reference_bias.detach()
        self._inner = gru_kernel.scratch(self._hidden)
        self._scratch = self._memory(64)

    def advance(self, states: torch.Tensor, plan: Arrangement, inputs: Inputs) -> _Scratch:
        """Update the hidden states; return the memory whose `buffer` and `items` hold all states and their items."""
        memory = self.begin(states, plan, inputs)
        self.gates.fill(inputs, plan.order, memory.gates)
        self.run_rounds(memory, len(plan.users), plan.sizes)
        self.finish(states, plan, memory)
        return memory

    def begin(self, states: torch.Tensor, plan: Arrangement, inputs: Inputs) -> _Scratch:
        """Return the working memory, with the users' states in the buffer's first rows and the items of all rows."""
        u, m = len(plan.users), len(plan.order)
        memory = self._room(m)
        heads_kernel.take_states(
            states.numpy(), plan.users, np.int32(self._none_item), memory.buffer, memory.items
        )
        np.take(inputs.item, plan.order, out=memory.items[u : u + m])
        return memory

    def finish(self, states: torch.Tensor, plan: Arrangement, memory: _Scratch) -> None:
        """Copy the users' final states and items to the hidden states."""
        heads_kernel.put_states(memory.buffer, memory.items, plan.last, plan.users, states.numpy())

    def run_rounds(self, memory: _Scratch, u: int, sizes: list[int]) -> None:
        """Fill the states after the first u: wide rounds in TorchScript, the others in the kernel."""
        wide = sum(size >= gru_kernel.NARROW for size in sizes)
        if wide:
            self._step.rounds(
                torch.from_numpy(memory.buffer), torch.from_numpy(memory.gates), u, sizes[:wide]
            )
        if wide < len(sizes):
            row = sum(sizes[:wide])
            before = u + row - sizes[wide - 1] if wide else 0
            rest = np.array(sizes[wide:], np.int64)
            gru_kernel.advance(
                memory.buffer, memory.gates, rest, before, row, u,
                self._state_weight, self._state_bias, self._inner,
            )  # fmt: skip

    def __call__(self, states: torch.Tensor, step: StepInputs) -> RawAnswers:
        """Update the hidden states and return the answers."""
        plan, inputs, batch, boost, k, exact = step
        memory = self.advance(states, plan, inputs)
        readouts, next_event, raw, log_type = self.read_out(memory, plan, inputs)
        log_item, likely = self.item_likelihood(memory, plan, inputs.item, batch.first)
        ranked, ranking = self.rank(readouts, plan.after, batch, boost, k, exact)
        self.helper.run([*likely, *ranking], len(batch))
        return RawAnswers(next_event, raw, log_type, log_item, *ranked)

    def read_out(
        self, memory: _Scratch, plan: Arrangement, inputs: Inputs
    ) -> tuple[npt.NDArray[np.float32], ...]:
        """Turn the states in the buffer into readouts; return these and the answers of the heads for each event:
        chances of the next type, raw purchase score, log probability of its own type."""
        m = len(plan.order)
        readouts = memory.buffer[: len(plan.users) + m]
        self.shortcut.add(memory.items[: len(readouts)], readouts)
        heads_kernel.apply(readouts, self._head_weight, self._head_bias, memory.heads)
        next_event = np.empty((m, 3), np.float32)
        raw, log_type = np.empty(m, np.float32), np.empty(m, np.float32)
        heads_kernel.answer(
            memory.heads, plan.before, plan.after, inputs.event_type, next_event, raw, log_type
        )
        return readouts, next_event, raw, log_type

    def item_likelihood(
        self, memory: _Scratch, plan: Arrangement, item: npt.NDArray[np.int32], first: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.float32], list[Task]]:
        """Return an array (m,) for the log probability of each event's item, from the readout before the event, and
        the tasks that fill it."""
        log_item = np.zeros(len(item), np.float32)
        asked = np.flatnonzero((item < self._known) & ~first)

        def task(start: int, thread: int) -> None:
            some = asked[start : start + _CHUNK]
            earlier, others = memory.earlier[thread, : len(some)], memory.others[thread, : len(some)]
            heads_kernel.take_rows(memory.buffer, plan.before[some], earlier)
            torch.addmm(
                self._reference_bias,
                torch.from_numpy(earlier),
                self._references,
                out=torch.from_numpy(others),
            )
            heads_kernel.log_items(earlier, others, some, item, self._table, self._bias, log_item)

        # At least one task, so that a warm-up compiles the kernel.
        return log_item, [partial(task, start) for start in range(0, max(len(asked), 1), _CHUNK)]

    def rank(
        self,
        readouts: npt.NDArray[np.float32],
        rows: npt.NDArray[np.int64],
        batch: StepBatch,
        boost: float,
        k: int,
        exact: bool,
    ) -> tuple[Ranked, list[Task]]:
        """Return arrays for the k best items of every event, and the tasks that fill them.

        Event i has the readout in row rows[i].
        """
        recent = column(batch.recent, np.int32)
        if exact:
            known = torch.from_numpy(self._table[: self._known])
            raw = torch.addmm(torch.from_numpy(self._bias), torch.from_numpy(readouts[rows]), known.T)
            return rank_all_items.rank(raw.numpy(), recent, self._tables, boost, k), []
        return self.ranker.rank(readouts, rows, recent, column(batch.category, np.int32), boost, k)

    def _room(self, events: int) -> _Scratch:
        if events > _KEPT:
            return self._memory(events)
        if events > self._scratch.events:
            self._scratch = self._memory(1 << (events - 1).bit_length())
        return self._scratch

    def _memory(self, events: int) -> _Scratch:
        return _Scratch(events, self._hidden, len(self._reference_bias))


def column(values: npt.NDArray[Any], dtype: type) -> npt.NDArray[Any]:
    """Return a column in the form that kernels are compiled for: of one type, contiguous and writeable."""
    found: npt.NDArray[Any] = np.ascontiguousarray(values, dtype)
    return found if found.flags.writeable else found.copy()
