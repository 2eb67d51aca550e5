"""The windows over a user's events and the features made of them, defined once for training and serving."""

#: Sliding windows as (name, length in ms, buckets). A window is the last `buckets` tumbling buckets of
#: length / buckets each, the current one included, on the user's own clock: the greatest `time` of the user's events.
WINDOWS = (
    ("1m", 60_000, 6),
    ("10m", 600_000, 10),
    ("1h", 3_600_000, 6),
    ("24h", 86_400_000, 24),
    ("7d", 604_800_000, 7),
)
#: The window whose sum of money is a feature: 24 h.
AMOUNT_WINDOW = 3
#: Last events of a user that the state keeps, and that `distinct_items` looks at.
LAST_EVENTS = 20
#: Names of the window features of one event, in column order: counts of each event type in the windows (the
#: event itself included), then money and variety.
WINDOW_FEATURES = (
    *(f"{kind}_{name}" for name, *_ in WINDOWS for kind in ("clicks", "browses", "purchases")),
    "amount_24h",  # money spent in the last 24 h
    "distinct_items",  # distinct items among the last LAST_EVENTS events
)
