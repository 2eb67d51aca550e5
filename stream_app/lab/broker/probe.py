"""Checks whether a broker is ready, over one blocking socket, so it works with and without an event loop."""

import socket
import struct
from io import BytesIO
from typing import Any

TOPIC_EXISTS = 36
CLIENT_ID = "foreclick-probe"


def missing(port: int, timeout_s: float) -> str | None:
    """Return what the broker on 127.0.0.1:port cannot do yet, or None when it is ready.

    An open port is not enough. The broker must list itself, and its controller must agree to create a topic, which it
    refuses until the broker has registered. The request has `validate_only`, so no topic is created.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
            return _ask(connection)
    except ConnectionRefusedError:
        return "the port to open"
    except (OSError, EOFError) as error:
        return f"an answer on the port ({error or type(error).__name__})"


def _ask(connection: socket.socket) -> str | None:
    # Imported here, while Java starts: until the port is open there is nothing else to do.
    from aiokafka.protocol.admin import CreateTopicsRequest_v3
    from aiokafka.protocol.metadata import MetadataRequest_v5

    metadata = _call(connection, MetadataRequest_v5(topics=[], allow_auto_topic_creation=False))
    if not metadata.brokers:
        return "the broker to register with its controller"
    topic: Any = (CLIENT_ID, 1, 1, [], [])
    answer = _call(
        connection, CreateTopicsRequest_v3(create_topic_requests=[topic], timeout=1000, validate_only=True)
    )
    (_, code, reason), *_ = answer.topic_errors
    if code not in (0, TOPIC_EXISTS):
        return f"the controller to accept a topic (error {code}: {reason})"
    return None


def _call(connection: socket.socket, request: Any) -> Any:
    """Send one request of Kafka's protocol (before flexible versions) and return the decoded answer."""
    from aiokafka.protocol.api import RequestHeader_v1

    message = RequestHeader_v1(request, correlation_id=1, client_id=CLIENT_ID).encode() + request.encode()
    connection.sendall(struct.pack(">i", len(message)) + message)
    (size,) = struct.unpack(">i", _read(connection, 4))
    answer = _read(connection, size)
    return request.RESPONSE_TYPE.decode(BytesIO(answer[4:]))  # after the correlation id


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError("the connection was closed")
        data += part
    return data
