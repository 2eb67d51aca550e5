"""Runs one fuzzer: `python -m tests.fuzz.run decoder --inputs 10000000 --seed 1`.

Prints JSON with the number of inputs per outcome. A difference, an error or a crash names the round; `--round N` runs
only that round, with the same inputs.
"""

import argparse
import faulthandler
import json
import resource
import sys
import time
from collections import Counter
from typing import Any

from tests.fuzz import batches, decoder, recordings

TARGETS = {
    "decoder": (decoder.DecoderTarget, decoder.PER_ROUND),
    "batches": (batches.BatchesTarget, batches.PER_ROUND),
    "recordings": (recordings.RecordingsTarget, recordings.PER_ROUND),
}
#: Address space of the process: a wrong length that is trusted then ends in MemoryError and not in a full machine.
LIMIT_BYTES = 6 << 30


def fuzz(name: str, seed: int, rounds: range, show: bool = False) -> Counter[Any]:
    """Return the outcomes of all inputs of these rounds by kind. Raises AssertionError with the failing round."""
    make, per_round = TARGETS[name]
    target = make()
    outcomes: Counter[Any] = Counter()
    for number in rounds:
        if show and number % 20 == 0:
            print(f"\r{name}, seed {seed}, round {number}", end="", file=sys.stderr, flush=True)
        try:
            outcomes.update(target.round(f"{seed}-{number}", number))
        except Exception as error:
            raise AssertionError(
                f"{name}, seed {seed}, round {number} of {per_round} inputs: {error}"
            ) from error
    return outcomes


def main() -> None:
    """Run one fuzzer and print the outcomes."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--round", type=int, help="run only this round")
    options = parser.parse_args()
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    rounds = range(-(-options.inputs // TARGETS[options.target][1]))
    if options.round is not None:
        rounds = range(options.round, options.round + 1)
    start = time.monotonic()
    outcomes = fuzz(options.target, options.seed, rounds, show=True)
    print(file=sys.stderr)
    found = {" ".join(map(str, outcome)): n for outcome, n in outcomes.most_common()}
    print(
        json.dumps(
            {
                "target": options.target,
                "seed": options.seed,
                "inputs": sum(outcomes.values()),
                "seconds": round(time.monotonic() - start, 1),
                "distinct outcomes": len(found),
                "outcomes": found,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
