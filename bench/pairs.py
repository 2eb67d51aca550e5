"""CPU per event of this tree and of another commit, in interleaved pairs: what a change costs on job 1 or 2.

    git worktree add --detach ../base COMMIT && make -C ../base test ARGS=--collect-only
    python bench/pairs.py --base ../base --job j1 --pairs 10 --events 2000000

Each tree runs in its own `.venv`, because the entry points that Faust finds belong to an environment. Prints one JSON
line: the median of the ratios new / old of the pairs, and the 95 % bootstrap interval of that median. Use a machine
without other load. Every run's outputs are checked as in the comparison with other engines.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.peers.compare import compare
from bench.peers.runner import Result
from bench.peers.systems import Job, System, chosen

HERE = Path(__file__).resolve().parents[1]
RESAMPLES = 10_000


def systems(base: Path, job: Job) -> list[System]:
    """Return the job in each of the two trees; one run of each is a pair."""

    def command(tree: Path) -> str:
        python = tree / ".venv" / "bin" / "python"
        if not python.exists():
            raise SystemExit(f"{tree} has no .venv: run its `make test ARGS=--collect-only`")
        return shlex.join(
            ["env", f"PYTHONPATH={tree}", str(python), str(tree / "bench" / "jobs" / f"{job}.py")]
        )

    return chosen("", job, False, (f"old={command(base)}", f"new={command(HERE)}"))


def ratios(results: Sequence[Result]) -> list[float]:
    """Return CPU per event of the new tree divided by the old one's, per pair. Raises SystemExit if a run fails."""
    cpu_us: dict[str, list[float]] = {"old": [], "new": []}
    for result in results:
        faults = result.verdict.faults() if result.verdict else None
        if result.failure or result.figures is None or faults:
            raise SystemExit(f"{result.system}, pair {result.round}: {result.failure or faults}")
        cpu_us[result.system].append(result.figures.cpu_us)
    return [new / old for old, new in zip(cpu_us["old"], cpu_us["new"], strict=True)]


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median (Efron's percentile method)."""
    random = np.random.default_rng(seed)
    sample = random.choice(np.array(values), (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(sample, axis=1), [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    """Run the pairs and print the figures."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--base", type=Path, required=True, help="a checkout of the older commit")
    options.add_argument("--job", choices=["j1", "j2"], default="j1")
    options.add_argument("--pairs", type=int, default=10)
    options.add_argument("--events", type=int, default=2_000_000)
    options.add_argument("--out", type=Path, default=HERE / ".foreclick" / "bench" / "pairs")
    chosen_ = options.parse_args()
    out = chosen_.out / chosen_.job
    out.mkdir(parents=True, exist_ok=True)
    results = compare(
        systems(chosen_.base.resolve(), chosen_.job), out, events=chosen_.events, runs=chosen_.pairs
    )
    found = ratios(results)
    low, high = interval(found)
    figures = {
        "job": chosen_.job,
        "pairs": len(found),
        "cpu_new_to_old": round(float(np.median(found)), 3),
        "interval_95": [round(low, 3), round(high, 3)],
        "ratios": [round(value, 3) for value in found],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
