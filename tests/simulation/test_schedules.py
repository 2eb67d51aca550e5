"""Both guarantees under schedules that hypothesis draws, and under a death at every await of a short life."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.simulation.awaits import deaths, steps_of_a_life
from tests.simulation.search import DECISIONS, FORMS, decisions_of, fewest, run

#: Number of schedules per guarantee and form. `python -m tests.simulation` runs any number.
EXAMPLES = 40
#: Number of schedules within which two checkpoints must be given up at a revoke.
MOST_SEEDS = 60

# The garbage collector finds the remains of a crashed worker, in whichever test runs then.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
forms = pytest.mark.parametrize(("guarantee", "implicit"), FORMS)


@forms
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate,),  # hypothesis would take minutes to shrink: see `fewest`
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(decisions=st.binary(min_size=DECISIONS, max_size=DECISIONS))
def test_guarantees_hold_whatever_happens(guarantee: str, implicit: bool, decisions: bytes) -> None:
    """With crashes, cuts, freezes, rebalances, late and lost requests, outputs, state and offsets are as promised."""
    report, _ = run(decisions, guarantee, implicit=implicit)
    if report.problems:
        least, report = fewest(decisions, guarantee, implicit=implicit)
        pytest.fail("\n".join([least.hex(), *report.problems, *report.log]))


@forms
def test_no_trouble_at_all(guarantee: str, implicit: bool) -> None:
    """If nothing happens to the worker, it does not read state back, give up or lose a transaction."""
    report, _ = run(b"", guarantee, implicit=implicit)
    assert not report.problems, "\n".join([*report.problems, *report.log])
    assert report.counts["workers"] == report.counts["rebalances"] == 1
    assert not [line for line in report.log if "lost" in line or "read back" in line]


@forms
def test_a_checkpoint_that_a_revoke_gives_up(guarantee: str, implicit: bool) -> None:
    """In some rebalances the broker is so slow that the worker gives up its checkpoint: nothing is lost."""
    given_up = 0
    for seed in range(MOST_SEEDS):
        report, _ = run(decisions_of(seed), guarantee, implicit=implicit)
        assert not report.problems, "\n".join([*report.problems, *report.log])
        given_up += sum("given up" in line for line in report.log)
        if given_up >= 2:
            return
    raise AssertionError(f"only {given_up} checkpoints were given up in {MOST_SEEDS} schedules")


@forms
def test_a_death_at_every_await(guarantee: str, implicit: bool) -> None:
    """Wherever a worker dies, from its start through two checkpoints, its successor recovers everything."""
    steps = steps_of_a_life(guarantee, implicit=implicit)
    assert steps > 100
    for at, report in deaths(guarantee, range(1, steps + 1), implicit=implicit):
        assert report.counts["deaths"] >= 1, "it did not die"
        assert not report.problems, "\n".join([f"death at step {at}", *report.problems, *report.log])


@forms
def test_the_simulation_is_deterministic(guarantee: str, implicit: bool) -> None:
    """The same schedule gives the same records at the same places."""
    decisions = bytes(i * 7919 % 251 for i in range(DECISIONS))
    first, one = run(decisions, guarantee, implicit=implicit)
    second, other = run(decisions, guarantee, implicit=implicit)
    assert first.log == second.log and first.counts == second.counts
    for tp, log in one.broker.logs.items():
        assert [e.offset for e in log.entries] == [e.offset for e in other.broker.logs[tp].entries]
