"""Decides which records of a recording a replay may send.

A recording can come from anyone, and the user who replays it may have the rights of a worker. So the recording alone
never decides where its records go: for example, it cannot write to the changelog.
"""

from collections.abc import Iterable, Iterator, Sequence

from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.kafka.errors import TopicError
from stream_app.recordings.errors import RecordingError
from stream_app.recordings.recording import RecordingReader


class Targets:
    """The topics to send to, without their prefix, and their records."""

    def __init__(self, reader: RecordingReader | None, topics: Sequence[str] | None) -> None:
        """Choose the `topics` of a recording, or of records without a head, to send; None means the inputs.

        Raises `TopicError` if the recording has other topics than the inputs and `topics` is None, or lacks one
        of `topics`.
        """
        self._path = str(reader.path) if reader else "the source"
        self._head = reader.topics if reader else None
        chosen = INPUT_TOPICS if topics is None else tuple(topics)
        if self._head is None:
            self.wanted = dict.fromkeys(chosen, 0)  #: number of partitions of each in the recording
            return
        others = sorted(set(self._head) - set(chosen))
        if topics is None and others:
            raise TopicError(
                f"{self._path} holds records of {', '.join(others)}, and a replay sends to {', '.join(INPUT_TOPICS)} "
                "alone: name each topic to send with --topic, the others are left out"
            )
        missing = sorted(set(chosen) - set(self._head))
        if topics is not None and missing:
            raise TopicError(
                f"{self._path} holds no records of {', '.join(missing)}, only of {', '.join(sorted(self._head))}"
            )
        self.wanted = {topic: n for topic, n in self._head.items() if topic in chosen}

    def chosen(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records to send. Raises `RecordingError` for a record that does not fit the head."""
        wanted, head = self.wanted, self._head
        for record in records:
            partitions = (wanted if head is None else head).get(record.topic)
            if partitions is None or (head is not None and not 0 <= record.partition < partitions):
                raise RecordingError(
                    f"{self._path} has a record of topic {record.topic!r}, partition {record.partition}, which it "
                    "does not name among its topics: do not trust it, `record` writes no such file"
                )
            if record.topic in wanted:
                yield record
