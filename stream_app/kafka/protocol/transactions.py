"""Requests of Kafka's transactions that aiokafka 0.14 lacks or has only in their first version.

Layouts: Kafka's protocol guide. Two forms of the protocol are in use. In the first form, a producer adds each
partition and the group to the transaction before it writes to them (`AddPartitionsToTxn`, `AddOffsetsToTxn`), and all
its transactions have the same epoch. In the second form (KIP-890, Kafka 4.0, `transaction.version` 2) a write adds
the partition implicitly, and the end of each transaction raises the epoch, so a delayed request can never affect a
later transaction.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.api import Request, RequestStruct, Response, ResponseHeader_v0
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactBytes,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

_STRING = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)


class ApiVersionsResponse(Response):
    """Tagged field 2 contains the features of the cluster."""

    API_KEY, API_VERSION = 18, 3
    SCHEMA = Schema(
        ("error_code", Int16),
        ("api_keys", CompactArray(("api_key", Int16), ("min", Int16), ("max", Int16), _TAGS)),
        ("throttle_time_ms", Int32),
        _TAGS,
    )


class _ApiVersions3(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION = 18, 3
    RESPONSE_TYPE = ApiVersionsResponse
    SCHEMA = Schema(("name", _STRING), ("version", _STRING), _TAGS)

    def parse_response_header(self, read_buffer: BytesIO | bytes) -> ResponseHeader_v0:
        """Reads header version 0, which brokers use here because the client does not know their versions yet."""
        return ResponseHeader_v0.decode(read_buffer)


class ApiVersions(Request[_ApiVersions3]):
    """Asks for the request versions that the broker supports, and the features of its cluster."""

    API_KEY = 18

    def build(self, request_struct_class: type[_ApiVersions3]) -> _ApiVersions3:
        """The request."""
        return request_struct_class("foreclick", "1", {})


def transaction_version(response: Any) -> int:
    """The cluster's level of the feature `transaction.version`, 0 if it does not have the feature."""
    features = response.tags.get(2)
    if features is None:
        return 0
    read = CompactArray(("name", _STRING), ("max", Int16), ("min", Int16), _TAGS).decode(BytesIO(features))
    return next((int(level) for name, level, *_ in read or () if name == "transaction.version"), 0)


class ProduceResponse(Response):
    """`responses` of (topic, [(partition, error_code, base_offset, ...)])."""

    API_KEY, API_VERSION = 0, 12
    SCHEMA = Schema(
        (
            "responses",
            CompactArray(
                ("topic", _STRING),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("base_offset", Int64),
                        ("log_append_time_ms", Int64),
                        ("log_start_offset", Int64),
                        ("record_errors", CompactArray(("index", Int32), ("message", _STRING), _TAGS)),
                        ("error_message", _STRING),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        ("throttle_time_ms", Int32),
        _TAGS,
    )


class _Produce11(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION = 0, 11
    RESPONSE_TYPE = ProduceResponse
    SCHEMA = Schema(
        ("transactional_id", _STRING),
        ("acks", Int16),
        ("timeout_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _STRING),
                ("partitions", CompactArray(("partition", Int32), ("records", CompactBytes), _TAGS)),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _Produce9(_Produce11):
    API_VERSION = 9


class _Produce12(_Produce11):
    API_VERSION = 12


def _within(
    versions: Mapping[int, tuple[int, int]], key: int, low: int, high: int
) -> dict[int, tuple[int, int]]:
    """The versions of a request that both the broker and the caller support."""
    least, most = versions.get(key, (0, -1))
    if max(least, low) > min(most, high):
        raise IncompatibleBrokerVersion(
            f"the broker does not support request {key} in any version from {low} to {high}"
        )
    return {key: (max(least, low), min(most, high))}


class Produce(Request[_Produce9 | _Produce11 | _Produce12]):
    """One record batch for each of some partitions.

    In a transaction of the second form (`implicit`) it also makes the partitions part of the transaction.
    """

    API_KEY = 0

    def __init__(
        self,
        implicit: bool,
        transactional_id: str | None,
        timeout_ms: int,
        batches: Mapping[TopicPartition, Any],
    ) -> None:
        self._implicit, self._id, self._timeout_ms, self._batches = (
            implicit,
            transactional_id,
            timeout_ms,
            batches,
        )

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        """The request in the version that has this meaning."""
        return super().prepare(_within(versions, 0, *((12, 12) if self._implicit else (9, 11))))

    def build(self, request_struct_class: type[_Produce11]) -> _Produce11:
        """The request."""
        topics: dict[str, list[Any]] = {}
        for tp, records in self._batches.items():
            topics.setdefault(tp.topic, []).append((tp.partition, records, {}))
        named: list[Any] = [(topic, partitions, {}) for topic, partitions in topics.items()]
        return request_struct_class(self._id, -1, self._timeout_ms, named, {})


class TxnOffsetCommitResponse(Response):
    """`topics` of (topic, [(partition, error_code)])."""

    API_KEY, API_VERSION = 28, 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _STRING),
                ("partitions", CompactArray(("partition", Int32), ("error_code", Int16), _TAGS)),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _TxnOffsetCommit3(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION = 28, 3
    RESPONSE_TYPE = TxnOffsetCommitResponse
    SCHEMA = Schema(
        ("transactional_id", _STRING),
        ("group_id", _STRING),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", _STRING),
        ("group_instance_id", _STRING),
        (
            "topics",
            CompactArray(
                ("topic", _STRING),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _STRING),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _TxnOffsetCommit5(_TxnOffsetCommit3):
    API_VERSION = 5


class TxnOffsetCommit(Request[_TxnOffsetCommit3 | _TxnOffsetCommit5]):
    """Commits source offsets in a transaction. The broker refuses them if the member's generation is old (KIP-447).

    In the second form (`implicit`) it also makes the group part of the transaction.
    """

    API_KEY = 28

    def __init__(self, implicit: bool, head: Sequence[Any], offsets: Mapping[TopicPartition, int]) -> None:
        """`head`: all fields before the topics."""
        self._implicit, self._head, self._offsets = implicit, head, offsets

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        """The request in the version that has this meaning."""
        return super().prepare(_within(versions, 28, *((5, 5) if self._implicit else (3, 4))))

    def build(self, request_struct_class: type[_TxnOffsetCommit3]) -> _TxnOffsetCommit3:
        """The request."""
        topics: dict[str, list[Any]] = {}
        for tp, offset in self._offsets.items():
            topics.setdefault(tp.topic, []).append((tp.partition, offset, -1, "", {}))
        named: list[Any] = [(topic, partitions, {}) for topic, partitions in topics.items()]
        return request_struct_class(*self._head, named, {})


class EndTxnResponse(Response):
    """Contains the epoch of the next transaction."""

    API_KEY, API_VERSION = 26, 5
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        _TAGS,
    )


class _EndTxn5(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION = 26, 5
    RESPONSE_TYPE = EndTxnResponse
    SCHEMA = Schema(
        ("transactional_id", _STRING),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("committed", Boolean),
        _TAGS,
    )


class ImplicitEndTxn(Request[_EndTxn5]):
    """Ends a transaction of the second form. (For the first form use aiokafka's `EndTxnRequest`.)"""

    API_KEY = 26

    def __init__(self, transactional_id: str, producer_id: int, producer_epoch: int) -> None:
        self._fields = transactional_id, producer_id, producer_epoch

    def build(self, request_struct_class: type[_EndTxn5]) -> _EndTxn5:
        """The request, which commits."""
        return request_struct_class(*self._fields, True, {})
