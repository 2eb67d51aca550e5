"""`python -m tests.simulation --schedules 1000 --seed 1 [--guarantee exactly_once] [--awaits]`: a longer search."""

import argparse
import sys
import time
import warnings
from collections import Counter

from tests.simulation.awaits import deaths, steps_of_a_life
from tests.simulation.search import FORMS, Search, decisions_of, fewest


def main() -> int:
    """Search and print the results; return 1 if a problem was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument(
        "--schedules", type=int, default=200, help="number of schedules per guarantee and form"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first schedule; each further one has the next seed"
    )
    parser.add_argument(
        "--guarantee", choices=["at_least_once", "exactly_once"], help="test only this guarantee"
    )
    parser.add_argument(
        "--awaits", action="store_true", help="instead, let a worker die at each await of a short life"
    )
    parser.add_argument("--story", action="store_true", help="print the events of each run with problems")
    parser.add_argument(
        "--fewest", action="store_true", help="first remove decisions that the problem does not need"
    )
    options = parser.parse_args()
    # A process that died leaves coroutines that were never started.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    wrong = 0
    for guarantee, implicit in FORMS:
        if options.guarantee in (None, guarantee):
            name = guarantee if guarantee == "at_least_once" else f"{guarantee}, form {1 + implicit}"
            wrong += (_awaits if options.awaits else _schedules)(options, name, guarantee, implicit)
    return 1 if wrong else 0


def _schedules(options: argparse.Namespace, name: str, guarantee: str, implicit: bool) -> int:
    start, search = time.monotonic(), Search()
    for seed in range(options.seed, options.seed + options.schedules):
        report = search.take(seed, guarantee, implicit=implicit)
        if report.problems:
            if options.fewest:
                least, report = fewest(decisions_of(seed), guarantee, implicit=implicit, seconds=120.0)
                print(f"decisions {least.hex()}")
            print(f"{name}, seed {seed}:", *report.problems[:5], sep="\n  ", flush=True)
            if options.story:
                print(*report.log, sep="\n    ")
    _summary(name, search.tried, len(search.found), search.counts, time.monotonic() - start)
    return len(search.found)


def _awaits(options: argparse.Namespace, name: str, guarantee: str, implicit: bool) -> int:
    start, wrong, counts = time.monotonic(), 0, Counter[str]()
    steps = steps_of_a_life(guarantee, implicit=implicit)
    for at, report in deaths(guarantee, range(1, steps + 1), implicit=implicit):
        counts.update(report.counts)
        if report.problems:
            wrong += 1
            print(f"{name}, death at step {at}:", *report.problems[:5], sep="\n  ", flush=True)
    _summary(name, steps, wrong, counts, time.monotonic() - start)
    return wrong


def _summary(name: str, tried: int, wrong: int, counts: Counter[str], seconds: float) -> None:
    print(f"{name}: {tried} schedules in {seconds:.1f} s, {wrong} with problems")
    order = (
        "workers",
        "deaths",
        "steps",
        "requests",
        "rebalances",
        "cuts",
        "freezes",
        "expelled",
        "stops",
        "gave up",
    )
    fates = ("late", "lost", "mute", "not sent", "not now", "half", "cut off")
    print("  " + ", ".join(f"{counts[k]:,} {k}" for k in order))
    print("  gave up: " + ", ".join(f"{n:,} {k[9:]}" for k, n in counts.items() if k.startswith("gave up, ")))
    print("  requests: " + ", ".join(f"{counts[k]:,} {k}" for k in fates), flush=True)


if __name__ == "__main__":
    sys.exit(main())
