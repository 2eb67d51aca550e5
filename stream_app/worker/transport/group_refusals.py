"""What a refusal of the consumer group means, in one sentence, and whether it may pass by itself. Pure."""

from typing import NamedTuple

from aiokafka.errors import for_code

#: Codes of Kafka's protocol guide; aiokafka does not know all of them.
REBALANCING, UNKNOWN_MEMBER = 27, 25
GROUP_FULL, FENCED_INSTANCE = 81, 82
_OTHER_PROTOCOL, _NO_NAME, _NO_SESSION, _NO_TOPIC_RIGHT, _NO_RIGHT, _NO_VERSION = 23, 24, 26, 29, 30, 35

#: Seconds before another try; the last one holds for all later ones.
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 10.0)
#: For how long one refusal after the other is waited out, in seconds: Kafka gives a new member that stands in the way
#: of all others up after five minutes.
PATIENCE_S = 600.0


class Who(NamedTuple):
    """What a worker tells its group about itself."""

    group: str
    instance: str  #: empty where it has no fixed name
    session_ms: int


class Meaning(NamedTuple):
    """What a refusal means."""

    sentence: str
    passes: bool  #: it may be over by itself


def meaning(code: int | None, who: Who, said: str = "") -> Meaning:
    """What an error code of the group means for this worker; `said`: what the client says where there is none."""
    group = f"group {who.group}"
    if code == _OTHER_PROTOCOL:
        return Meaning(
            f"{group} is in use by an application of another kind: stop that one, or set FORECLICK_GROUP to a name "
            "that only this worker and its like use",
            True,
        )
    if code == GROUP_FULL:
        return Meaning(
            f"{group} is full, the broker's group.max.size allows no more members: end another worker, or raise it",
            True,
        )
    if code == FENCED_INSTANCE:
        return Meaning(
            f"another worker runs as instance {who.instance} of {group} and has taken this one's place: give each "
            "worker a FORECLICK_INSTANCE_ID of its own, or none",
            False,
        )
    if code == _NO_RIGHT:
        return Meaning(
            f"this user may not be a member of {group}: allow it Read on {group}, or set FORECLICK_GROUP to one "
            "that it may use",
            False,
        )
    if code == _NO_TOPIC_RIGHT:
        return Meaning(
            f"this user may not read the offsets of an input for {group}: allow it Read on the inputs", False
        )
    if code == _NO_SESSION:
        return Meaning(
            f"the broker takes no session timeout of {who.session_ms} ms for {group}: set "
            "FORECLICK_SESSION_TIMEOUT_MS between its group.min.session.timeout.ms and group.max.session.timeout.ms",
            False,
        )
    if code == _NO_NAME:
        return Meaning(f"the broker takes no group of the name {who.group!r}: set FORECLICK_GROUP", False)
    if code == _NO_VERSION:
        return Meaning(
            f"the broker does not speak the version of the group protocol that {group} needs: use Kafka 2.3 or "
            "later, and a group.version that allows classic groups",
            False,
        )
    if code is None:
        return Meaning(
            f"the coordination of {group} failed ({said}): look for members of it that are no Foreclick workers, or "
            "set FORECLICK_GROUP to another name",
            True,
        )
    return Meaning(
        f"the broker refuses this worker in {group} ({for_code(code).__name__}, error code {code} of Kafka's "
        "protocol): look into the broker's log",
        True,
    )


class Patience:
    """How long to wait before each new try; the clock is the caller's."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._tries = 0

    def next_pause(self, now: float) -> float | None:
        """Seconds before the next try, None once PATIENCE_S have passed since the first refusal in a row."""
        self._since = now if self._since is None else self._since
        if now - self._since >= PATIENCE_S:
            return None
        pause = PAUSES_S[min(self._tries, len(PAUSES_S) - 1)]
        self._tries += 1
        return pause

    def renew(self) -> None:
        """The group took this worker: the next refusal is the first one again."""
        self._since, self._tries = None, 0
