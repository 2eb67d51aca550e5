"""The steps of a commit, as a proxy between a worker and its broker sees them."""

from dataclasses import dataclass
from enum import Enum

PRODUCE, OFFSET_COMMIT, END_TXN, TXN_OFFSET_COMMIT = 0, 8, 26, 28

#: Requests with which a worker ends a commit, and with which it sends its offsets.
LAST = {"at_least_once": OFFSET_COMMIT, "exactly_once": END_TXN}
#: The name of a field of the partition's own record.
_OWN_RECORD = b"positions"
OFFSETS = {"at_least_once": OFFSET_COMMIT, "exactly_once": TXN_OFFSET_COMMIT}


class Step(Enum):
    """The step of a commit at which a fault strikes: what the broker has by then, and what it never gets."""

    OUTPUTS = "after outputs"  # outputs acknowledged; the state record never arrives
    WITHIN = "within changelog"  # state of some users acknowledged, but not the partition's own record (the last one)
    CHANGELOG = "after changelog"  # state acknowledged; the offsets never arrive
    OFFSETS = "after offsets sent"  # offsets sent; the worker never sees an answer
    UNANSWERED = "commit unanswered"  # the commit is done, but its answer is delayed
    ANSWERED = "after commit"  # the worker has the answer


@dataclass(frozen=True, slots=True)
class Frame:
    """A request of a worker, or the broker's answer to it."""

    key: int  #: the number of the request in Kafka's protocol
    outputs: bool  #: a produce request with outputs
    state: bool  #: a produce request with state
    whole: bool  #: a produce request with a partition's own record
    commits: bool  #: False for an EndTxn that aborts
    answer: bool  #: the broker's answer, not the request


def read_request(body: bytes, output: bytes, changelog: bytes) -> Frame:
    """Return what is known of a request; `output` and `changelog` are names of topics, `body` has no length."""
    key = int.from_bytes(body[:2], "big")
    version = int.from_bytes(body[2:4], "big")
    # EndTxn ends with a boolean, and from version 3 on with an empty set of tags after it.
    commits = key != END_TXN or body[-2 if version >= 3 else -1] == 1
    if key != PRODUCE:
        return Frame(key, False, False, False, commits, False)
    state = changelog in body
    return Frame(key, output in body, state, state and _OWN_RECORD in body, commits, False)


class Progress:
    """The progress of one worker's commit, frame by frame."""

    def __init__(self, guarantee: str) -> None:
        self._last, self._offsets = LAST[guarantee], OFFSETS[guarantee]
        self._transactional = guarantee == "exactly_once"
        #: Whether outputs were sent, or acknowledged, since the last answered commit.
        self.sent = self.acknowledged = False
        self.commits = 0  #: number of answered commits

    def take(self, frame: Frame) -> set[Step]:
        """Return the steps that a commit with outputs has reached when this frame arrives at the proxy."""
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
        # The offsets of a transaction are sent before the request that ends it; otherwise they end the commit.
        if frame.key == self._last and not frame.answer:
            reached.add(Step.OFFSETS)
        if frame.key == self._last and frame.answer:
            reached |= {Step.UNANSWERED, Step.ANSWERED}
        return reached


def passes(step: Step, guarantee: str) -> bool:
    """Whether the frame that reached a step is still forwarded."""
    if step is Step.OFFSETS:
        return guarantee == "at_least_once"  # with this guarantee, the request itself has the offsets
    return step is Step.ANSWERED
