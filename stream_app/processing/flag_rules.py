"""Flags by the model's surprise and by rules on the windows; each reason at most once per cool-down."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from model.serving.api import WINDOW_FEATURES
from stream_app.contract.outputs import FlagReason, FlagType
from stream_app.settings.flag_limits import Rules
from stream_app.state.row_layout import FLAG_REASONS

_UNLIKELY, _CLICKS, _ITEMS, _PURCHASES, _AMOUNT = range(len(FLAG_REASONS))
_FRAUD = (_PURCHASES, _AMOUNT)
_CLICKS_1M = WINDOW_FEATURES.index("clicks_1m")
_PURCHASES_1H = WINDOW_FEATURES.index("purchases_1h")
_DISTINCT = WINDOW_FEATURES.index("distinct_items")

#: Tail function of the model's calibration: p-values of values of a window feature.
Tail = Callable[[str, npt.NDArray[np.float32]], npt.NDArray[np.float32]]


def find(
    rules: Rules,
    flagged: npt.NDArray[np.int64],  # (slots, reasons) time of the last flag, 0 for none; changed
    slots: npt.NDArray[np.int64],  # (n,)
    time: npt.NDArray[np.int64],  # (n,) ms
    features: npt.NDArray[np.float32],  # (n, len(WINDOW_FEATURES))
    applied: npt.NDArray[np.void],  # (n,) APPLIED_EVENT
    p_value: npt.NDArray[np.float32] | None,  # (n,) of the model's surprise
    tail: Tail | None,
) -> list[tuple[int, FlagType, float, list[FlagReason]]]:
    """(event, flag_type, score, reasons) of each event to flag, in their order.

    The score is one minus the smallest tail probability of the reasons. For a rule without a calibrated tail it is
    1 - limit / (2 value): one half at the limit, close to one far beyond it.
    """
    clicks, purchases, distinct = features[:, _CLICKS_1M], features[:, _PURCHASES_1H], features[:, _DISTINCT]
    ratio = applied["amount_ratio"]
    rules_broken = {
        _UNLIKELY: p_value <= rules.surprise_p if p_value is not None else np.zeros(len(slots), np.bool_),
        _CLICKS: clicks > rules.clicks_1m,
        _ITEMS: distinct > rules.distinct_items,
        _PURCHASES: purchases > rules.purchases_1h,
        _AMOUNT: ratio > rules.amount_jump,
    }
    suspects = np.flatnonzero(np.logical_or.reduce(list(rules_broken.values())))
    if not len(suspects):
        return []
    found = []
    broken = np.zeros((len(slots), len(FLAG_REASONS)), np.bool_)
    for code, where in rules_broken.items():
        broken[suspects, code] = where[suspects]
    before = flagged[slots[suspects]]  # most broken rules were flagged a moment ago: drop these at once
    broken[suspects] &= (before == 0) | (time[suspects, None] - before >= rules.flag_cooldown_ms)
    for i in suspects[broken[suspects].any(axis=1)].tolist():
        last = flagged[slots[i]]
        now = int(time[i])
        codes = [
            code
            for code in np.flatnonzero(broken[i]).tolist()
            if last[code] == 0 or now - int(last[code]) >= rules.flag_cooldown_ms
        ]
        if not codes:
            continue
        reasons, odds = [], []
        for code in codes:
            last[code] = now
            if code == _UNLIKELY:
                assert p_value is not None
                p = float(p_value[i])
                reasons.append(
                    FlagReason(FLAG_REASONS[code], round(p, 6), rules.surprise_p, rules.surprise_p)
                )
            elif code == _AMOUNT:
                usual = float(applied["amount_usual"][i])
                amount, limit = round(float(ratio[i]) * usual, 2), round(rules.amount_jump * usual, 2)
                reasons.append(FlagReason(FLAG_REASONS[code], amount, round(usual, 2), limit))
                p = rules.amount_jump / (2 * float(ratio[i]))
            else:
                column, name, most = {
                    _CLICKS: (clicks, "clicks_1m", rules.clicks_1m),
                    _ITEMS: (distinct, "distinct_items", rules.distinct_items),
                    _PURCHASES: (purchases, "purchases_1h", rules.purchases_1h),
                }[code]
                value = float(column[i])
                p = float(tail(name, column[i : i + 1])[0]) if tail else most / (2 * value)
                reasons.append(
                    FlagReason(FLAG_REASONS[code], round(value), most, most)
                )  # a count, as its limit
            odds.append(p)
        flag_type: FlagType = "fraud" if any(code in _FRAUD for code in codes) else "anomaly"
        found.append((i, flag_type, round(min(1.0, max(0.0, 1.0 - min(odds))), 5), reasons))
    return found
