"""The circuit breaker around the model, as one state machine. It decides; the processor acts.

A model fails when a step raises, returns NaN or infinity, or takes too long, and when there is no model at all.

    CLOSED    The model answers events.
    OPEN      The model failed and is not called. `degrade` answers events without it, `hold` takes no events.
    PROBING   A probe is on its way through both stages: a micro-batch without events. No events are taken
              meanwhile, so when the probe comes back, nothing else is half done.

                            fail
        +--------+  -------------------->  +------+ --+
        | CLOSED |                         | OPEN |   | fail (a new reason, a longer wait)
        +--------+  <--------------------  +------+ <-+
          ^    |         replaced            |  ^
          |    |                             |  |
          |    | begin_probe                 |  | probe_failed,
          |    | (to release batches    begin_  | probe_skipped,
          |    |  that are held)         probe  | abandon_probe
          |    |                             |  |
          |    |                             v  |
          |    +----------------------->  +---------+
          +-----------------------------  | PROBING |
               probe_succeeded            +---------+

A probe serves three purposes: it calls the model again; it brings the pipeline to rest, so that another model can
replace the failed one; and it releases batches that wait. A probe that only releases batches begins in
CLOSED, and `probe_skipped` and `abandon_probe` lead back to CLOSED.

The state thread asks `next_move` and begins probes. The model thread reports answers, failures and the end of a
probe. The event loop offers other models. Each of them writes `state` last.
"""

from enum import Enum, auto

import structlog

from model.serving.api import Runtime
from stream_app.processing.micro_batch import AppliedBatch

log = structlog.stdlib.get_logger(__name__)

#: Seconds before the first probe; each probe that fails doubles the wait.
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0


class BreakerState(Enum):
    """The three states, as in the picture above."""

    CLOSED = auto()
    OPEN = auto()
    PROBING = auto()


class Move(Enum):
    """What the apply stage has to do next."""

    TAKE_EVENTS = auto()
    WAIT = auto()  #: take nothing
    PROBE = auto()  #: send a micro-batch without events
    REPLACE_MODEL = auto()  #: adopt the model that was offered, report it with `replaced`, and ask again


class ModelBreaker:
    """Whether the model is called, and what happens to events while it is not."""

    def __init__(self, *, hold: bool, slow_s: float) -> None:
        """`hold`: hold events back instead of answering without the model. `slow_s`: a slower step is a failure."""
        self.hold = hold
        self.slow_s = slow_s
        self.enabled = False  #: only in a worker; elsewhere the model's errors are raised
        self.state = BreakerState.CLOSED
        self.reason: str | None = None  #: of the last failure, until the model is known to answer again
        self.now = 0.0  #: steady clock in seconds, set for each micro-batch
        self.held: list[AppliedBatch] = []  #: applied to the rows, waiting for the model
        self._offered: Runtime | None = None
        self._at_rest = False  # the last probe came back, and no events were taken since
        self._retry_at = 0.0
        self._wait_s = FIRST_WAIT_S

    # --- what the processor asks

    @property
    def calls_model(self) -> bool:
        """Whether events go to the model."""
        return self.state is BreakerState.CLOSED

    @property
    def holds_back(self) -> bool:
        """Whether events that were applied have to wait for the model."""
        return self.hold and not self.calls_model

    @property
    def due(self) -> bool:
        """Whether it is time for a probe."""
        return self.now >= self._retry_at

    def next_move(self, *, has_model: bool) -> Move:
        """What the apply stage has to do, given whether there is a model to probe."""
        if self.state is BreakerState.PROBING:
            return Move.WAIT
        if self.state is BreakerState.CLOSED and not self.held:
            return Move.TAKE_EVENTS
        if self._offered is not None:
            return Move.REPLACE_MODEL if self._at_rest else Move.PROBE
        if has_model and self.due:
            return Move.PROBE
        return Move.WAIT if self.held or self.holds_back else Move.TAKE_EVENTS

    @property
    def probe_calls_model(self) -> bool:
        """Whether a probe has to call the model; otherwise it only brings the pipeline to rest."""
        return self.reason is not None and self._offered is None

    # --- transitions

    def fail(self, reason: str, error: Exception | None = None) -> None:
        """CLOSED to OPEN. In OPEN and PROBING only the reason changes, and the wait before the next probe grows."""
        if self.reason is None:
            log.error("the model failed", reason=reason, hold=self.hold, exc_info=error)
        self.reason = reason
        self._retry_at = self.now + self._wait_s
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        if self.state is BreakerState.CLOSED:
            self.state = BreakerState.OPEN

    def begin_probe(self) -> None:
        """OPEN to PROBING; from CLOSED only to release batches that wait."""
        self._at_rest = False
        self.state = BreakerState.PROBING

    def probe_succeeded(self) -> None:
        """PROBING to CLOSED: the model answers again."""
        self._recover()
        self._at_rest = True
        self.state = BreakerState.CLOSED

    def probe_failed(self, reason: str, error: Exception | None = None) -> None:
        """PROBING to OPEN: the model failed again."""
        self.fail(reason, error)
        self._at_rest = True
        self.state = BreakerState.OPEN

    def probe_skipped(self) -> None:
        """PROBING to OPEN, or to CLOSED where there is no failure: the probe came back without calling the model."""
        self._at_rest = True
        self.abandon_probe()

    def abandon_probe(self) -> None:
        """PROBING to OPEN, or to CLOSED where there is no failure: partitions changed, the probe counts no more."""
        self.state = BreakerState.CLOSED if self.reason is None else BreakerState.OPEN

    def replaced(self) -> None:
        """OPEN to CLOSED: another model took the place of the failed one. What waits is due at once."""
        self._recover()
        self._retry_at = self.now
        self.state = BreakerState.CLOSED

    # --- reports that move the state only through `fail`, or not at all

    def answered(self, took_s: float) -> bool:
        """The model answered events; False where that was too slow and counts as a failure."""
        if self.enabled and not self.hold and took_s > self.slow_s:
            self.fail(f"a step took {took_s:.1f} s, limit {self.slow_s:g} s")
            return False
        self._wait_s = FIRST_WAIT_S
        return True

    def taking_events(self) -> None:
        """The apply stage takes events, so the pipeline is no longer at rest."""
        self._at_rest = False

    def offer(self, runtime: Runtime) -> None:
        """Another model, which replaces the present one once that has failed and the pipeline is at rest."""
        self._offered = runtime

    def take_offered(self) -> Runtime:
        """The model that was offered, for `REPLACE_MODEL`; it is not offered any more."""
        runtime, self._offered = self._offered, None
        assert runtime is not None, "no model was offered"
        return runtime

    def _recover(self) -> None:
        if self.reason is not None:
            log.info("the model answers again", after=self.reason)
        self.reason = None
