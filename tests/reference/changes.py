"""Where later versions answer otherwise than commit 3c99cd3, on purpose. The only place where that is said.

An answer is named by where its source record stands: `clicks-1-62` is topic, partition and offset.
"""

from collections.abc import Mapping
from typing import Any

#: Cases of `edges.stream` whose answers changed, with the reason. No answer of such a case is compared, and at least
#: one must differ. The tests of the new behaviour stand beside the code that changed.
EDGES: Mapping[str, str] = {
    "null_fields": "optional fields that are null count as absent",
    "seconds": "a time in seconds is a dead letter",
    "integer_ids": "an id may be an integer, which is its decimal string",
    "long_names": "names of items and categories have at most 256 bytes",
}

#: Answers to `plain.stream` that changed, by (topic, place of the source record), with the reason.
#: topic: predictions, flags or dead-letters.
PLAIN: Mapping[tuple[str, str], str] = {}

#: Fields of a prediction or flag that are not compared, with the reason. A field that is new needs no entry: only the
#: fields that the reference has are compared.
FIELDS: Mapping[str, str] = {}


def expected_look_up(user: dict[str, Any]) -> dict[str, Any]:
    """What a look-up shows where commit 3c99cd3 showed `user`. A key that is new needs no entry here."""
    return user


#: Fields of the row that commit 3c99cd3 did not have and that remember something of events before the upgrade: a user
#: whose state was read from its changelog has their default, another one a value.
NEW_IN_ROWS: frozenset[str] = frozenset()
