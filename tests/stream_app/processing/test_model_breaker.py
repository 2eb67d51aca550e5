"""The circuit breaker around the model: every transition of its state machine, and its decisions in each state."""

from typing import Any

import pytest

from stream_app.processing.model_breaker import (
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    BreakerState,
    ModelBreaker,
    Move,
)

CLOSED, OPEN, PROBING = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.PROBING
#: The breaker only stores batches and models, so any object can replace them here.
BATCH: Any = object()
MODEL: Any = object()


def breaker(state: BreakerState, *, hold: bool = False) -> ModelBreaker:
    """A breaker in a state, at second 100, with a probe due."""
    made = ModelBreaker(hold=hold, slow_s=1.0)
    made.enabled = True
    if state is not CLOSED:
        made.fail("broken")
    made.now = 100.0
    if state is PROBING:
        made.begin_probe()
    assert made.state is state
    return made


def test_probes_come_less_and_less_often() -> None:
    """Waits double up to a limit, and start again once the model has answered real events."""
    made = ModelBreaker(hold=False, slow_s=1.0)
    waits = []
    for _ in range(10):
        made.fail("broken")
        began = made.now
        while not made.due:
            made.now += 0.1
        waits.append(made.now - began)
        made.begin_probe()
    assert waits[0] == pytest.approx(FIRST_WAIT_S, abs=0.11)
    assert waits[1] == pytest.approx(2 * FIRST_WAIT_S, abs=0.11)
    assert waits[-1] == pytest.approx(LONGEST_WAIT_S, abs=0.11)
    made.probe_succeeded()
    assert made.answered(0.0)
    made.fail("again")
    made.now += FIRST_WAIT_S
    assert made.due


@pytest.mark.parametrize("state", BreakerState)
def test_fail(state: BreakerState) -> None:
    """A failure opens a closed breaker; an open or probing one keeps its state and gets the new reason."""
    made = breaker(state)
    made.fail("worse")
    assert made.state is (OPEN if state is CLOSED else state)
    assert made.reason == "worse"
    assert not made.due
    assert not made.calls_model


@pytest.mark.parametrize("state", [OPEN, CLOSED])
def test_begin_probe(state: BreakerState) -> None:
    """A probe begins in the state open, or closed with held batches; the model gets no events meanwhile."""
    made = breaker(state)
    made.begin_probe()
    assert made.state is PROBING
    assert not made.calls_model
    assert made.probe_calls_model == (state is OPEN)
    assert made.next_move(has_model=True) is Move.WAIT


def test_probe_succeeded() -> None:
    """Probing to closed: the reason is removed, and the model gets events."""
    made = breaker(PROBING)
    made.probe_succeeded()
    assert (made.state, made.reason) == (CLOSED, None)
    assert made.next_move(has_model=True) is Move.TAKE_EVENTS


def test_probe_failed() -> None:
    """Probing to open: the breaker has the new reason, and the next probe is not due yet."""
    made = breaker(PROBING)
    made.probe_failed("still broken")
    assert (made.state, made.reason) == (OPEN, "still broken")
    assert not made.due


@pytest.mark.parametrize("come_back", [ModelBreaker.probe_skipped, ModelBreaker.abandon_probe])
def test_a_probe_that_says_nothing(come_back: Any) -> None:
    """Probing to open after a failure, to closed if the probe should only release batches."""
    failed, released = breaker(PROBING), breaker(CLOSED)
    released.begin_probe()
    for made, state in ((failed, OPEN), (released, CLOSED)):
        come_back(made)
        assert made.state is state


@pytest.mark.parametrize("state", [OPEN, CLOSED])
def test_abandoning_no_probe_changes_nothing(state: BreakerState) -> None:
    """Partitions can move to another worker in every state."""
    made = breaker(state)
    made.abandon_probe()
    assert made.state is state


def test_replaced() -> None:
    """Open to closed with another model; waiting batches are due immediately."""
    made = breaker(OPEN, hold=True)
    made.fail("broken again")
    made.held = [BATCH]
    made.replaced()
    assert (made.state, made.reason) == (CLOSED, None)
    assert made.next_move(has_model=True) is Move.PROBE


@pytest.mark.parametrize(("hold", "enabled"), [(False, True), (True, True), (False, False)])
def test_a_slow_answer(hold: bool, enabled: bool) -> None:
    """A slow answer is a failure if the worker degrades; otherwise it is only slow."""
    made = ModelBreaker(hold=hold, slow_s=1.0)
    made.enabled = enabled
    assert made.answered(1.0)
    assert made.answered(1.5) == (hold or not enabled)
    assert made.state is (CLOSED if hold or not enabled else OPEN)


@pytest.mark.parametrize("hold", [False, True])
def test_moves_while_open(hold: bool) -> None:
    """Until a probe is due, events are taken or wait; without a model there is no probe."""
    made = breaker(OPEN, hold=hold)
    meanwhile = Move.WAIT if hold else Move.TAKE_EVENTS
    assert made.holds_back == hold
    assert made.next_move(has_model=False) is meanwhile
    assert made.next_move(has_model=True) is Move.PROBE
    made.fail("again")
    assert made.next_move(has_model=True) is meanwhile


def test_moves_while_closed() -> None:
    """Events are taken; if batches wait, a due probe releases them first."""
    made = breaker(CLOSED)
    assert made.next_move(has_model=True) is Move.TAKE_EVENTS
    made.offer(MODEL)
    assert made.next_move(has_model=True) is Move.TAKE_EVENTS, "only a failed model is replaced"
    made.take_offered()
    made.held = [BATCH]
    assert made.next_move(has_model=True) is Move.PROBE
    made.now = -1.0
    assert made.next_move(has_model=True) is Move.WAIT


def test_another_model_replaces_the_failed_one_when_nothing_is_half_done() -> None:
    """An offered model causes an immediate probe without a call of the old model; after it the model is replaced."""
    made = breaker(OPEN)
    made.fail("broken")
    made.offer(MODEL)
    assert not made.due
    assert made.next_move(has_model=False) is Move.PROBE
    made.begin_probe()
    assert not made.probe_calls_model
    made.probe_skipped()
    assert made.next_move(has_model=False) is Move.REPLACE_MODEL
    made.taking_events()
    assert made.next_move(has_model=False) is Move.PROBE, "events were taken since"
    made.begin_probe()
    made.probe_skipped()
    assert made.take_offered() is MODEL
    made.replaced()
    assert made.next_move(has_model=True) is Move.TAKE_EVENTS
