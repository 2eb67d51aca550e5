"""The seam into aiokafka's fetcher: a consumer that hands out `RecordColumns` instead of records.

aiokafka goes on doing all that makes a consumer (fetch sessions, positions, resets, pauses, rebalances). Only what it
would unpack record by record is unpacked here at once, from the bytes of the fetch response. Unpacking happens when
the records are asked for, in the consumer's own thread.
"""

import collections
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CorruptRecordException, KafkaError

from stream_app.columns import RecordColumns
from stream_app.records import Record
from stream_app.transport.internals import (
    READ_COMMITTED,
    FetchRequest,
    FetchResult,
    PartitionRecords,
    fetcher_of,
)
from stream_app.transport.wire import parse


def deliver_columns(consumer: AIOKafkaConsumer) -> None:
    """From now on `getmany` and `fetched_records` of this consumer return one `RecordColumns` for each partition.

    The consumer has started, and no partition has been assigned to it yet. Limits on the number of records and
    deserializers are not heeded. Raises IncompatibleAiokafka.
    """
    fetcher = fetcher_of(consumer)
    parse(
        b"", 0
    )  # compiles the kernels where that has not been done yet, before anything waits for a heartbeat
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
            # The fetcher takes them in the same step of the loop, so no other response comes between.
            self.raw = {
                TopicPartition(topic, partition): part[-1]
                for topic, partitions in response.topics
                for partition, *part in partitions
            }
        return response


class _Records(collections.OrderedDict[TopicPartition, Any]):
    """The fetcher's results by partition; gives those that come in the bytes they came from."""

    def __init__(self, client: _Client) -> None:
        super().__init__()
        self._client = client

    def __setitem__(self, tp: TopicPartition, result: Any) -> None:
        if type(result) is FetchResult:  # and no error
            raw = self._client.raw.pop(tp)
            result._partition_records = PartitionColumns(result._partition_records, raw)
        super().__setitem__(tp, result)


class PartitionColumns:
    """In the place of `PartitionRecords`: an iterator of at most one `RecordColumns`."""

    def __init__(self, records: PartitionRecords, raw: bytes) -> None:
        self._records = records
        self._raw: bytes | None = raw
        #: Where the next fetch goes on.
        self.next_fetch_offset: int = records.next_fetch_offset

    def __iter__(self) -> "PartitionColumns":
        return self

    def __next__(self) -> RecordColumns:
        """All records of the fetch; raises StopIteration where there is none, and the second time.

        Batches before a bad one are delivered. Raises what aiokafka would, CorruptRecordException or
        UnsupportedCodecError, where the first batch is bad: the next fetch begins with it.
        """
        raw, self._raw = self._raw, None
        if raw is None:
            raise StopIteration
        records = self._records
        tp, position = records._tp, self.next_fetch_offset
        parsed = parse(
            raw,
            position,
            check_crcs=records._check_crcs,
            committed=records._isolation_level == READ_COMMITTED,
            aborted=records._aborted_transactions,
        )
        if parsed is None:
            return self._legacy()
        self.next_fetch_offset = parsed.next
        if parsed.error is not None and parsed.next == position:
            raise type(parsed.error)(f"{parsed.error.args[0]} - {tp}")
        if not len(parsed.spans):
            raise StopIteration
        return RecordColumns(tp.topic, tp.partition, parsed.data, parsed.spans)

    def _legacy(self) -> RecordColumns:
        """Message formats 0 and 1, which Kafka 4 has no more, by aiokafka's own reader; format 0 has no times: -1."""
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
        except Exception as error:  # bytes that are no messages lead it anywhere
            raise CorruptRecordException(f"Invalid record structure - {self._records._tp}") from error
        self.next_fetch_offset = self._records.next_fetch_offset
        if not unpacked:
            raise StopIteration
        return RecordColumns.of(unpacked)
