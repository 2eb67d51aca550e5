"""Requests of the group protocol that aiokafka 0.14 does not speak."""

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.group import HeartbeatRequest_v0, HeartbeatRequest_v1, HeartbeatResponse_v1
from aiokafka.protocol.types import Int32, Schema, String

_STRING = String("utf-8")


class _HeartbeatResponse3(Response):
    API_KEY, API_VERSION = 12, 3
    SCHEMA = HeartbeatResponse_v1.SCHEMA


class _Heartbeat3(RequestStruct):
    """Source: Kafka's protocol guide, Heartbeat, version 3 (KIP-345)."""

    API_KEY, API_VERSION = 12, 3
    RESPONSE_TYPE = _HeartbeatResponse3
    SCHEMA = Schema(
        ("group", _STRING), ("generation_id", Int32), ("member_id", _STRING), ("group_instance_id", _STRING)
    )


class StaticHeartbeat(Request[HeartbeatRequest_v0 | HeartbeatRequest_v1 | _Heartbeat3]):
    """A heartbeat of a member with an instance id. Brokers before Kafka 2.3 know no such ids and get none."""

    API_KEY = 12

    def __init__(self, group: str, generation: int, member_id: str, instance: str) -> None:
        self._head, self._instance = (group, generation, member_id), instance

    def build(
        self, request_struct_class: type[HeartbeatRequest_v0 | HeartbeatRequest_v1 | _Heartbeat3]
    ) -> HeartbeatRequest_v0 | HeartbeatRequest_v1 | _Heartbeat3:
        """The request."""
        if request_struct_class is _Heartbeat3:
            return _Heartbeat3(*self._head, self._instance)
        return request_struct_class(*self._head)
