"""The simulation finds each deliberate mistake in the commit path."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.simulation import mutants
from tests.simulation.search import Search

# The garbage collector finds the remains of a crashed worker, in whichever test runs then.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

Mutant = Callable[[], AbstractContextManager[None]]
#: Number of schedules within which a mistake must be found.
MOST = 120


@pytest.mark.parametrize(
    ("mutant", "guarantee", "implicit", "aim"),
    [
        (mutants.offsets_before_state, "at_least_once", False, None),
        (mutants.outputs_not_awaited, "at_least_once", False, ["Produce predictions"]),
        (mutants.producers_not_fenced, "at_least_once", False, ["Produce g-users-changelog"]),
        (mutants.end_sent_again, "exactly_once", False, ["EndTxnRequest"]),
        (mutants.lost_producer_keeps_its_state, "exactly_once", False, ["EndTxnRequest", "TxnOffsetCommit"]),
        (mutants.outputs_outside_of_the_transaction, "exactly_once", True, None),
        (mutants.given_up_keeps_its_state, "at_least_once", False, ["Produce g-users-changelog"]),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_a_mistake_is_found(mutant: Mutant, guarantee: str, implicit: bool, aim: list[str] | None) -> None:
    """The mistake is found within a few schedules; without it, the failing schedule passes."""
    search = Search()
    with mutant():
        for seed in range(MOST):
            if search.take(seed, guarantee, implicit=implicit, aim=aim).problems:
                break
    assert search.found, f"{search.tried} schedules did not find it"
    (seed,) = search.found
    assert not Search().take(seed, guarantee, implicit=implicit, aim=aim).problems
