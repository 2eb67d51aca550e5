"""Short runs of the fault suite, one per guarantee, and seeds that once failed."""

import os
from pathlib import Path

import pytest

from tests.faults.faults import (
    KILLS,
    LONG_HOLES,
    freeze,
    hole_at,
    join,
    kill,
    kill_broker,
    leave,
    name_of,
    reset_all,
    restart_broker,
    short_hole,
    short_hole_lost,
    slow,
)
from tests.faults.run import Config, Run, tell
from tests.faults.steps import Step

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]

SEED = int(os.environ.get("FAULTS_SEED") or 5)
SECONDS = float(os.environ.get("FAULTS_SECONDS") or 45)
#: The faults of a short run, in this order: one at each step of a commit, and one of every other kind.
SHORT = (
    *KILLS,
    join,
    kill_broker,
    short_hole,
    kill,
    freeze,
    reset_all,
    restart_broker,
    leave,
    short_hole_lost,
    slow,
    *LONG_HOLES,
)


def run(config: Config, folder: Path) -> None:
    """Do one run; its steps are printed if it fails."""
    print(f"FAULTS_SEED={config.seed} FAULTS_SECONDS={config.seconds:g} FAULTS_GUARANTEE={config.guarantee}")
    result = Run(config, folder, "f-", print).run()
    print(tell(result))
    assert not result.problems, "\n".join(result.problems)
    missing = {name_of(kill) for kill in KILLS} - result.counted.keys()
    assert not missing, f"no work was in flight at {missing}"


def short(guarantee: str) -> Config:
    """Return the settings of the run that is part of all tests."""
    return Config(SEED, SECONDS, guarantee, first=SHORT, gap_s=(0.2, 1.0))


def test_short_run_at_least_once(tmp_path: Path) -> None:
    """With one fault of each kind, no event is lost or applied twice, and repeats have the same content."""
    run(short("at_least_once"), tmp_path)


def test_short_run_exactly_once(tmp_path: Path) -> None:
    """The same with exactly_once; a reader of committed records sees each output once."""
    run(short("exactly_once"), tmp_path)


def test_seed_11_a_late_state_record(tmp_path: Path) -> None:
    """A state record delayed for longer than a session does not overwrite that of the next owner."""
    result = Run(Config(11, 20, deck=(hole_at(Step.OUTPUTS),)), tmp_path, "f-", print).run()
    assert result.counted, "no hole occurred: the test proves nothing"
    assert not result.problems, "\n".join(result.problems)
