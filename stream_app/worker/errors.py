"""Errors that can end a worker, or prevent it from taking over partitions."""

from stream_app.errors import ForeclickError


class RecoveryError(ForeclickError):
    """The changelog could not be read to its end."""


class FencedError(ForeclickError):
    """This worker may no longer own its partitions, so it must not write."""


class TopologyError(ForeclickError):
    """The app has a table or an agent that this worker would not serve."""


class ProducerError(ForeclickError):
    """A partition producer cannot write."""


class NotSentError(ProducerError):
    """The request was certainly not sent: there is no connection, or the node to send it to is unknown."""


class UnansweredError(ProducerError):
    """The request was sent and not answered: the broker may act on it now, later or never."""


class ProducerLostError(ProducerError):
    """The producer may not write any more, or it is unknown whether its last records were written."""


class IncompatibleAiokafka(ForeclickError):  # noqa: N818 - reads as what happened
    """The installed aiokafka lacks internals that this transport needs."""


class GroupRefusal(ForeclickError):  # noqa: N818 - reads as what happened
    """The consumer group does not accept this worker, or its coordination has ended."""
