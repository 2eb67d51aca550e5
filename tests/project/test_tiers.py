"""The two tiers: `make test` and `make test-slow` together run every test exactly once."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

from tests.conftest import FOUND, LONGEST

ROOT = Path(__file__).parents[2]
TIERS = ("test", "test-slow")


def command(target: str) -> list[str]:
    """Return the words after `pytest` in the command that make runs for a target."""
    said = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", target, "ARGS="],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=30,
    ).stdout  # fmt: skip
    (line,) = [line for line in said.splitlines() if " -m pytest " in line]
    return shlex.split(line.partition(" -m pytest ")[2])


def expression(target: str) -> Expression:
    """Return the marks that a tier selects."""
    words = command(target)
    return Expression.compile(words[words.index("-m") + 1])


def tiers_by_test(config: pytest.Config) -> dict[str, list[str]]:
    """Return, for each test, the tiers that select it."""
    chosen = {tier: expression(tier) for tier in TIERS}
    return {
        item.nodeid: [
            tier
            for tier, marks in chosen.items()
            if marks.evaluate(lambda name, item=item, **_: item.get_closest_marker(name) is not None)
        ]
        for item in config.stash[FOUND]
    }


def test_every_test_is_in_exactly_one_tier(pytestconfig: pytest.Config) -> None:
    """Each test that this run has collected is in exactly one tier."""
    wrong = {name: tiers for name, tiers in tiers_by_test(pytestconfig).items() if len(tiers) != 1}
    assert not wrong


def test_no_tier_is_empty(pytestconfig: pytest.Config) -> None:
    """A run of the whole folder finds every test file, and both tiers select some of its tests."""
    files = {
        file
        for file in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"^ *(async )?def test_", file.read_text(), re.M)
    }
    if {item.path for item in pytestconfig.stash[FOUND]} >= files:
        assert {tier for tiers in tiers_by_test(pytestconfig).values() for tier in tiers} == set(TIERS)
    elif pytestconfig.args in ([], ["tests"], [str(ROOT / "tests")]):
        pytest.fail("a file of tests was not collected")


@pytest.mark.parametrize("target", TIERS)
def test_a_tier_leaves_out_no_file(target: str) -> None:
    """A tier's command selects only by marks: without a path, -k, --ignore or --deselect."""
    words = command(target)
    marks = words.index("-m")
    del words[marks : marks + 2]
    assert words == ["--numprocesses", "2", "--dist", "loadfile", "--no-loadscope-reorder"]


def test_ci_runs_the_checks_and_both_tiers() -> None:
    """`.ci/run` stops at the first failure, and does not filter pytest's last lines."""
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    assert commands == [
        "set -euo pipefail",
        'cd "$(dirname "$0")/.."',
        "make check",
        *(f"make {tier}" for tier in TIERS),
    ]


def test_the_guide_describes_both_tiers() -> None:
    """CONTRIBUTING names both commands and the mark; README and `make help` name both commands."""
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    assert "@pytest.mark.slow" in guide
    assert "@pytest.mark.slow" not in guide.partition("two tiers")[0]
    for text in (
        guide,
        (ROOT / "README.md").read_text(),
        (ROOT / "Makefile").read_text().partition("$(READY):")[0],
    ):
        for tier in TIERS:
            assert re.search(rf"make {tier}\b(?!-)", text), tier


def test_the_longest_files_exist() -> None:
    """Every file in the list of slow files exists."""
    missing = [name for name in LONGEST if not (ROOT / "tests" / name).is_file()]
    assert not missing
