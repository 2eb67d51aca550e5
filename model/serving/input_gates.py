"""The input gates of a micro-batch on a CPU: a sum of stored rows, and a small product for the numeric inputs."""

import numpy as np
import numpy.typing as npt
import torch

from model.data.features import GAP_BUCKETS, HOURS, N_EVENT_TYPES, Inputs
from model.kernels.jit import jit
from model.serving.embedding_products import EmbeddingProducts, place

#: Memory for the rows of items and of categories: enough for 65,000 and 21,000 of width 128.
ITEM_BYTES = 96 << 20
CATEGORY_BYTES = 32 << 20


class InputGates:
    """Computes what `Step.advance` computes with one wide product."""

    def __init__(
        self,
        step: torch.jit.ScriptModule,
        known_categories: int,
        item_bytes: int = ITEM_BYTES,
        category_bytes: int = CATEGORY_BYTES,
    ) -> None:
        weight = step.input_weight.detach()  # (inputs, 3 hidden)
        tables = [step.item, step.category, step.kind, step.gap, step.hour]
        parts = torch.split(weight, [table.shape[1] for table in tables] + [weight.shape[0] - _width(tables)])
        self.items = EmbeddingProducts(step.item.detach(), parts[0], int(step.known_items), item_bytes)
        self.categories = EmbeddingProducts(
            step.category.detach(), parts[1], known_categories, category_bytes
        )
        # One table for the three small inputs; each event has exactly one type, so its rows include the bias.
        small = [torch.mm(table.detach(), part) for table, part in zip(tables[2:], parts[2:5], strict=True)]
        small[0] = small[0] + step.input_bias.detach()
        self._small = torch.cat(small).numpy()  # (N_EVENT_TYPES + GAP_BUCKETS + HOURS, 3 hidden)
        self._numeric = parts[5].contiguous().numpy()  # (NUMERIC, 3 hidden)
        assert len(self._small) == N_EVENT_TYPES + GAP_BUCKETS + HOURS

    def fill(self, inputs: Inputs, order: npt.NDArray[np.int64], out: npt.NDArray[np.float32]) -> None:
        """Write the gates of m events to `out` (m, 3 hidden); row i is that of event order[i]."""
        items, categories = self.items, self.categories
        _fill(
            order, inputs.event_type, inputs.item, inputs.category, inputs.gap, inputs.hour, inputs.numeric,
            items.rows, items.head, items.known, categories.rows, categories.head, categories.known,
            self._small, self._numeric, out,
        )  # fmt: skip
        if items.head < items.known:
            items.add_missing(inputs.item[order], out)
        if categories.head < categories.known:
            categories.add_missing(inputs.category[order], out)


def _width(tables: list[torch.Tensor]) -> int:
    return sum(table.shape[1] for table in tables)


@jit
def _fill(  # type: ignore[no-untyped-def]
    order, event_type, item, category, gap, hour, numeric,
    items, item_head, item_known, categories, category_head, category_known, small, numeric_weight, out,
):  # fmt: skip
    numbers = numeric.shape[1]
    for place_of in range(order.shape[0]):
        event = order[place_of]
        row = out[place_of]
        of_type = small[event_type[event]]
        of_gap = small[N_EVENT_TYPES + gap[event]]
        of_hour = small[N_EVENT_TYPES + GAP_BUCKETS + hour[event]]
        for column in range(row.shape[0]):
            row[column] = of_type[column] + of_gap[column] + of_hour[column]
        at = place(item[event], item_head, item_known)
        if at >= 0:
            _add(items[at], row)
        at = place(category[event], category_head, category_known)
        if at >= 0:
            _add(categories[at], row)
        for first in range(0, numbers - numbers % 4, 4):
            _add_four(numeric[event], numeric_weight, first, row)
        for number in range(numbers - numbers % 4, numbers):
            value = numeric[event, number]
            for column in range(row.shape[0]):
                row[column] += value * numeric_weight[number, column]


@jit
def _add(what, row):  # type: ignore[no-untyped-def]
    for column in range(row.shape[0]):
        row[column] += what[column]


@jit
def _add_four(values, weight, first, row):  # type: ignore[no-untyped-def]
    """Add four numbers times their weights in one pass over the row."""
    a, b, c, d = values[first], values[first + 1], values[first + 2], values[first + 3]
    of_a, of_b, of_c, of_d = weight[first], weight[first + 1], weight[first + 2], weight[first + 3]
    for column in range(row.shape[0]):
        row[column] += (a * of_a[column] + b * of_b[column]) + (c * of_c[column] + d * of_d[column])
