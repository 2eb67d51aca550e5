"""The security of connections to Kafka: TLS, login, rights, and explanations of why a broker refuses a client."""

from stream_app.kafka.security.options import (
    PLAIN,
    SecurityError,
    identity,
    kafka_options,
    security_options,
)
from stream_app.kafka.security.refusals import explain
from stream_app.kafka.security.rights import RightsError, require_rights

__all__ = [
    "PLAIN",
    "RightsError",
    "SecurityError",
    "explain",
    "identity",
    "kafka_options",
    "require_rights",
    "security_options",
]
