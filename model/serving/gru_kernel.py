"""The GRU for rounds of a few users, in a kernel.

A user with a sixth of the events of a micro-batch of 4,096 causes about 600 rounds of one event each. The library's
matrix product is made for wide matrices: with a single row it spends most of its time on calls. Here one call runs
all these rounds.
"""

import numpy as np

from model.kernels.jit import jit
from model.kernels.simd_math import sigmoid, tanh

#: Rounds of fewer users than this go through the kernel, wider ones through TorchScript.
NARROW = 24


@jit
def advance(buffer, gates, sizes, before, row, users, weight, bias, inner):  # type: ignore[no-untyped-def]
    """Fill the buffer's rows of the rounds `sizes` (r,), the first of which begins at event `row`.

    `before` is the first buffer row of the states before that round, `inner` is scratch of (NARROW, 3 hidden).
    """
    hidden = buffer.shape[1]
    for r in range(sizes.shape[0]):
        size = sizes[r]
        _product(buffer[before : before + size], weight, bias, inner)
        for at in range(size):
            given = gates[row + at]
            state = buffer[before + at]
            after = buffer[users + row + at]
            for column in range(hidden):
                reset = sigmoid(inner[at, column] + given[column])
                update = sigmoid(inner[at, hidden + column] + given[hidden + column])
                new = tanh(given[2 * hidden + column] + reset * inner[at, 2 * hidden + column])
                after[column] = new + update * (state[column] - new)
        before = users + row
        row += size


@jit
def _product(states, weight, bias, out):  # type: ignore[no-untyped-def]
    """Write `states @ weight + bias` to the first rows of `out`; blocks of 4 x 4 keep sums in registers."""
    rows, inputs = states.shape
    for row in range(rows):
        for column in range(bias.shape[0]):
            out[row, column] = bias[column]
    whole = rows - rows % 4
    for first in range(0, inputs - inputs % 4, 4):
        for row in range(0, whole, 4):
            _four(states, weight, first, row, out)
        for row in range(whole, rows):
            _one(states[row], weight, first, out[row])
    for last in range(inputs - inputs % 4, inputs):
        for row in range(rows):
            for column in range(bias.shape[0]):
                out[row, column] += states[row, last] * weight[last, column]


@jit
def _one(state, weight, k, out):  # type: ignore[no-untyped-def]
    a, b, c, d = state[k], state[k + 1], state[k + 2], state[k + 3]
    of_a, of_b, of_c, of_d = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
    for column in range(out.shape[0]):
        out[column] += (a * of_a[column] + b * of_b[column]) + (c * of_c[column] + d * of_d[column])


@jit
def _four(states, weight, k, row, out):  # type: ignore[no-untyped-def]
    s = states[row : row + 4, k : k + 4]
    a0, a1, a2, a3 = s[0, 0], s[0, 1], s[0, 2], s[0, 3]
    b0, b1, b2, b3 = s[1, 0], s[1, 1], s[1, 2], s[1, 3]
    c0, c1, c2, c3 = s[2, 0], s[2, 1], s[2, 2], s[2, 3]
    d0, d1, d2, d3 = s[3, 0], s[3, 1], s[3, 2], s[3, 3]
    a, b, c, d = out[row], out[row + 1], out[row + 2], out[row + 3]
    w0, w1, w2, w3 = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
    for column in range(out.shape[1]):
        x0, x1, x2, x3 = w0[column], w1[column], w2[column], w3[column]
        a[column] += (a0 * x0 + a1 * x1) + (a2 * x2 + a3 * x3)
        b[column] += (b0 * x0 + b1 * x1) + (b2 * x2 + b3 * x3)
        c[column] += (c0 * x0 + c1 * x1) + (c2 * x2 + c3 * x3)
        d[column] += (d0 * x0 + d1 * x1) + (d2 * x2 + d3 * x3)


def scratch(hidden: int) -> np.ndarray:
    """Return what `advance` needs as `inner`."""
    return np.empty((NARROW, 3 * hidden), np.float32)
