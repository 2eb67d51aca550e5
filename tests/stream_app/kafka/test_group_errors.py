"""Messages for the group's errors, and safe reading of its members' data."""

import msgspec
import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_app.worker.transport.assignor import CopartitionedAssignor, Owned
from stream_app.worker.transport.group import readable
from stream_app.worker.transport.group_refusals import PATIENCE_S, PAUSES_S, Patience, Who, meaning
from tests.stream_app.worker.test_assignor import Topics

WHO = Who("shop", "pod-0", 6000)
TOPICS = ("browses", "clicks", "purchases")


@pytest.mark.parametrize(
    ("code", "words", "passes"),
    [
        (23, "in use by an application of another kind", True),
        (81, "group.max.size", True),
        (82, "another worker runs as instance pod-0", False),
        (30, "allow it Read on group shop", False),
        (29, "allow it Read on the inputs", False),
        (26, "no session timeout of 6000 ms", False),
        (24, "set FORECLICK_GROUP", False),
        (35, "Kafka 2.3 or later", False),
        (-1, "error code -1", True),
        (4711, "error code 4711", True),
        (None, "failed (odd)", True),
    ],
)
def test_refusals_in_words(code: int | None, words: str, passes: bool) -> None:
    """Each refusal is one sentence that names the group and the remedy; unknown errors may be temporary."""
    found = meaning(code, WHO, "odd")
    assert words in found.sentence and "shop" in found.sentence
    assert found.passes is passes
    assert "\n" not in found.sentence


def test_patience_ends() -> None:
    """Pauses grow to the last one; after the limit there is none, and a success resets them."""
    patience, now, pauses = Patience(), 1000.0, []
    while (pause := patience.next_pause(now)) is not None:
        pauses.append(pause)
        now += pause
    assert pauses[:6] == [*PAUSES_S, PAUSES_S[-1]]
    assert PATIENCE_S <= sum(pauses) < PATIENCE_S + PAUSES_S[-1]
    patience.renew()
    assert patience.next_pause(now) == PAUSES_S[0]


@given(st.none() | st.binary(max_size=400), st.none() | st.binary(max_size=400))
@settings(max_examples=500, deadline=None)
@example(None, None)
@example(b"", b"")
@example(b"\x00\x00\x00\x00\x00\x05\x00", None)
@example(ConsumerProtocolMemberMetadata(0, None, b"").encode(), b"\x93\x90\x90" + b"\x91" * 100_000)
@example(ConsumerProtocolMemberMetadata(0, [None, "clicks"], None).encode(), b"\x91\x91\xcf" + b"\xff" * 8)
@example(b"\x00\x00\x7f\xff\xff\xff", b"\x91\xdd\xff\xff\xff\xff")
def test_any_words_of_a_member_leave_the_leader_at_work(
    metadata: bytes | None, user_data: bytes | None
) -> None:
    """Whatever bytes a member sends, the others get all partitions, each once, and the leader raises nothing."""
    assignor = CopartitionedAssignor(1)
    said = {
        "bytes": metadata,
        "data": ConsumerProtocolMemberMetadata(0, list(TOPICS), user_data).encode(),
        "worker": assignor.metadata(TOPICS).encode(),
    }
    members = {
        name: ConsumerProtocolMemberMetadata.decode(readable(each, TOPICS)) for name, each in said.items()
    }
    given_ = assignor.assign(Topics(dict.fromkeys(TOPICS, 4)), members)
    for each in given_.values():
        ConsumerProtocolMemberAssignment.decode(each.encode())
    places = sorted((t, p) for each in given_.values() for t, ps in each.assignment for p in ps)
    assert places == [(topic, p) for topic in TOPICS for p in range(4)]


def test_a_member_is_read_as_it_is() -> None:
    """A worker's own data is read back unchanged; topics that the reader does not have are left out."""
    owned = msgspec.msgpack.encode(Owned([1, 2], [3]))
    metadata = ConsumerProtocolMemberMetadata(0, ["clicks", "other", "purchases"], owned)
    read = ConsumerProtocolMemberMetadata.decode(readable(metadata.encode(), TOPICS))
    assert (read.version, read.subscription, read.user_data) == (0, ["clicks", "purchases"], owned)
