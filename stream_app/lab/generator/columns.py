"""The columns of events between the simulation and the encoder."""

from typing import Any

import numpy as np
import numpy.typing as npt

#: Who made an event.
SHOPPER, BOT, FRAUD = range(3)
#: Lists in which an item was shown; `listing` has indexes into these names.
LISTINGS = ("search", "category", "recommended", "home")

ROW = np.dtype(
    [
        ("time_s", "f8"),  # shop time since the start
        ("ts", "i8"),  # Unix ms, the event's own time
        ("append", "i8"),  # Unix ms, when the broker gets it
        ("serial", "i8"),  # identifies the event; a duplicate has the same number
        ("session", "i8"),
        ("order", "i8"),  # number within the session of a purchase's order, else -1
        ("late_ms", "i8"),  # how far `ts` was moved back
        ("user", "i4"),
        ("item", "i4"),  # -1 for none
        ("category", "i4"),
        ("query", "i4"),  # -1 for none
        ("position", "i4"),  # place in the list, -1 for none
        ("quantity", "i4"),
        ("listing", "i1"),  # -1 for none
        ("event_type", "i1"),  # 0 click, 1 browse, 2 purchase
        ("device", "i1"),
        ("country", "i1"),
        ("maker", "i1"),  # SHOPPER, BOT or FRAUD
        ("fault", "i1"),  # index of the fault of a malformed record, -1 for a valid one
        ("duplicate", "?"),
        ("msgpack", "?"),
    ],
    align=True,
)

EventRows = npt.NDArray[np.void]


def rows(n: int, **columns: Any) -> EventRows:
    """Return `n` rows with the given columns and "none" in all others."""
    out = np.zeros(n, ROW)
    for name in ("order", "item", "query", "position", "listing", "fault"):
        out[name] = -1
    out["quantity"] = 1
    for name, values in columns.items():
        out[name] = values
    return out
