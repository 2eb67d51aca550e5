"""Runs the attacks one after the other: `python -m tests.attack`."""

import argparse
import asyncio
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from stream_app.lab.broker import EmbeddedKafka
from tests.attack import batches, events
from tests.attack.worker import attacked
from tests.integration.harness import workers


def main() -> None:
    """Run the chosen attacks."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    named = {attack.__name__: attack for attack in (*batches.ALL, *events.ALL)}
    parser.add_argument("attacks", nargs="*", metavar="attack", help=f"attacks to run: {', '.join(named)}")
    parser.add_argument(
        "--limited", action="store_true", help="allow 1 GB of address space more than the idle worker has"
    )
    options = parser.parse_args()
    chosen = options.attacks or list(named)
    with TemporaryDirectory() as folder, EmbeddedKafka(Path(folder) / "kafka") as kafka, workers() as start:
        it = asyncio.run(attacked(kafka, start, Path(folder) / "worker", "attack-", limited=options.limited))
        print(f"idle: {it.idle >> 20} MB", flush=True)
        for attack in (named[name] for name in chosen):
            began = time.monotonic()
            attack(it)
            print(
                f"{attack.__name__}: passed, {time.monotonic() - began:.1f} s, peak {it.peak() >> 20} MB",
                flush=True,
            )
        it.close()


if __name__ == "__main__":
    main()
