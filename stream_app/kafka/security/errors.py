"""What can be wrong with the way to Kafka."""

from aiokafka.errors import KafkaConnectionError

from stream_app.errors import ForeclickError


class SecurityError(ForeclickError):
    """A connection cannot be made safe, or a broker refuses us; the text says which setting to look at."""


class RightsError(ForeclickError):
    """The broker knows us but does not allow what we need."""


class TokenError(KafkaConnectionError):
    """No token could be had.

    To the Kafka client this is a connection that failed: it tries again, as for a broker that is away.
    """
