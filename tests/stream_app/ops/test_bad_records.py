"""Bad records in the log: the rate of examples is bounded, the counts are exact."""

import json
from io import StringIO

import pytest

from stream_app.contract.events import BadRecord
from stream_app.contract.records import Record
from stream_app.ops.bad_records import EXAMPLE_EVERY_S, BadRecordLog
from stream_app.ops.logging import setup_logging


def bad(n: int, reason: str, offset: int) -> list[BadRecord]:
    """Return n bad records of one reason, one after the other."""
    return [
        BadRecord(Record("clicks", 1, offset + i, 0, None, b"{", ()), reason, "ts", "a time")
        for i in range(n)
    ]


@pytest.fixture
def said() -> StringIO:
    """The log as JSON lines."""
    stream = StringIO()
    setup_logging("info", "json", stream)
    return stream


def lines(said: StringIO) -> list[tuple[str, int, str]]:
    """Return reason, count and example of each line."""
    found = [json.loads(line) for line in said.getvalue().splitlines()]
    assert all(line["message"] == "bad records moved to the dead-letter topic" for line in found)
    return [(line["reason"], line["count"], line["example"]) for line in found]


def test_few_examples_and_every_count(said: StringIO) -> None:
    """A million bad records give a few lines; records without a line are in the count of the next one."""
    clock = [0.0]
    log = BadRecordLog(lambda: clock[0])
    assert log.add([]) == {}
    assert log.add([*bad(3, "malformed", 0), *bad(2, "future", 3)]) == {"malformed": 3, "future": 2}
    assert lines(said) == [("malformed", 3, "clicks-1-0"), ("future", 2, "clicks-1-3")]
    for batch in range(100):
        clock[0] += EXAMPLE_EVERY_S / 200
        assert log.add(bad(100, "malformed", 5 + 100 * batch)) == {"malformed": 100}
    assert len(lines(said)) == 2
    clock[0] = EXAMPLE_EVERY_S
    log.add(bad(1, "malformed", 20_000))
    assert lines(said)[2:] == [("malformed", 10_001, "clicks-1-20000")]
    log.add(bad(1, "empty", 20_001))
    assert lines(said)[3:] == [("empty", 1, "clicks-1-20001")]
