"""What can be wrong with the state of the users."""

from stream_app.errors import ForeclickError


class StateError(ForeclickError):
    """The state of the users cannot be kept or restored."""
