"""Settings of the flags. `stream_app.settings` has all others."""

from typing import Annotated

import msgspec

from stream_app.settings.sources import doc


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the flags: what a user may do before an event of theirs is flagged."""

    clicks_1m: Annotated[int, doc("flag a user above this many clicks within a minute", ge=1)] = 60
    distinct_items: Annotated[
        int, doc("flag a user above this many distinct items among their last events", ge=1)
    ] = 18
    purchases_1h: Annotated[int, doc("flag a user above this many purchases within an hour", ge=1)] = 10
    amount_jump: Annotated[
        float,
        doc(
            "flag a purchase above this many times what the user usually spends: the median of their last 8",
            "times",
            gt=1,
        ),
    ] = 8.0
    surprise_p: Annotated[
        float, doc("flag an event to which the model gives at most this p-value", ge=0, le=1)
    ] = 0.001
    flag_cooldown_ms: Annotated[
        int,
        doc("event time before a user is flagged again for the same reason", "ms", ge=0, le=365 * 86_400_000),
    ] = 60_000
