"""Compiled code that applies events, one after the other, to the users' rows.

It is plain Python that numba compiles; `apply.py_func` is the same code uncompiled, for the tests. Each event sees
the row as the event before it left it, so the cutting into micro-batches makes no difference.
"""

import numpy as np

from stream_app.contract.events import SESSION_GAP_MS
from stream_app.contract.records import PURCHASE
from stream_app.kernels.item_checks import UNKNOWN_CHECK
from stream_app.kernels.jit import jit as _jit
from stream_app.state.row_layout import AMOUNTS, SEEDS
from stream_app.state.window_buckets import AMOUNT_WINDOW, BUCKET_MS, FIRST_BUCKET, LAST_EVENTS, WINDOWS

# What became of an event.
APPLIED, LATE, DUPLICATE, ALREADY_APPLIED = range(4)

_N_WINDOWS = len(WINDOWS)
_FEW = 3  # purchases from which on a usual amount is known
_MAX_RATIO = 1e30  # finite in 32 bits, also when multiplied by a mean

#: What the kernel returns for each event, in addition to the window features.
APPLIED_EVENT = np.dtype(
    [
        ("gap_s", "f4"),  # seconds since the user's clock before, -1 for their first event
        (
            "amount_ratio",
            "f4",
        ),  # amount of a purchase divided by what the user usually spends, 0 if unknown
        ("amount_usual", "f4"),  # what the user usually spends, before this purchase
        ("status", "i4"),
        ("first", "i4"),  # 1 if the user had no event before
        ("fresh", "i4"),  # 1 if the row expired and was reset just before this event
    ],
    align=True,
)


@_jit
def reset_row(row):  # type: ignore[no-untyped-def]
    """Empties a row except for its source offsets, which prevent that an event is applied twice."""
    row.clock = 0
    row.events = 0
    row.late = 0
    row.session_start = 0
    row.purchases = 0
    row.spent = 0.0
    row.kept = 0
    row.amounts[:] = 0.0
    row.last_ts[:] = 0
    row.head[:] = 0
    row.count[:, :] = 0
    row.amount[:] = 0.0
    row.flagged[:] = 0
    for i in range(LAST_EVENTS):
        e = row.recent[i]
        e.ts = 0
        e.item_hash = 0
        e.category_hash = 0
        e.event_hash = 0
        e.price = 0.0
        e.quantity = 0
        e.kind = 0
        e.gap_s = 0.0


@_jit
def _seen(row, checks, e):  # type: ignore[no-untyped-def]
    """Whether one of the last events had this event's id, type and item.

    The id alone is not enough: each line of an order may carry the order's number, for example.
    """
    for i in range(min(row.events, LAST_EVENTS)):
        r = row.recent[i]
        if r.event_hash != e.event_hash or r.kind != e.event_type or r.item_hash != e.item_hash:
            continue
        if checks[i] == e.item_check or checks[i] == UNKNOWN_CHECK or e.item_check == UNKNOWN_CHECK:
            return True
    return False


@_jit
def _count(row, event_type, time, amount, late):  # type: ignore[no-untyped-def]
    """Moves the rings to the user's clock and counts the event in its bucket of each window."""
    for w in range(_N_WINDOWS):
        start = FIRST_BUCKET[w]
        n = FIRST_BUCKET[w + 1] - start
        head = row.clock // BUCKET_MS[w]
        passed = head - row.head[w]
        if passed > 0:
            for b in range(head - min(passed, n) + 1, head + 1):
                i = start + b % n
                for column in range(row.count.shape[1]):
                    row.count[i, column] = 0
                row.amount[i] = 0.0
            row.head[w] = head
        bucket = time // BUCKET_MS[w]
        if not late and bucket > head - n:
            i = start + bucket % n
            row.count[i, event_type] += 1
            row.amount[i] += amount


