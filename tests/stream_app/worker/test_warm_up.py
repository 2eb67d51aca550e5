"""After the warm-up no code is compiled: live events would wait for it, a second or more."""

import gc
import subprocess
import sys
from pathlib import Path

import msgspec
from numba.core.dispatcher import Dispatcher

from model.serving.runtime import Runtime
from stream_app.contract.message_columns import MessageColumns
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.kafka.record_batches.builder import build
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.settings import Settings
from stream_app.worker.warm_up import warm_up
from tests.model.tiny import tiny_model


def compiled() -> set[str]:
    """Return each of our kernels with each list of types for which it is compiled."""
    return {
        f"{each.py_func.__module__}.{each.py_func.__name__}{signature}"
        for each in gc.get_objects()
        if isinstance(each, Dispatcher) and each.py_func.__module__.split(".")[0] in ("model", "stream_app")
        for signature in each.signatures
    }


def traffic(n: int) -> list[Record]:
    """Return events of one topic, in JSON and msgpack, long, short, repeated and late ones, and invalid records."""
    records = []
    for i in range(n):
        user, ts = f"u{i % 7}", 1_700_000_000_000 + 1000 * i - (i % 11 == 0) * 100_000_000
        event = {
            "user_id": user,
            "ts": ts,
            "item_id": f"i{i % 5}",
            "category_id": "ü\n" if i % 13 == 0 else "c",
        }
        if i % 4 == 0:
            event |= {"event_id": f"e{i // 8}", "price": 2.5}
        value = msgspec.msgpack.encode(event) if i % 6 == 5 else msgspec.json.encode(event)
        if i % 9 == 8:
            value = [b"", b"{", b"\xff", b'{"user_id": 5}', b"x" * 70_000][i % 5]
        records.append(Record("", 0, i, 1_700_000_000_000 + i, user.encode(), value))
    return records


def send(messages: MessageColumns) -> None:
    """Build batches like the producer."""
    for batch in build(*messages.arrays(), timestamp=0, limit=1 << 20, compression=0, transactional=False):
        batch._build()


def run(settings: Settings, runtime: Runtime | None) -> None:
    """Process records one by one, then many at once, with checkpoints, and read everything back."""
    processor = ShopProcessor(settings, runtime, partitions=2)
    records = traffic(400)
    state: list[Record] = []  # of partition 0
    for partition in (0, 1):
        processor.assign(partition, [0] * len(INPUT_TOPICS))
        processor.restored(partition)
    at = 0
    for size in [1] * 60 + [2, 3] * 10 + [290]:
        for partition in (0, 1):
            for topic_index, topic in enumerate(INPUT_TOPICS):
                some = [r._replace(topic=topic, partition=partition) for r in records[at : at + size]]
                processor.ingest(partition, topic_index, RecordColumns.of(some), at + size)
        at += size
        while (output := processor.step(float(at), ended=True)) is not None:
            for *_, columns in output.columns:
                send(columns)
        processor.dead_letters()
        checkpoint = processor.checkpoint(0, 0)
        if checkpoint is not None:
            send(checkpoint.records)
            state += [
                Record("", 0, len(state) + i, 0, key, value)
                for i, (key, value) in enumerate(checkpoint.records.each())
            ]
    assert at == len(records)
    other = ShopProcessor(settings, runtime, partitions=2)
    other.assign(0, [0] * len(INPUT_TOPICS))
    for some in (state[:1], state[1:3], state[3:]):
        other.restore(0, RecordColumns.of(some))
    other.restored(0)
    assert other.rows.high == 7
    processor.look_up("u1")


def main(folder: str) -> None:
    """Print what is compiled after the warm-up, one line each; in its own process, since other tests compile too."""
    settings = Settings(resident_users=64, max_batch=32, model=Path(folder) if folder else None)
    runtime = None
    if folder:
        runtime = Runtime.load(Path(folder))
    warm_up(settings, runtime)
    before = compiled()
    assert before
    run(settings, runtime)
    print("\n".join(sorted(compiled() - before)))


def test_nothing_is_compiled_after_the_warm_up(tmp_path: Path) -> None:
    """No code is compiled, with and without a model, for any batch sizes and any invalid records."""
    tiny_model(tmp_path / "model")
    for folder in ("", str(tmp_path / "model")):
        call = f"from tests.stream_app.worker.test_warm_up import main; main({folder!r})"
        done = subprocess.run(
            [sys.executable, "-c", call], capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.strip() == ""
