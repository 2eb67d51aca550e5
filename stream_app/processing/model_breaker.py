"""Model trouble: why the model gives no answers at present, and when it is tried again.

A step that raises, gives answers that are no numbers, or takes too long, and a model that is not there: all are
trouble. While it lasts no step is tried but in a *trial*: a micro-batch without events, beside which no other is
half done. Until then, as `model_trouble` says, events are answered without the model (`degrade`), or none is taken
(`hold`).
"""

import structlog

log = structlog.stdlib.get_logger(__name__)

#: Seconds before the first trial; each one that fails doubles them.
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0


class Guard:
    """What is known of the model's trouble. The thread of the rows asks, that of the model reports."""

    def __init__(self, *, hold: bool, slow_s: float) -> None:
        self.hold = hold
        self.slow_s = slow_s
        self.on = False  #: whether trouble is survived: in a worker. Elsewhere an error is raised
        self.reason: str | None = None  #: None while the model answers
        self.waiting = False  #: a trial was sent on its way and has not come back
        self.quiet = False  #: it came back, and nothing was taken since
        self.now = 0.0  #: seconds, steady; set with each micro-batch
        self._retry_at = 0.0
        self._wait_s = FIRST_WAIT_S

    def failed(self, reason: str, error: Exception | None = None) -> None:
        """The model gave no answer."""
        if self.reason is None:
            log.error("the model is in trouble", reason=reason, hold=self.hold, exc_info=error)
        self.reason = reason
        self._retry_at = self.now + self._wait_s
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)

    def answered(self) -> None:
        """The model gave real events their answers."""
        self._wait_s = FIRST_WAIT_S

    def over(self) -> None:
        """A trial went well, or another model came."""
        if self.reason is not None:
            log.info("the model answers again", after=self.reason)
        self.reason = None

    @property
    def due(self) -> bool:
        """Whether it is time for a trial."""
        return self.now >= self._retry_at

    def send_trial(self) -> None:
        """A trial is on its way: nothing is taken until it has come back."""
        self.waiting, self.quiet = True, False

    def trial_came_back(self) -> None:
        """All that was taken before the trial is finished."""
        self.waiting, self.quiet = False, True
