"""What can be wrong between Foreclick and a Kafka cluster."""

from aiokafka.errors import KafkaConnectionError

from stream_app.errors import ForeclickError


class BrokerUnreachable(ForeclickError):  # noqa: N818 - reads as what happened
    """No broker of the list answered within the wait."""


class TopicError(ForeclickError):
    """A topic is missing, or is not shaped as the worker needs it."""


class SecurityError(ForeclickError):
    """A connection cannot be made safe, or a broker refuses us; the text says which setting to look at."""


class RightsError(ForeclickError):
    """The broker knows us but does not allow what we need."""


class TokenError(KafkaConnectionError):
    """No token could be had.

    To the Kafka client this is a connection that failed: it tries again, as for a broker that is away.
    """
