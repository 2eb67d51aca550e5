"""Limits of the rules that flag events."""

from typing import Annotated

import msgspec

from stream_app.settings.sources import doc


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the flags: an event is flagged when its user exceeds one."""

    clicks_1m: Annotated[int, doc("flag a user with more clicks than this within a minute", ge=1)] = 60
    distinct_items: Annotated[
        int, doc("flag a user with more different items than this among the last 20 events", ge=1)
    ] = 18
    purchases_1h: Annotated[int, doc("flag a user with more purchases than this within an hour", ge=1)] = 10
    amount_jump: Annotated[
        float,
        doc(
            "flag a purchase of more than this many times the median of the user's last 8 amounts",
            "times",
            gt=1,
        ),
    ] = 8.0
    surprise_p: Annotated[
        float, doc("flag an event whose p-value under the model is at most this", ge=0, le=1)
    ] = 0.001
    flag_cooldown_ms: Annotated[
        int,
        doc(
            "event time until a user can be flagged again for the same reason",
            "ms",
            ge=0,
            le=365 * 86_400_000,
        ),
    ] = 60_000
