"""`python -m tests.faults`: one run of the suite, described by variables of the environment (docs/faults.md)."""

import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.faults.faults import DECK, Fault, name_of
from tests.faults.run import Config, Run, tell

RATE = 800.0  # events per second
EVENTS_EACH = 40  # least number of events per user


def deck(only: str) -> tuple[Fault, ...]:
    """Return the faults of a run: those named in `only`, or all."""
    if not only:
        return DECK
    known = {name_of(fault): fault for fault in DECK}
    wanted = [name.strip() for name in only.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        sys.exit(f"FAULTS_ONLY names {unknown}, the known faults are: {', '.join(known)}")
    return tuple(known[name] for name in wanted)


def main() -> int:
    """Run the suite, print the result, and return 1 if there are problems; in that case the logs are kept."""
    seed = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(1_000_000))
    guarantee = os.environ.get("FAULTS_GUARANTEE") or "at_least_once"
    faults = deck(os.environ.get("FAULTS_ONLY", ""))
    seconds = float(os.environ.get("FAULTS_SECONDS") or 1800)
    users = round(min(10_000, max(400, RATE * seconds / EVENTS_EACH)))
    config = Config(seed, seconds, guarantee, rate=RATE, users=users, deck=faults)
    folder = Path(tempfile.mkdtemp(prefix="foreclick-faults-"))
    print(f"FAULTS_SEED={seed} FAULTS_SECONDS={config.seconds:g} FAULTS_GUARANTEE={guarantee}")
    print(f"{len(config.plan):,} events; broker and logs in {folder}", flush=True)
    result = Run(config, folder, f"f{seed}-", lambda text: print(text, flush=True)).run()
    print(tell(result))
    if not result.problems:
        shutil.rmtree(folder)
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
