"""What can end a worker, or keep it from taking over partitions."""

from stream_app.errors import ForeclickError


class RecoveryError(ForeclickError):
    """The changelog could not be read to its end."""


class FencedError(ForeclickError):
    """This worker may own its partitions no longer, so it must not write."""


class NotSentError(ForeclickError):
    """A request that was certainly not sent: there is no connection, or nobody knows where to."""


class UnansweredError(ForeclickError):
    """A request that was sent and not answered: the broker may act on it now, later or never."""


class ProducerLostError(ForeclickError):
    """The producer may write no more, or nobody knows what became of what it wrote."""


class IncompatibleAiokafka(ForeclickError):  # noqa: N818 - reads as what happened
    """The installed aiokafka is not built as this transport needs it."""


class GroupRefusal(ForeclickError):  # noqa: N818 - reads as what happened
    """The consumer group does not take this worker, or its coordination has ended."""
