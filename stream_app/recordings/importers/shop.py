"""Files of a shop's own events, as its shop file maps them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from stream_app.contract.events import MAX_VALUE_BYTES, encode_json
from stream_app.contract.mapping import TopicMapping
from stream_app.contract.records import EVENT_TYPES, INPUT_TOPICS
from stream_app.decoding.mapped import Invalid, Skipped, map_value
from stream_app.recordings.importers.files import READERS, Unreadable
from stream_app.recordings.importers.lines import Row, Source

#: The formats of files that a shop file applies to.
SHOP_FORMATS = tuple(READERS)
#: How many types and reasons a summary names.
_MOST_SHOWN = 10
#: How many types of the shop are counted by name, and the most characters of a name: a path to the wrong field may
#: lead to another text in each record.
_MOST_NAMES = 1000
_NAME_LENGTH = 100
_OTHER_NAMES = "(other names)"
_TOPIC_OF = dict(zip(EVENT_TYPES, INPUT_TOPICS, strict=True))


class ShopRows:
    """The events of files, and what was skipped: by the shop's name of the type, and by the reason."""

    def __init__(self, format_name: str, mapping: TopicMapping, keep: int = 0) -> None:
        """`keep`: how many events to keep as they were read, for a person to look at."""
        self.skipped: Counter[str] = Counter()  #: events whose type the shop file does not use
        self.reasons: Counter[str] = Counter()  #: lines that are not events, by what is wrong
        self.events: Counter[str] = Counter()  #: by event type
        #: The first events: their type, and the fields that have a value.
        self.first: list[dict[str, Any]] = []
        self._format, self._mapping, self._keep = format_name, mapping, keep

    def rows(self, source: Source) -> Iterator[Row]:
        """Yield the events of all files, in the order of their lines. Raises ImportFailed for an unreadable file."""
        values = READERS[self._format]
        for path in source.paths:
            for number, value in values(source, path):
                yield from self._events(source, path, number, value)

    def summary(self) -> list[str]:
        """What was read and what was not, one line for each."""
        events = ", ".join(f"{n:,} {name}" for name, n in self.events.most_common()) or "none"
        parts = [f"events: {events}"]
        if self.skipped:
            parts.append(f"types that are not used: {_listed(self.skipped)}")
        if self.reasons:
            parts.append(f"not events: {_listed(self.reasons)}")
        return parts

    def _events(self, source: Source, path: Path, number: int, value: Any) -> Iterator[Row]:
        if isinstance(value, Unreadable):
            self._bad(source, path, number, value.why)
            return
        for found in map_value(value, self._mapping):
            if isinstance(found, Invalid):
                problem = found.problem
                which = f"event {found.line + 1} of the line: " if found.line else ""
                self._bad(source, path, number, f"{problem.got}, expected {problem.expected}", which)
            elif isinstance(found, Skipped):
                name = found.name[:_NAME_LENGTH]
                known = name in self.skipped or len(self.skipped) < _MOST_NAMES
                self.skipped[name if known else _OTHER_NAMES] += 1
            else:
                body = encode_json(found.event)
                if len(body) > MAX_VALUE_BYTES:
                    self._bad(source, path, number, f"the event has more than {MAX_VALUE_BYTES} bytes")
                    continue
                self.events[found.event_type] += 1
                if len(self.first) < self._keep:
                    fields = msgspec.structs.asdict(found.event)
                    given = {name: value for name, value in fields.items() if value is not None}
                    self.first.append({"type": found.event_type, **given})
                yield Row(found.event.ts, _TOPIC_OF[found.event_type], found.event.user_id.encode(), body)

    def _bad(self, source: Source, path: Path, number: int, why: str, which: str = "") -> None:
        self.reasons[why] += 1
        source.skip(path, number, which + why)


def _listed(counts: Counter[str]) -> str:
    shown = ", ".join(f"{n:,} x {name or 'without a name'}" for name, n in counts.most_common(_MOST_SHOWN))
    return shown + (f", and {len(counts) - _MOST_SHOWN} more" if len(counts) > _MOST_SHOWN else "")
