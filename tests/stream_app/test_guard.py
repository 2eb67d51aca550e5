"""When a model in trouble is tried again."""

import pytest

from stream_app.processing.model_breaker import FIRST_WAIT_S, LONGEST_WAIT_S, ModelBreaker


def test_trials_come_less_and_less_often() -> None:
    """Waits double up to a limit, and begin anew once the model has answered real events."""
    guard = ModelBreaker(hold=False, slow_s=1.0)
    waits = []
    for _ in range(10):
        guard.failed("broken")
        began = guard.now
        while not guard.due:
            guard.now += 0.1
        waits.append(guard.now - began)
    assert waits[0] == pytest.approx(FIRST_WAIT_S, abs=0.11)
    assert waits[1] == pytest.approx(2 * FIRST_WAIT_S, abs=0.11)
    assert waits[-1] == pytest.approx(LONGEST_WAIT_S, abs=0.11)
    guard.over()
    guard.answered()
    guard.failed("again")
    guard.now += FIRST_WAIT_S
    assert guard.due