@_jit
def _usual(row):  # type: ignore[no-untyped-def]
    """What a user with purchases usually spends: the median of the last amounts, which one large amount hardly moves.

    If too few amounts are stored, it is the mean of all: earlier versions did not store amounts.
    """
    n = min(row.kept, AMOUNTS)
    if n < min(row.purchases, _FEW):
        return row.spent / row.purchases
    return (_smallest(row.amounts, n, (n - 1) // 2) + _smallest(row.amounts, n, n // 2)) / 2.0


@_jit
def _smallest(amounts, n, place):  # type: ignore[no-untyped-def]
    """The amount at position `place` of the first n, when sorted."""
    for i in range(n):
        below = 0
        equal = 0
        for j in range(n):
            if amounts[j] < amounts[i]:
                below += 1
            elif amounts[j] == amounts[i]:
                equal += 1
        if below <= place < below + equal:
            return np.float64(amounts[i])
    return 0.0


@_jit
def _distinct(row, checks):  # type: ignore[no-untyped-def]
    """A lower bound of the distinct recent items: an unknown check counts as any other check of the same hash."""
    distinct = 0
    n = min(row.events, LAST_EVENTS)
    for i in range(n):
        item = row.recent[i].item_hash
        new = item != 0
        for j in range(i):
            if row.recent[j].item_hash == item and checks[j] == checks[i]:
                new = False
                break
        if new and checks[i] == UNKNOWN_CHECK:
            for j in range(n):
                if row.recent[j].item_hash == item and checks[j] != UNKNOWN_CHECK:
                    new = False
                    break
        if new:
            distinct += 1
    return distinct


@_jit
def _features(row, checks, out):  # type: ignore[no-untyped-def]
    """Counts of each event type in each window, the money of the last day, the number of distinct recent items."""
    types = row.count.shape[1]
    for w in range(_N_WINDOWS):
        for event_type in range(types):
            count = 0
            for i in range(FIRST_BUCKET[w], FIRST_BUCKET[w + 1]):
                count += row.count[i, event_type]
            out[types * w + event_type] = count
    money = 0.0
    for i in range(FIRST_BUCKET[AMOUNT_WINDOW], FIRST_BUCKET[AMOUNT_WINDOW + 1]):
        money += row.amount[i]
    out[types * _N_WINDOWS] = money
    out[types * _N_WINDOWS + 1] = _distinct(row, checks)


@_jit
def _seeds(row, recent_item, none, out):  # type: ignore[no-untyped-def]
    """The model's numbers of the last distinct items, newest first, padded with `none`."""
    found = 0
    n = min(row.events, LAST_EVENTS)
    for back in range(n):
        item = recent_item[(row.events - 1 - back) % LAST_EVENTS]
        if item == none:
            continue
        known = False
        for j in range(found):
            if out[j] == item:
                known = True
                break
        if not known:
            out[found] = item
            found += 1
            if found == SEEDS:
                return
    for j in range(found, SEEDS):
        out[j] = none


@_jit
def apply(  # type: ignore[no-untyped-def]
    rows,  # (slots,) ROW, changed
    recent_item,  # (slots, LAST_EVENTS) int32, the model's number of each recent item that it knows, changed
    recent_check,  # (slots, LAST_EVENTS) uint32, the check of each recent item, changed
    dirty,  # (slots,) bool, set where a row changed
    touched,  # (slots,) int64, number of the last micro-batch that touched the row, changed
    slots,  # (n,) int64
    events,  # (n,) EVENT
    watermark,  # (partitions,) int64 ms, changed
    sequence,  # (partitions,) int64, changed
    lateness_ms,
    ttl_ms,
    none_item,
    known_items,
    batch,  # number of this micro-batch
    out,  # (n,) APPLIED_EVENT
    features,  # (n, event types x windows + OTHER_FEATURES) float32; nothing here checks its width
    seeds,  # (n, SEEDS) int32
):
    """Applies events in order; returns how many it applied.

    It stops before an event whose user expired within the same micro-batch. The hidden state, which the model
    advances afterwards, can be emptied only between two calls.
    """
    for i in range(len(events)):
        e = events[i]
        slot = slots[i]
        row = rows[slot]
        p = e.partition
        o = out[i]
        before = watermark[p]
        expired = row.events > 0 and before - row.clock > ttl_ms
        if expired and touched[slot] == batch:
            return i
        sequence[p] += 1
        watermark[p] = max(before, e.time)
        o.first = 0
        o.fresh = 0
        o.gap_s = 0.0
        o.amount_ratio = 0.0
        o.amount_usual = 0.0
        if e.offset <= row.source[e.event_type]:
            o.status = ALREADY_APPLIED
            continue
        touched[slot] = batch
        dirty[slot] = True
        row.source[e.event_type] = e.offset
        if expired:
            reset_row(row)
            recent_item[slot, :] = none_item
            recent_check[slot, :] = UNKNOWN_CHECK
            o.fresh = 1
        if e.event_hash != 0 and _seen(row, recent_check[slot], e):
            o.status = DUPLICATE
            continue
        late = e.time < row.clock - lateness_ms  # lateness depends on the user's own clock only
        o.status = LATE if late else APPLIED
        if row.events == 0:
            o.first = 1
            gap = np.float32(-1.0)
        else:
            gap = np.float32(max(e.time - row.clock, 0) / 1000.0)
        o.gap_s = gap
        if row.events == 0 or e.time - row.clock > SESSION_GAP_MS:
            row.session_start = e.time
        row.clock = max(row.clock, e.time)
        row.sequence = sequence[p]
        row.last_ts[e.event_type] = max(row.last_ts[e.event_type], e.time)
        amount = 0.0
        if e.event_type == PURCHASE and e.price == e.price:  # a price that is not NaN
            amount = e.price * e.quantity
            if row.purchases > 0:
                usual = _usual(row)
                o.amount_usual = usual
                if usual > 0 and row.purchases >= _FEW:
                    o.amount_ratio = min(amount / usual, _MAX_RATIO)
            row.purchases += 1
            row.spent += amount
            row.amounts[row.kept % AMOUNTS] = amount
            row.kept += 1
        _count(row, e.event_type, e.time, amount, late)
        place = row.events % LAST_EVENTS
        r = row.recent[place]
        r.ts = e.ts
        r.item_hash = e.item_hash
        r.category_hash = e.category_hash
        r.event_hash = e.event_hash
        r.price = e.price
        r.quantity = e.quantity
        r.kind = e.event_type
        r.gap_s = gap
        recent_item[slot, place] = e.item if e.item < known_items else none_item
        recent_check[slot, place] = e.item_check
        row.events += 1
        if late:
            row.late += 1
        _features(row, recent_check[slot], features[i])
        _seeds(row, recent_item[slot], none_item, seeds[i])
    return len(events)
