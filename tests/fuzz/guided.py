"""Fuzzing guided by coverage, with atheris (libFuzzer for Python), which must be installed by hand.

    python -m tests.fuzz.guided batches -max_total_time=600
    python -m tests.fuzz.guided recordings -runs=1000000

The coverage is that of the plain reader of record batches and of the reader of recordings, which are Python; each
input of the first goes through the compiled reader too. Options after the name are libFuzzer's.
"""

import sys
import tempfile
from pathlib import Path

import atheris

from stream_app.kafka.record_batches import reader as wire

wire.parse(b"", 0)  # compiled before the instrumentation

with atheris.instrument_imports(include=["tests.fuzz.plain_reader", "stream_app.recordings"]):
    from tests.fuzz.batches import BatchesTarget
    from tests.fuzz.fetches import Fetch, Fetches
    from tests.fuzz.recordings import File, check, corpus

SEEDS = 200


class GuidedBatches:
    """Inputs are one byte of options and the bytes of a fetch."""

    def __init__(self) -> None:
        self._target = BatchesTarget()

    def __call__(self, data: bytes) -> None:
        """Require that both readers agree. Checksums are ignored, since no guess would find one."""
        if data:
            bits, raw = data[0], data[1:]
            aborted = [(7, 0), (8, 3)] if bits & 2 else []
            self._target.one(Fetch(raw, bits >> 4, False, bool(bits & 1), aborted), at_end=True)

    @staticmethod
    def seeds() -> list[bytes]:
        """Return the inputs to begin with."""
        fetches = Fetches("seeds")
        return [b"\x03" + fetches.one().raw for _ in range(SEEDS)]


class GuidedRecordings:
    """Inputs are files."""

    def __init__(self) -> None:
        self._file = File()

    def __call__(self, data: bytes) -> None:
        """Require one of our own errors, or records."""
        self._file.hold(data)
        check(self._file.path, None, twice=True)

    @staticmethod
    def seeds() -> list[bytes]:
        """Return heads only; libFuzzer finds no checksum, so the other fuzzer tests what follows them."""
        return [head for head, _ in corpus()]


def main() -> None:
    """Run libFuzzer on one target."""
    name, options = sys.argv[1], sys.argv[2:]
    make = {"batches": GuidedBatches, "recordings": GuidedRecordings}[name]
    with tempfile.TemporaryDirectory() as folder:
        for i, seed in enumerate(make.seeds()):
            (Path(folder) / str(i)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *options, folder], make())
        atheris.Fuzz()


if __name__ == "__main__":
    main()
