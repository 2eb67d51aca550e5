"""The steps of a commit as they can be seen from between a worker and its broker."""

from dataclasses import dataclass
from enum import Enum

PRODUCE, OFFSET_COMMIT, END_TXN, TXN_OFFSET_COMMIT = 0, 8, 26, 28

#: Requests by which a worker ends a commit, and by which it hands over its offsets.
LAST = {"at_least_once": OFFSET_COMMIT, "exactly_once": END_TXN}
#: The name of a field of the partition's own record.
_OWN_RECORD = b"positions"
OFFSETS = {"at_least_once": OFFSET_COMMIT, "exactly_once": TXN_OFFSET_COMMIT}


class Step(Enum):
    """Where in a commit a fault strikes. What has reached the broker by then, and what never will."""

    OUTPUTS = "after outputs"  # outputs acknowledged; the state record never arrives
    WITHIN = (
        "within changelog"  # some users' state acknowledged, not the partition's own record that comes last
    )
    CHANGELOG = "after changelog"  # state acknowledged; the offsets never arrive
    OFFSETS = "after offsets sent"  # offsets sent; the worker never sees an answer
    UNANSWERED = "commit unanswered"  # the commit is done, its answer withheld for a while
    ANSWERED = "after commit"  # the worker has its answer


@dataclass(frozen=True, slots=True)
class Frame:
    """A request of a worker, or the broker's answer to it."""

    key: int  #: which request of Kafka's protocol
    outputs: bool  #: a produce request that holds outputs
    state: bool  #: a produce request that holds state
    whole: bool  #: and with it a partition's own record
    commits: bool  #: not an EndTxn that aborts
    answer: bool  #: the broker's answer, not the request


def read_request(body: bytes, output: bytes, changelog: bytes) -> Frame:
    """What a request is about; `output` and `changelog` are names of topics. `body` is without its length."""
    key = int.from_bytes(body[:2], "big")
    version = int.from_bytes(body[2:4], "big")
    # EndTxn ends in a boolean, from version 3 on followed by an empty set of tags.
    commits = key != END_TXN or body[-2 if version >= 3 else -1] == 1
    if key != PRODUCE:
        return Frame(key, False, False, False, commits, False)
    state = changelog in body
    return Frame(key, output in body, state, state and _OWN_RECORD in body, commits, False)


class Progress:
    """How far one worker is with its commit, frame by frame."""

    def __init__(self, guarantee: str) -> None:
        self._last, self._offsets = LAST[guarantee], OFFSETS[guarantee]
        self._transactional = guarantee == "exactly_once"
        #: Outputs were sent, or acknowledged, since the last commit that was answered.
        self.sent = self.acknowledged = False
        self.commits = 0  #: commits answered

    def take(self, frame: Frame) -> set[Step]:
        """The steps that a commit with work in it has reached once this frame has come to the proxy."""
        reached: set[Step] = set()
        at_work = self.acknowledged
        if frame.key == PRODUCE and not frame.answer:
            if frame.state and at_work:
                reached.add(Step.OUTPUTS)
            self.sent = self.sent or frame.outputs
        elif frame.key == PRODUCE:
            if frame.state and not frame.whole and at_work:
                reached.add(Step.WITHIN)
            self.acknowledged = self.acknowledged or frame.outputs
        if at_work and frame.commits:
            reached |= self._of_commit(frame)
        if frame.key == self._last and frame.answer:
            self.commits += 1
            self.sent = self.acknowledged = False
        return reached

    def _of_commit(self, frame: Frame) -> set[Step]:
        reached: set[Step] = set()
        if frame.key == self._offsets and not frame.answer:
            reached.add(Step.CHANGELOG)
        # Offsets of a transaction are sent before its end is asked for; otherwise they are the end.
        if frame.key == self._last and not frame.answer:
            reached.add(Step.OFFSETS)
        if frame.key == self._last and frame.answer:
            reached |= {Step.UNANSWERED, Step.ANSWERED}
        return reached


def passes(step: Step, guarantee: str) -> bool:
    """Whether the frame that reached a step still goes where it was going."""
    if step is Step.OFFSETS:
        return guarantee == "at_least_once"  # there the request itself holds the offsets
    return step is Step.ANSWERED
