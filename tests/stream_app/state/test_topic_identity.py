"""Whether a state's positions belong to the topics and to the group's offsets."""

import re

import msgspec
import pytest

from stream_app.kafka.errors import TopicError
from stream_app.state.row_layout import FORMAT
from stream_app.state.topic_identity import (
    BEHIND_S,
    LogEnd,
    RecordsBehindOpenTransaction,
    StateAheadOfLog,
    check_ids,
    compare,
)
from stream_app.state.users import PartitionMeta, decode_meta, encode_meta

TOPICS = ("clicks", "browses", "purchases")
IDS = [b"a" * 16, b"b" * 16, b"c" * 16]


def test_other_topics_are_refused() -> None:
    """A state of another topic is refused by name; if ids are unknown on one side, there is no error."""
    check_ids(TOPICS, IDS, IDS)
    check_ids(TOPICS, [], IDS)
    check_ids(TOPICS, IDS, [])
    with pytest.raises(TopicError, match="topic browses was deleted and made again") as refused:
        check_ids(TOPICS, IDS, [IDS[0], b"x" * 16, IDS[2]])
    assert "clicks" not in str(refused.value)


def test_ids_in_the_record_of_a_partition() -> None:
    """The ids are read back unchanged; a record of a version without ids has none."""
    meta = PartitionMeta(FORMAT, 8, 0, "", 1, 1, [1, 2, 3], 1, topic_ids=IDS)
    assert decode_meta(encode_meta(meta)).topic_ids == IDS
    fields = msgspec.structs.asdict(meta)
    del fields["topic_ids"]
    assert decode_meta(msgspec.msgpack.encode(fields)).topic_ids == []


def end(stable: int, at_s: float) -> LogEnd:
    return LogEnd(stable, stable, int(at_s * 1000))


def test_a_log_that_ends_before_the_state() -> None:
    """A log end behind the state counts only if the broker reports it long enough: not once, and not briefly."""
    behind = StateAheadOfLog()
    for _ in range(20):
        behind.look("clicks", 0, 104, end(14, 100))  # always the same answer
    behind.look("clicks", 0, 104, end(14, 100 + BEHIND_S - 0.1))
    behind.look("clicks", 0, 104, end(104, 102 + BEHIND_S))  # the cause was a new leader
    behind.look("clicks", 0, 104, end(14, 200))
    behind.look("clicks", 0, 104, None)
    behind.look("clicks", 0, 104, end(14, 300))
    with pytest.raises(TopicError, match=r"clicks-0 ends at offset 15, but .* up to 104"):
        behind.look("clicks", 0, 104, end(15, 300 + BEHIND_S))


@pytest.mark.parametrize(
    ("positions", "committed", "words", "again"),
    [
        ([10, 0, 3], [10, None, 3], [], False),
        (None, [None, None, None], [], False),
        (
            [10, 0, 3],
            [0, None, None],
            ["offsets 0 to 9 of clicks-1, offsets 0 to 2 of purchases-1 are in"],
            True,
        ),
        ([10, 0, 3], [12, None, 3], ["offsets 10 to 11 of clicks-1 are not in the state"], False),
        (None, [12, None, 3], ["no state of partition 1, though .* offset 12 of clicks-1, offset 3"], False),
    ],
)
def test_offsets_beside_the_state(
    positions: list[int] | None, committed: list[int | None], words: list[str], again: bool
) -> None:
    """Offsets before and after the state are each reported in one sentence; only those before are committed again."""
    told = compare(1, TOPICS, positions, dict(zip(TOPICS, committed, strict=True)))
    assert told.again is again
    assert len(told.sentences) == len(words)
    for sentence, start in zip(told.sentences, words, strict=True):
        assert re.search(start, sentence), sentence


def test_transactions_that_stay_open() -> None:
    """Waiting records are counted immediately; the waiting time counts only for the same transaction."""
    held = RecordsBehindOpenTransaction()
    assert held.look("clicks", 0, LogEnd(10, 10, 0)) == (0, 0)
    assert held.look("clicks", 0, LogEnd(10, 14, 1000)) == (4, 0)
    assert held.look("clicks", 0, LogEnd(10, 20, 9000)) == (10, 8)
    assert held.look("clicks", 0, LogEnd(12, 20, 9500)) == (8, 0)
    assert held.look("clicks", 0, LogEnd(12, 21, 9900)) == (9, 0.4)
    assert held.look("clicks", 0, LogEnd(21, 21, 9950)) == (0, 0)
