"""How fast traffic is generated, written and imported, compared with only writing records that exist already.

    python -m bench.generator [--events N]

Prints one line each: events per second by the wall clock and by the CPU time of this process.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stream_app.contract.records import INPUT_TOPICS
from stream_app.lab.generator import GeneratorSettings, generate, write
from stream_app.recordings.importers import import_files
from stream_app.recordings.recording import RecordingReader, RecordingWriter


def measure(name: str, work: Callable[[], int], floor: float = 0.0) -> float:
    """Run `work`, which returns its number of events; print and return events per second."""
    wall, cpu = time.perf_counter(), time.process_time()
    events = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    ratio = f"   {events / wall / floor:5.2f} of the floor" if floor else ""
    print(f"{name:34} {events / wall:12,.0f}/s   {events / cpu:12,.0f}/s of CPU{ratio}")
    return events / wall


def count(settings: GeneratorSettings) -> int:
    return sum(len(block.records) for block in generate(settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    events = parser.parse_args().events
    settings = GeneratorSettings(events=events)
    rush = GeneratorSettings(events=events, users=max(1_000, events // 6), span_s=events / 2_000)
    with tempfile.TemporaryDirectory() as name:
        path, csv = Path(name) / "a.stream", Path(name) / "a.csv"
        records = [record for block in generate(settings) for record in block.records]

        def ready_made() -> int:
            with RecordingWriter(path, dict.fromkeys(INPUT_TOPICS, settings.partitions)) as writer:
                writer.extend(records)
            return len(records)

        floor = measure("floor: write ready-made records", ready_made)
        measure("read a recording", lambda: sum(map(len, RecordingReader(path).blocks())), floor)
        records.clear()
        measure("generate", lambda: count(settings), floor)
        measure("generate, 2,000 events/s of time", lambda: count(rush), floor)
        measure("generate and write", lambda: write(settings, path).records, floor)
        csv.write_text(
            "".join(f"{i * 7919 % 99_991},{i},3,pv,{1_511_658_000 + i // 9}\n" for i in range(events))
        )
        measure("import taobao", lambda: import_files("taobao", [csv], path).records, floor)


if __name__ == "__main__":
    main()
