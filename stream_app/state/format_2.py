"""The row of changelogs of format 2, whose values do not name their layout. It never changes again."""

import numpy as np

from stream_app.state.layout import describe

_TYPES = (("click", 1), ("browse", 1), ("purchase", 1))
_RINGS = (
    ("6 x 10000 ms", 6),
    ("10 x 60000 ms", 10),
    ("6 x 600000 ms", 6),
    ("24 x 3600000 ms", 24),
    ("7 x 86400000 ms", 7),
)
_REASONS = ("unlikely_event", "click_rate", "many_items", "purchase_rate", "amount_jump")

_RECENT_EVENT = np.dtype(
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
_ROW = np.dtype(
    [
        ("clock", "i8"),
        ("source", "i8", (3,)),
        ("sequence", "i8"),
        ("events", "i8"),
        ("late", "i8"),
        ("session_start", "i8"),
        ("last_ts", "i8", (3,)),
        ("head", "i8", (5,)),
        ("count", "i4", (53, 3)),
        ("amount", "f4", (53,)),
        ("purchases", "i8"),
        ("spent", "f8"),
        ("flagged", "i8", (5,)),
        ("recent", _RECENT_EVENT, (20,)),
    ],
    align=True,
)

FORMAT_2 = describe(
    _ROW,
    {
        "source": (_TYPES,),
        "last_ts": (_TYPES,),
        "head": (tuple((name, 1) for name, _ in _RINGS),),
        "count": (_RINGS, _TYPES),
        "amount": (_RINGS,),
        "flagged": (tuple((reason, 1) for reason in _REASONS),),
    },
)
