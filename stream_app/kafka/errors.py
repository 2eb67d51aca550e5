"""Errors between Foreclick and a Kafka cluster."""

from aiokafka.errors import KafkaConnectionError

from stream_app.errors import ForeclickError


class BrokerUnreachable(ForeclickError):  # noqa: N818 - reads as what happened
    """No broker of the list answered in time."""


class TopicError(ForeclickError):
    """A topic is missing, or its partitions or configuration do not fit."""


class SecurityError(ForeclickError):
    """TLS or login failed; the text names the setting to check."""


class RightsError(ForeclickError):
    """The login succeeded, but the broker does not allow what we need."""


class TokenError(KafkaConnectionError):
    """No OAuth token could be obtained.

    The Kafka client treats this as a failed connection: it tries again, as if the broker were down.
    """
