"""The deliberate differences between the answers of later versions and of commit 3c99cd3. There is no other list.

An answer has the name of its source record: `clicks-1-62` is topic, partition and offset.
"""

from collections.abc import Mapping
from typing import Any

#: Cases of `edges.stream` whose answers changed, with the reason. No answer of such a case is compared, and at least
#: one must differ. Other tests cover the new behaviour.
EDGES: Mapping[str, str] = {
    "null_fields": "optional fields that are null count as absent",
    "seconds": "a time in seconds is a dead letter",
    "integer_ids": "an id may be an integer, which is its decimal string",
    "long_names": "names of items and categories have at most 256 bytes",
    "clock_ahead": "an event may be 30 s ahead and not 300 s, and makes no other user's events late",
    "one_event_id": "events of one id are repeats only where type and item are the same",
    "first_price": "amount_jump compares with the median of the last amounts, not with the mean of all",
    "late_user": "an event is late behind its own user's newest, not behind that of others",
}

#: Offsets of the predictions whose users had an event that was late behind another user's, by topic and partition: it
#: counts in its windows now, so the model sees other features in this and the user's next events.
_NOT_LATE = {
    "browses-0": "12 19 25 27 34 35 36 40 42 49 53 54 194 195 259",
    "browses-1": "1 43 59 61 64 65",
    "clicks-0": (
        "4 6 9 42 51 53 54 55 60 61 66 67 72 76 77 78 82 84 85 93 100 113 118 121 125 133 136 139 140 141 146 149 "
        "151 155 156 157 163 169 171 173 174 176 178 180 181 183 185 186 188 195 211 213 559 562 565 644 645 648 "
        "649 652 658 662 666 670 857 859 861 864 865 866 867 868 870 872 874 876 877 878 879 880 1032 1039"
    ),
    "clicks-1": "0 1 2 3 4 5 323 324 325 327 329 330 333 334 337 342 343 347",
    "purchases-0": "10 11 12 13 14 15 16 17 18 20 21 22 25 26 29 30 74",
}

#: Answers to `plain.stream` that changed, by (topic, place of the source record), with the reason.
#: topic: predictions, flags or dead-letters.
PLAIN: Mapping[tuple[str, str], str] = {
    **{
        (
            "predictions",
            f"{topic}-{offset}",
        ): "an event is late behind its own user's newest, not behind that of others"
        for topic, offsets in _NOT_LATE.items()
        for offset in offsets.split()
    },
    ("flags", "browses-0-53"): "purchases that were late behind another user's event count now",
    ("flags", "purchases-0-30"): "purchases that were late behind another user's event count now",
    (
        "flags",
        "purchases-0-26",
    ): "amount_jump compares with the median of the last amounts, not with the mean of all",
    (
        "flags",
        "purchases-1-4",
    ): "amount_jump compares with the median of the last amounts, not with the mean of all",
}

#: Fields of a prediction or flag that are not compared, with the reason. A field that is new needs no entry: only the
#: fields that the reference has are compared.
FIELDS: Mapping[str, str] = {}


def expected_look_up(user: dict[str, Any]) -> dict[str, Any]:
    """Return what a look-up must show if commit 3c99cd3 showed `user`. A new key needs no entry here."""
    return user


#: Fields of the row that commit 3c99cd3 did not have and that depend on events before the upgrade: a user
#: whose state comes from its changelog has their default there, another user has a value.
NEW_IN_ROWS: frozenset[str] = frozenset({"amounts", "kept"})
