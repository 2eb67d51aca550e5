"""Explains in one sentence why the consumer group refuses a worker, and whether waiting may help. Pure."""

from typing import NamedTuple

from aiokafka.errors import for_code

#: Error codes from Kafka's protocol guide. aiokafka does not know all of them.
REBALANCING, UNKNOWN_MEMBER = 27, 25
GROUP_FULL, FENCED_INSTANCE = 81, 82
_OTHER_PROTOCOL, _NO_NAME, _NO_SESSION, _NO_TOPIC_RIGHT, _NO_RIGHT, _NO_VERSION = 23, 24, 26, 29, 30, 35

#: Seconds before each new try. The last value is used for all later tries.
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 10.0)
#: How long a worker tries again after refusals in a row, in seconds. Kafka removes a new member that blocks all
#: others after five minutes, so waiting longer than that helps.
PATIENCE_S = 600.0


class Who(NamedTuple):
    """A worker's identity in its group."""

    group: str
    instance: str  #: its `instance_id`, empty if it has none
    session_ms: int


class Meaning(NamedTuple):
    """The explanation of a refusal."""

    sentence: str
    passes: bool  #: whether waiting may help


def meaning(code: int | None, who: Who, said: str = "") -> Meaning:
    """Explains an error code of the group. Without a code, `said` is the client's own message."""
    group = f"group {who.group}"
    if code == _OTHER_PROTOCOL:
        return Meaning(
            f"{group} is in use by an application of another kind: stop that application, or set FORECLICK_GROUP to "
            "a name that only Foreclick workers use",
            True,
        )
    if code == GROUP_FULL:
        return Meaning(
            f"{group} is full, the broker's group.max.size allows no more members: stop another worker, or raise "
            "the limit",
            True,
        )
    if code == FENCED_INSTANCE:
        return Meaning(
            f"another worker runs as instance {who.instance} of {group} and has taken this one's place: give each "
            "worker its own FORECLICK_INSTANCE_ID, or none",
            False,
        )
    if code == _NO_RIGHT:
        return Meaning(
            f"this user may not be a member of {group}: allow it Read on {group}, or set FORECLICK_GROUP to a "
            "group that it may use",
            False,
        )
    if code == _NO_TOPIC_RIGHT:
        return Meaning(
            f"this user may not read the offsets of an input for {group}: allow it Read on the inputs", False
        )
    if code == _NO_SESSION:
        return Meaning(
            f"the broker accepts no session timeout of {who.session_ms} ms for {group}: set "
            "FORECLICK_SESSION_TIMEOUT_MS between its group.min.session.timeout.ms and group.max.session.timeout.ms",
            False,
        )
    if code == _NO_NAME:
        return Meaning(f"the broker does not accept the group name {who.group!r}: set FORECLICK_GROUP", False)
    if code == _NO_VERSION:
        return Meaning(
            f"the broker does not speak the version of the group protocol that {group} needs: use Kafka 2.3 or "
            "later, and a group.version that allows classic groups",
            False,
        )
    if code is None:
        return Meaning(
            f"the coordination of {group} failed ({said}): check whether all its members are Foreclick workers, or "
            "set FORECLICK_GROUP to another name",
            True,
        )
    return Meaning(
        f"the broker refuses this worker in {group} ({for_code(code).__name__}, error code {code} of Kafka's "
        "protocol): check the broker's log",
        True,
    )


class Patience:
    """Decides how long to wait before each new try. The caller passes the time."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._tries = 0

    def next_pause(self, now: float) -> float | None:
        """Seconds before the next try; None once PATIENCE_S have passed since the first refusal in a row."""
        self._since = now if self._since is None else self._since
        if now - self._since >= PATIENCE_S:
            return None
        pause = PAUSES_S[min(self._tries, len(PAUSES_S) - 1)]
        self._tries += 1
        return pause

    def renew(self) -> None:
        """Resets everything, because the group accepted this worker."""
        self._since, self._tries = None, 0
