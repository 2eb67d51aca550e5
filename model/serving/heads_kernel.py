"""Kernels that run after the GRU: readouts, heads, and how likely each event was."""

import math

import numpy as np

from model.kernels.jit import jit
from model.kernels.simd_math import exp


@jit
def take_states(states, users, none_item, buffer, items):  # type: ignore[no-untyped-def]
    """Copy the users' states to the buffer's first rows, and the items of their last events to `items`."""
    hidden = buffer.shape[1]
    for row in range(users.shape[0]):
        resident = states[users[row]]
        state = buffer[row]
        for column in range(hidden):
            state[column] = resident[column]
        seen = np.int32(resident[hidden])
        items[row] = seen - 1 if seen > 0 else none_item


@jit
def put_states(buffer, items, last, users, states):  # type: ignore[no-untyped-def]
    """Copy each user's final state and item back to the hidden states."""
    hidden = buffer.shape[1]
    for row in range(users.shape[0]):
        resident = states[users[row]]
        state = buffer[last[row]]
        for column in range(hidden):
            resident[column] = state[column]
        resident[hidden] = np.float32(items[last[row]] + 1)


@jit
def apply(readouts, weight, bias, out):  # type: ignore[no-untyped-def]
    """Write the four heads of every readout (n, hidden) to `out` (n, 4); `weight` is (4, hidden)."""
    for row in range(readouts.shape[0]):
        readout = readouts[row]
        a, b, c, d = bias[0], bias[1], bias[2], bias[3]
        of_a, of_b, of_c, of_d = weight[0], weight[1], weight[2], weight[3]
        for column in range(readout.shape[0]):
            x = readout[column]
            a += x * of_a[column]
            b += x * of_b[column]
            c += x * of_c[column]
            d += x * of_d[column]
        out[row, 0] = a
        out[row, 1] = b
        out[row, 2] = c
        out[row, 3] = d


@jit
def answer(heads, before, after, event_type, next_event, raw_purchase, log_type):  # type: ignore[no-untyped-def]
    """Fill, in processing order: chances of the next type (m, 3), the raw purchase score (m,), and the log
    probability that the state before gave to each event's type (m,)."""
    for event in range(event_type.shape[0]):
        now = heads[after[event]]
        top = max(now[0], now[1], now[2])
        a, b, c = exp(now[0] - top), exp(now[1] - top), exp(now[2] - top)
        share = np.float32(1.0) / (a + b + c)
        next_event[event, 0] = a * share
        next_event[event, 1] = b * share
        next_event[event, 2] = c * share
        raw_purchase[event] = now[3]
        then = heads[before[event]]
        top = max(then[0], then[1], then[2])
        total = exp(then[0] - top) + exp(then[1] - top) + exp(then[2] - top)
        log_type[event] = then[event_type[event]] - top - np.float32(math.log(total))


@jit
def take_rows(source, numbers, out):  # type: ignore[no-untyped-def]
    """Copy rows of `source` by number to the first rows of `out`."""
    for row in range(numbers.shape[0]):
        for column in range(source.shape[1]):
            out[row, column] = source[numbers[row], column]


@jit
def log_items(readouts, others, asked, item, table, bias, log_item):  # type: ignore[no-untyped-def]
    """Write the log probability of the item of each event in `asked` (n,) to `log_item` (m,).

    `readouts` (n, hidden) are those before the events, `others` (n, references) the scores of the reference items.
    The estimate includes the item's own term, so its probability can never exceed 1.
    """
    for row in range(asked.shape[0]):
        event = asked[row]
        readout = readouts[row]
        own = table[item[event]]
        score = np.float32(0.0)
        for column in range(readout.shape[0]):
            score += readout[column] * own[column]
        score += bias[item[event]]
        scores = others[row]
        top = score
        for column in range(scores.shape[0]):
            top = max(top, scores[column])
        total = exp(score - top)
        for column in range(scores.shape[0]):
            total += exp(scores[column] - top)
        log_item[event] = score - top - np.float32(math.log(total))
