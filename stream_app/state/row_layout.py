"""The layout of a user's row, in memory and in the changelog.

A field may be added or dropped: rows of other versions are read by field name (`evolve` says which changes need no
further work, and which need a function in `LAYOUT.migrations`). `FORMAT` changes only with the encoding of values.
Code that names fields one by one: `apply_events.reset_row` (an empty row), `plausibility` (which values are possible)
and `processing.user_view` (what a look-up shows).
"""

from typing import get_args

import numpy as np

from stream_app.contract.outputs import FlagReasonCode
from stream_app.contract.records import EVENT_TYPES, INPUT_TOPICS
from stream_app.state.evolve import ring
from stream_app.state.format_2 import FORMAT_2
from stream_app.state.layout import Layout
from stream_app.state.window_buckets import AMOUNT_WINDOW, BUCKETS, LAST_EVENTS, WINDOW_FEATURES, WINDOWS

#: Of the changelog. 2: the row of `format_2` without a number. 3: the number of a layout comes first, see `layout`.
FORMAT = 3
FORMATS_READ = (2, 3)

#: Last amounts stored per user, to know what the user usually spends.
AMOUNTS = 8
#: Distinct items that the model gets as seeds of candidates, newest first.
SEEDS = 5

#: Reasons of flags, in the order of the columns of `flagged`.
FLAG_REASONS: tuple[FlagReasonCode, ...] = get_args(FlagReasonCode)

RECENT_EVENT = np.dtype(
    [
        ("ts", "i8"),
        ("item_hash", "u8"),
        ("category_hash", "u8"),
        ("event_hash", "u8"),
        ("price", "f4"),
        ("quantity", "i4"),
        ("kind", "i4"),
        ("gap_s", "f4"),
    ],
    align=True,
)


def row_dtype(event_types: int) -> np.dtype[np.void]:
    """Rows of a shop with so many event types."""
    return np.dtype(
        [
            ("clock", "i8"),  # greatest time seen, Unix ms; windows and gaps are measured from it
            ("source", "i8", (event_types,)),  # last source offset applied, for each input topic; -1 for none
            ("sequence", "i8"),  # number of the user's last event within the partition, for eviction
            ("events", "i8"),  # events applied since the user was last forgotten
            ("late", "i8"),  # how many of them were too late for their window
            ("session_start", "i8"),
            ("last_ts", "i8", (event_types,)),  # time of the last event of each type, 0 for none
            ("head", "i8", (len(WINDOWS),)),  # number of the newest bucket of each window
            ("count", "i4", (BUCKETS, event_types)),
            ("amount", "f4", (BUCKETS,)),  # money spent
            ("purchases", "i8"),  # with a price, of all time
            ("spent", "f8"),
            ("kept", "i8"),  # how many of them were put into `amounts`
            ("amounts", "f4", (AMOUNTS,)),  # of the last purchases; number n is at n % AMOUNTS
            ("flagged", "i8", (len(FLAG_REASONS),)),  # time of the last flag for each reason, 0 for none
            ("recent", RECENT_EVENT, (LAST_EVENTS,)),  # event number n is at n % LAST_EVENTS
        ],
        align=True,
    )


ROW = row_dtype(len(EVENT_TYPES))

# The kernel writes a feature for each window and event type, and the model reads them by their place.
assert (
    *(f"{topic}_{window}" for window, *_ in WINDOWS for topic in INPUT_TOPICS),
    f"amount_{WINDOWS[AMOUNT_WINDOW][0]}",
    "distinct_items",
) == WINDOW_FEATURES, "the model's window features are not those that the rows give"
#: Features beside the counts: money and variety.
OTHER_FEATURES = len(WINDOW_FEATURES) - len(WINDOWS) * len(EVENT_TYPES)

#: Names of the places of arrays, for `evolve`: values of an event type, reason or window are copied by its name.
_TYPES = tuple((name, 1) for name in EVENT_TYPES)
_RINGS = tuple((f"{n} x {length // n} ms", n) for _, length, n in WINDOWS)


def _empty() -> np.ndarray:
    row = np.zeros(1, ROW)
    row["source"] = -1
    return row


LAYOUT = Layout(
    _empty(),
    axes={
        "source": (_TYPES,),
        "last_ts": (_TYPES,),
        "head": (tuple((name, 1) for name, _ in _RINGS),),
        "count": (_RINGS, _TYPES),
        "amount": (_RINGS,),
        "flagged": (tuple((reason, 1) for reason in FLAG_REASONS),),
    },
    migrations={"recent": ring("recent", "events"), "amounts": ring("amounts", "kept")},
    first=FORMAT_2,
)
