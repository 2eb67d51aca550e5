"""The order in which a micro-batch goes through the GRU.

Round r contains the r-th event of every user that has more than r events. Users with the most events come first, so
each round works on a contiguous prefix of the users. The buffer of states has these rows:

    [ state of every user before the batch | states after round 0 | states after round 1 | ... ]

The state before an event of round r is the row at the same position of the preceding block.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model.kernels.jit import jit


class Arrangement(NamedTuple):
    """The positions of all events of a micro-batch (m events of u users) in the buffer of u + m rows."""

    users: npt.NDArray[np.int64]  # (u,) slots, most events first
    order: npt.NDArray[np.int64]  # (m,) event numbers in the order of the rounds
    sizes: list[int]  # events of each round, descending
    before: npt.NDArray[np.int64]  # (m,) buffer row of the state before each event
    after: npt.NDArray[np.int64]  # (m,) buffer row of the state after each event
    last: npt.NDArray[np.int64]  # (u,) buffer row of each user's final state


def arrange(slots: npt.NDArray[np.int64]) -> Arrangement:
    """Return the rounds of a micro-batch; `slots` (m,) in processing order, m >= 1, none negative."""
    users, order, sizes, before, after, last = _arrange(np.ascontiguousarray(slots, np.int64))
    return Arrangement(users, order, sizes.tolist(), before, after, last)


@jit
def _arrange(slots):  # type: ignore[no-untyped-def]
    m = slots.shape[0]
    user, counts, first = _numbered(slots)
    u = first.shape[0]
    most = 0
    for number in range(u):
        most = max(most, counts[number])
    # sizes[r]: users with more than r events, which is also the position of the first user with r events.
    sizes = np.zeros(most + 1, np.int64)
    for number in range(u):
        sizes[counts[number] - 1] += 1
    for r in range(most - 2, -1, -1):
        sizes[r] += sizes[r + 1]
    start = np.zeros(most + 1, np.int64)  # start[r + 1]: block of round r
    start[1] = u
    for r in range(1, most):
        start[r + 1] = start[r] + sizes[r - 1]
    free = sizes.copy()
    place = np.empty(u, np.int64)
    users = np.empty(u, np.int64)
    last = np.empty(u, np.int64)
    for number in range(u):
        count = counts[number]
        at = free[count]
        free[count] += 1
        place[number] = at
        users[at] = first[number]
        last[at] = start[count] + at
        counts[number] = 0  # from here on it counts the events met so far
    order = np.empty(m, np.int64)
    before = np.empty(m, np.int64)
    after = np.empty(m, np.int64)
    for event in range(m):
        number = user[event]
        nth = counts[number]
        counts[number] += 1
        before[event] = start[nth] + place[number]
        after[event] = start[nth + 1] + place[number]
        order[after[event] - u] = event
    return users, order, sizes[:most], before, after, last


@jit
def _numbered(slots):  # type: ignore[no-untyped-def]
    """Number the slots by first occurrence: each event's number, and each number's count of events and slot."""
    m = slots.shape[0]
    bits = 4
    while (1 << bits) < 2 * m:
        bits += 1
    mask = (1 << bits) - 1
    shift = np.uint64(64 - bits)
    taken = np.zeros(1 << bits, np.int32)  # open addressing: number + 1, 0 = free
    user = np.empty(m, np.int64)
    counts = np.zeros(m, np.int64)
    first = np.empty(m, np.int64)
    u = 0
    for event in range(m):
        slot = slots[event]
        # Fibonacci hashing (Knuth 1998, 6.4): the high bits of a product with 2^64 / golden ratio.
        at = np.int64((np.uint64(slot) * np.uint64(0x9E3779B97F4A7C15)) >> shift)
        while taken[at] != 0 and first[taken[at] - 1] != slot:
            at = (at + 1) & mask
        if taken[at] == 0:
            first[u] = slot
            u += 1
            taken[at] = u
        number = taken[at] - 1
        user[event] = number
        counts[number] += 1
    return user, counts, first[:u]
