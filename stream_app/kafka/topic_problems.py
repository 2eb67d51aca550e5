"""Problems with topics as text: as few sentences as possible, and the commands that fix them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Problem(NamedTuple):
    """A problem with a topic. A `fatal` one keeps a worker from running; the others are advice."""

    topic: str
    text: str
    fatal: bool
    config: str = ""  # the configuration that fixes it, NAME=VALUE
    missing: bool = False


def missing(names: Sequence[str]) -> str:
    """One sentence about missing topics."""
    said = f"topic {names[0]} is" if len(names) == 1 else f"topics {', '.join(names)} are"
    return f"{said} missing: run `foreclick topics --create`"


def merged(problems: Sequence[Problem]) -> list[Problem]:
    """The problems to show: all missing topics become one problem, at the position of the first of them."""
    absent = [each.topic for each in problems if each.missing]
    kept = [each for each in problems if not each.missing or each.topic == absent[0]]
    return [each._replace(text=missing(absent)) if each.missing else each for each in kept]


def commands(brokers: Sequence[str], problems: Sequence[Problem]) -> Iterator[str]:
    """Kafka's commands that follow the advice, one per configuration."""
    topics: dict[str, list[str]] = {}
    for each in problems:
        if each.config and not each.fatal:
            topics.setdefault(each.config, []).append(each.topic)
    for config, names in topics.items():
        name = names[0] if len(names) == 1 else "$topic"
        command = (
            f"kafka-configs.sh --bootstrap-server {','.join(brokers)} --alter --entity-type topics "
            f"--entity-name {name} --add-config {config}"
        )
        yield command if len(names) == 1 else f"for topic in {' '.join(names)}; do {command}; done"
