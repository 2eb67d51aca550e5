"""The largest record batch that each topic accepts, and what happens to an output that is larger."""

from collections.abc import Callable, Mapping
from typing import Any

import structlog
from aiokafka.record.memory_records import MemoryRecords

from stream_app.contract.message_columns import MessageColumns
from stream_app.contract.outputs import NO_HEADERS, Message
from stream_app.kafka.record_batches.truncation import BATCH_HEADER, Cut, at_most, batch_bytes

log = structlog.stdlib.get_logger(__name__)

#: Size at which a record batch is closed, in bytes.
BATCH_BYTES = 512 * 1024
#: Kafka's default for the largest record batch of a topic, in bytes.
MESSAGE_BYTES = 1_048_588
#: Upper bound of the bytes that a record without headers needs in addition to its key and value, with its batch.
_BESIDE = BATCH_HEADER + 32


class SizeLimits:
    """The size limits of topics. The threads that build batches read them, the event loop updates them."""

    def __init__(
        self, cuts: Mapping[str, Cut] | None = None, counted: Callable[[str], None] = lambda _: None
    ) -> None:
        """`cuts`: functions that shorten outputs, by topic. `counted` is called with the topic of each cut output."""
        self._cuts = dict(cuts or {})
        self._counted = counted
        self._most: dict[str, int] = {}
        #: Whether a broker refused a batch that should fit: the limit of its topic is lower than known.
        self.outdated = False

    def learn(self, limits: Mapping[str, int]) -> None:
        """Updates the limits: bytes of the largest record batch of each topic."""
        self._most.update(limits)
        self.outdated = False

    def most(self, topic: str) -> int:
        """Bytes of the largest record batch of a topic, before it is compressed."""
        return self._most.get(topic, MESSAGE_BYTES)

    def batch(self, topic: str) -> int:
        """Bytes at which a batch for a topic is closed."""
        return min(BATCH_BYTES, self.most(topic))

    def fitted(self, topic: str, message: Message) -> Message:
        """The message, cut if it is larger than its topic accepts and can be cut."""
        cut, most = self._cuts.get(topic), self.most(topic)
        if cut is None or at_most(message) <= most or batch_bytes(message) <= most:
            return message
        smaller = cut(message, most)
        if batch_bytes(smaller) >= batch_bytes(message):
            return message
        self._counted(topic)
        return smaller

    def fitted_columns(self, topic: str, messages: MessageColumns) -> MessageColumns:
        """The messages, cut where necessary; the same object if all fit already."""
        if topic not in self._cuts or not len(messages):
            return messages
        if int(messages.key_bytes.max()) + int(messages.value_bytes.max()) + _BESIDE <= self.most(topic):
            return messages
        each = [self.fitted(topic, (key, value, NO_HEADERS)) for key, value in messages.each()]
        return MessageColumns.of([(key, value) for key, value, _ in each])

    def refused(self, topic: str, batch: Any) -> list[Message]:
        """The messages of a batch that its topic refused as too large, to be built again as smaller batches.

        From now on half of its size counts as the limit of the topic, until `learn` gets another one.
        No messages if the batch is one record that cannot be made smaller.
        """
        data = bytes(batch._build())
        messages = messages_of(data)
        self._most[topic] = min(self.most(topic), len(data) // 2)
        self.outdated = True
        log.warning(
            "a batch exceeds the size limit of its topic", topic=topic, bytes=len(data), records=len(messages)
        )
        if len(messages) > 1:
            return messages
        smaller = self.fitted(topic, messages[0])
        return [smaller] if smaller is not messages[0] else []


def messages_of(batch: bytes) -> list[Message]:
    """The messages of a record batch that this process built."""
    records = MemoryRecords(batch)
    found: list[Message] = []
    while (each := records.next_batch()) is not None:
        found += [(record.key, record.value, list(record.headers)) for record in each]
    return found
