"""The topics of a topology: what a worker reads, what it writes, and where its state is kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from stream_app.contract.records import INPUT_TOPICS, OUTPUT_TOPICS


@dataclass(frozen=True)
class Topics:
    """The full names of the topics of one worker, as Kafka has them."""

    #: Of events with the same time, the merge takes those of the first topic first.
    inputs: tuple[str, ...]
    #: By the name that the topology gives them, such as "dead-letters".
    outputs: Mapping[str, str]
    #: The compacted topic that holds the state.
    changelog: str

    @cached_property
    def index(self) -> Mapping[str, int]:
        """The index of each input topic."""
        return {name: index for index, name in enumerate(self.inputs)}

    @cached_property
    def written(self) -> tuple[str, ...]:
        """The outputs, then the changelog."""
        return (*self.outputs.values(), self.changelog)

    @cached_property
    def all(self) -> tuple[str, ...]:
        """The inputs, the outputs, then the changelog."""
        return (*self.inputs, *self.written)


class Named(Protocol):
    """The settings that decide the full names of topics."""

    @property
    def topic_prefix(self) -> str:
        """What the names of all topics begin with."""

    @property
    def group(self) -> str:
        """The consumer group."""


@dataclass(frozen=True)
class TopicNames:
    """The topics of a topology, without the prefix and the group of a worker."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    changelog: str  #: follows the name of the group

    def of(self, worker: Named) -> Topics:
        """Return the topics of a worker with these settings."""
        prefix = worker.topic_prefix
        outputs = {name: prefix + name for name in self.outputs}
        changelog = f"{prefix}{worker.group}-{self.changelog}"
        return Topics(tuple(prefix + name for name in self.inputs), outputs, changelog)


#: The topology `shop`: events of users in, predictions and flags out.
SHOP = TopicNames(INPUT_TOPICS, OUTPUT_TOPICS, "users-changelog")
