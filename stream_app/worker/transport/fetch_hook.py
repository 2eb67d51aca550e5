"""A hook into aiokafka's fetcher: makes a consumer return `RecordColumns` instead of single records.

aiokafka still does everything else (fetch sessions, positions, resets, pauses, rebalances). Only the unpacking is
replaced: aiokafka would unpack record by record, this module unpacks the bytes of the fetch response at once. It does
so when the records are asked for, in the consumer's own thread. Records that expand to many bytes come in pieces, one
per call.
"""

import collections
from functools import partial
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CorruptRecordException, KafkaError

from stream_app.contract.events import BadRecord
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import Record
from stream_app.kafka.record_batches.chunked_reader import LONGEST_RECORD, Unreadable
from stream_app.kafka.record_batches.fetch_reader import LegacyFormatError, read
from stream_app.kafka.record_batches.reader import records_of
from stream_app.worker.transport.aiokafka_internals import (
    READ_COMMITTED,
    FetchRequest,
    FetchResult,
    PartitionRecords,
    fetcher_of,
)


def install_fetch_hook(consumer: AIOKafkaConsumer) -> None:
    """From now on `getmany` and `fetched_records` of this consumer return one `RecordColumns` per partition.

    The consumer must have started, and no partition may be assigned to it yet. Deserializers and limits on the number
    of records are ignored. Raises IncompatibleAiokafka.
    """
    fetcher = fetcher_of(consumer)
    # Compile the kernels now if necessary, so that compiling does not delay heartbeats later.
    list(read(b"", 0))
    records_of(np.empty(0, np.uint8), 0, 0, 0)
    fetcher._client = client = _Client(fetcher._client)
    fetcher._records = _Records(client)


class _Client:
    """aiokafka's client, which also keeps the record batches of the last fetch response."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.raw: dict[TopicPartition, bytes] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node_id: int, request: Any, **options: Any) -> Any:
        response = await self._client.send(node_id, request, **options)
        if isinstance(request, FetchRequest):
            # The fetcher uses them before its next `await`, so no other response can replace them.
            self.raw = {
                TopicPartition(topic, partition): part[-1]
                for topic, partitions in response.topics
                for partition, *part in partitions
            }
        return response


class _Records(collections.OrderedDict[TopicPartition, Any]):
    """The fetcher's results by partition. Attaches the bytes of its fetch response to each new result."""

    def __init__(self, client: _Client) -> None:
        super().__init__()
        self._client = client

    def __setitem__(self, tp: TopicPartition, result: Any) -> None:
        if type(result) is FetchResult:  # otherwise it is an error
            raw = self._client.raw.pop(tp)
            result._partition_records = PartitionColumns(result._partition_records, raw)
            result.getall = partial(_one_piece, result)
        super().__setitem__(tp, result)


def _one_piece(result: Any, max_records: int | None = None) -> list[RecordColumns]:
    """Replaces `FetchResult.getall`, which returns all records: returns one piece, and the rest in the next calls."""
    if not result.check_assignment(result._topic_partition) or not result.has_more():
        return []
    records: PartitionColumns = result._partition_records
    piece = next(records, None)
    result._update_position()
    if records.done:
        result._partition_records = None
    return [] if piece is None else [piece]


class PartitionColumns:
    """Replaces `PartitionRecords`: an iterator of `RecordColumns`, which usually yields only one."""

    def __init__(self, records: PartitionRecords, raw: bytes) -> None:
        self._records = records
        #: The offset at which the next piece or the next fetch begins.
        self.next_fetch_offset: int = records.next_fetch_offset
        #: Whether no piece is left.
        self.done = False
        self._pieces = read(
            raw,
            self.next_fetch_offset,
            check_crcs=records._check_crcs,
            committed=records._isolation_level == READ_COMMITTED,
            aborted=records._aborted_transactions,
        )

    def __iter__(self) -> "PartitionColumns":
        return self

    def __next__(self) -> RecordColumns:
        """The next piece, which may be empty. Raises StopIteration if nothing of the fetch is left.

        Batches before a damaged one are delivered, so the next fetch begins with the damaged batch. If the first
        batch is damaged, raises CorruptRecordException, as aiokafka does.
        """
        if self.done:
            raise StopIteration
        tp = self._records._tp
        try:
            piece = next(self._pieces)
        except StopIteration:
            self.done = True
            raise
        except LegacyFormatError:
            self.done = True
            return self._legacy()
        except CorruptRecordException as error:
            self.done = True
            raise CorruptRecordException(f"{error.args[0]} - {tp}") from None
        self.done = not piece.more
        self.next_fetch_offset = piece.next
        if self.done and not len(piece.spans) and not piece.unreadable:
            raise StopIteration
        aside = [
            letter for each in piece.unreadable for letter in dead_letters_of(tp.topic, tp.partition, each)
        ]
        return RecordColumns(tp.topic, tp.partition, piece.data, piece.spans, aside)

    def _legacy(self) -> RecordColumns:
        """Reads message formats 0 and 1, which Kafka 4 no longer has, with aiokafka's reader.

        Format 0 has no timestamps: they become -1.
        """
        try:
            unpacked = [
                Record(
                    r.topic,
                    r.partition,
                    r.offset,
                    -1 if r.timestamp is None else r.timestamp,
                    r.key,
                    r.value,
                )
                for r in self._records
            ]
        except KafkaError:
            raise
        except Exception as error:  # on invalid bytes aiokafka's reader can raise almost anything
            raise CorruptRecordException(f"Invalid record structure - {self._records._tp}") from error
        self.next_fetch_offset = self._records.next_fetch_offset
        if not unpacked:
            raise StopIteration
        return RecordColumns.of(unpacked)


#: Largest piece of a stored batch that goes into one dead letter.
DEAD_LETTER_BYTES = 512 * 1024


def dead_letters_of(topic: str, partition: int, unreadable: Unreadable) -> list[BadRecord]:
    """The dead letters for an unreadable batch or record.

    Together they hold all bytes of the batch; of a record that is too long, only the beginning of its value. Each
    dead letter has the last offset that it stands for, so a checkpoint never passes this offset before the letter is
    written.
    """
    if unreadable.sha256:
        record = Record(
            topic, partition, unreadable.last, unreadable.timestamp, unreadable.key, unreadable.data
        )
        expected = (
            f"records of at most {LONGEST_RECORD} bytes in a compressed batch, got {unreadable.value_bytes}"
        )
        details = (
            ("foreclick.value.length", str(unreadable.value_bytes)),
            ("foreclick.value.sha256", unreadable.sha256),
        )
        return [BadRecord(record, "too_large", "", expected, details=details)]
    count = -(-len(unreadable.data) // DEAD_LETTER_BYTES)
    found = []
    for i in range(count):
        part = unreadable.data[i * DEAD_LETTER_BYTES : (i + 1) * DEAD_LETTER_BYTES]
        record = Record(topic, partition, unreadable.last, unreadable.timestamp, None, part)
        expected = f"a record batch that Kafka's consumer reads as a whole: {unreadable.why}"
        details = (
            ("foreclick.offsets", f"{unreadable.first}-{unreadable.last}"),
            ("foreclick.part", f"{i + 1}/{count}"),
        )
        found.append(BadRecord(record, "unreadable", "", expected, details=details))
    return found
