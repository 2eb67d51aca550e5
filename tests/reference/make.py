"""Makes the reference data in this folder with commit 3c99cd3, as described in `README.md`.

It imports the product that PYTHONPATH names, and refuses any other commit.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import zstandard

import stream_app
from stream_app.contract.partitioner import partitions_of as partitions_of_keys
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.lab.broker import EmbeddedKafka
from stream_app.lab.generator.settings import GeneratorSettings
from stream_app.lab.generator.stream import generate
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.recordings.recording import RecordingReader, RecordingWriter
from stream_app.settings import Settings, load_settings
from stream_app.worker.watches.model_watch import load_model
from tests.integration import harness

COMMIT = "3c99cd3"
HERE = Path(__file__).parent
#: Two partitions of ordinary traffic of 400 users, with all kinds of invalid and unusual records of the generator.
PLAIN = GeneratorSettings(
    events=3000, users=400, user_zipf=0.3, items=60, categories=8, seed=14, partitions=2, bot_share=0.05,
    fraud_share=0.03, late_share=0.02, duplicate_share=0.02, malformed_share=0.02,
)  # fmt: skip
#: The worker that writes the changelog never stops waiting for a topic, so it acts as in an uninterrupted run, and it
#: checkpoints several times.
WORKER = {"max_idle_ms": 60_000, "commit_interval_ms": 200, "max_batch": 256}
T0 = PLAIN.start_ms


def plain() -> None:
    """Write the recording of ordinary traffic."""
    with RecordingWriter(HERE / "plain.stream", dict.fromkeys(INPUT_TOPICS, PLAIN.partitions)) as writer:
        for block in generate(PLAIN):
            writer.extend(block.records)


# --- cases in which a later version may answer otherwise, each in its own partition


def edges() -> None:
    """Write the recording of the cases: case n is in partition n, so that none changes the answers of another."""
    with RecordingWriter(HERE / "edges.stream", dict.fromkeys(INPUT_TOPICS, len(CASES))) as writer:
        for partition, events in enumerate(CASES.values()):
            offsets: Counter[str] = Counter()
            for topic, received_s, user, event in events:
                key = _name(user, partition).encode()
                body = {"user_id": key.decode(), **event}
                if user == "integer":
                    key, body["user_id"] = b"%d" % (1000 + partition), 1000 + partition
                value = msgspec.json.encode(body)
                received = T0 + round(1000 * received_s)
                writer.append(Record(topic, partition, offsets[topic], received, key, value, ()))
                offsets[topic] += 1


def _name(user: str, partition: int) -> str:
    """Return a name for this user that Kafka's partitioner assigns to the partition."""
    names = [f"{user}-{n}" for n in range(200)]
    numbers = partitions_of_keys([name.encode() for name in names], len(CASES))
    return next(name for name, number in zip(names, numbers.tolist(), strict=True) if number == partition)


#: Topic, second at which the broker stored the record, user, event.
Step = tuple[str, float, str, dict[str, Any]]


def _click(at: float, user: str, received: float | None = None, **more: Any) -> Step:
    ts = T0 + round(1000 * at)
    return "clicks", at + 0.05 if received is None else received, user, {"ts": ts, "item_id": "i1", **more}


def _purchase(at: float, user: str, price: Any, **more: Any) -> Step:
    ts = T0 + round(1000 * at)
    return "purchases", at + 0.05, user, {"ts": ts, "item_id": "i1", "price": price, **more}


#: The cases by name.
CASES: dict[str, list[Step]] = {
    "control": [_click(i, f"u{i % 3}", event_id=f"e{i}", item_id=f"i{i % 7}") for i in range(60)],
    "clock_ahead": [
        *(_click(i, "user") for i in range(10)),
        _click(210, "ahead", 10.5),
        *(_click(i, "user") for i in range(11, 40)),
        _click(330, "ahead", 40.5),
        *(_click(i / 4 + 41, "user") for i in range(40)),
    ],
    "one_event_id": [
        _click(0, "user", event_id="o1", item_id="i1"),
        _purchase(1, "user", 5.0, event_id="o1", item_id="i1"),
        _purchase(2, "user", 6.0, event_id="o1", item_id="i2"),
        _purchase(3, "user", 6.0, event_id="o1", item_id="i2"),
        _click(4, "user", event_id="o2"),
    ],
    "null_fields": [
        _click(0, "user", event_id=None, category_id=None),
        _purchase(1, "user", None, quantity=None),
        _click(2, "user", props=None, session_id=None),
        _click(3, "user", props={"a": None, "b": {"c": 1}}),
        _click(4, "user"),
    ],
    "first_price": [
        _purchase(0, "user", 1e12),
        *(_purchase(10 * i, "user", 10.0) for i in range(1, 8)),
        _purchase(100, "user", 5000.0),
        *(_purchase(10 * i, "honest", 10.0) for i in range(1, 8)),
        _purchase(100, "honest", 5000.0),
    ],
    "seconds": [
        ("clicks", 0.0, "user", {"ts": T0 // 1000, "item_id": "i1"}),
        _click(1, "other"),
        ("clicks", 2.0, "user", {"ts": T0 // 1000 + 2, "item_id": "i1"}),
    ],
    "integer_ids": [
        _click(0, "integer"),
        _click(1, "user", item_id=17, category_id=4),
        _click(2, "user", event_id=99),
        _click(3, "user"),
    ],
    "long_names": [
        _click(0, "user", item_id="x" * 300),
        ("browses", 1.0, "user", {"ts": T0 + 900, "category_id": "y" * 300}),
        _click(2, "user", item_id="z" * 256),
    ],
    "late_user": [
        *(_click(i, "prompt") for i in range(0, 700, 20)),
        *(_click(i, "slow", received=700 + i / 100) for i in range(0, 690, 30)),
        _click(701, "slow"),
    ],
}  # fmt: skip


# --- the product's results for them


def foreclick(*command: str) -> None:
    """Run a command of the product."""
    subprocess.run([sys.executable, "-c", "from stream_app.cli import main; main()", *command], check=True)


def outputs() -> None:
    """Make the model, and the outputs of `run` with and without it."""
    shutil.rmtree(HERE / "model", ignore_errors=True)
    foreclick("train", str(HERE / "plain.stream"), "--out", str(HERE / "model"), "--name", "reference",
              "--hidden", "16", "--epochs", "2")  # fmt: skip
    for recording in ("plain", "edges"):
        for name in ("model", "none"):
            with tempfile.TemporaryDirectory() as folder:
                more = ["--model", str(HERE / "model")] if name == "model" else []
                foreclick("run", str(HERE / f"{recording}.stream"), "--out", folder, *more)
                for topic in ("predictions", "flags", "dead-letters"):
                    _store(
                        f"run-{recording}-{name}-{topic}.jsonl", Path(folder, f"{topic}.jsonl").read_bytes()
                    )


def changelogs() -> None:
    """Make the changelogs of workers that were stopped before the end of the recording, for both guarantees."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedKafka(Path(folder, "kafka")) as kafka:
        for guarantee in ("at_least_once", "exactly_once"):
            for name in ("model", "none"):
                _changelog(kafka.bootstrap, Path(folder), guarantee, name)


def _changelog(bootstrap: str, folder: Path, guarantee: str, name: str) -> None:
    prefix, log = f"{guarantee.replace('_', '-')}-{name}.", f"changelog-{guarantee}-{name}"
    records = [Record._make(r) for r in RecordingReader(HERE / "plain.stream")]
    stop = len(records) * 6 // 10
    environment = {"brokers": bootstrap, "topic_prefix": prefix, "group": "g", "partitions": "2"}
    foreclick("topics", "--create", *(f"--{k.replace('_', '-')}={v}" for k, v in environment.items()))
    more: dict[str, Any] = {"model": HERE / "model"} if name == "model" else {}
    settings = load_settings(
        env={}, options={**environment, **more, **{k: str(v) for k, v in WORKER.items()}}
    )
    with harness.workers() as start:
        worker = start(folder / prefix, bootstrap, prefix, guarantee=guarantee, group="g", **WORKER, **more)
        worker.wait_ready()
        for at in range(0, stop, stop // 3):  # so that users are written more than once
            part = records[at : min(at + stop // 3, stop)]
            harness.produce(bootstrap, prefix, part)
            processed = _frontier(settings, records[: at + len(part)])
            _wait_for_commit(bootstrap, prefix, processed)
        assert worker.stop() == 0
    committed = dict(zip(INPUT_TOPICS, _committed(bootstrap, prefix), strict=True))
    topic = settings.changelog
    with RecordingWriter(
        HERE / f"{log}.stream",
        {topic: 2},
        {"committed": committed, "guarantee": guarantee, "model": name, "commit": COMMIT},
    ) as writer:
        messages = harness.read_all(bootstrap, topic)
        for m in sorted(messages, key=lambda m: (m.partition(), m.offset())):
            writer.append(Record(topic, m.partition(), m.offset(), 0, m.key(), m.value(), ()))
    _store(f"users-{guarantee}-{name}.json", msgspec.json.encode(_look_ups(settings, log, topic)))


def _wait_for_commit(bootstrap: str, prefix: str, wanted: list[list[int]]) -> None:
    harness.wait_for(f"commit of {wanted}", lambda: _committed(bootstrap, prefix) == wanted, 60)


def _committed(bootstrap: str, prefix: str) -> list[list[int]]:
    topics = [prefix + topic for topic in INPUT_TOPICS]
    found = harness.committed(bootstrap, "g", topics, partitions=2)
    return [[max(0, at) for at in found[topic]] for topic in topics]


def _frontier(settings: Settings, records: list[Record]) -> list[list[int]]:
    """Return the final offsets of each topic's partitions for a worker that never stops waiting for a topic."""
    processor = ShopProcessor(settings, None, partitions=2)
    for partition in range(2):
        processor.assign(partition, [0, 0, 0])
        processor.restored(partition)
        for topic_index, topic in enumerate(INPUT_TOPICS):
            mine = [r for r in records if (r.topic, r.partition) == (topic, partition)]
            if mine:
                processor.ingest(partition, topic_index, RecordColumns.of(mine), mine[-1].offset + 1)
    while processor.step(0.0) is not None:
        pass
    positions = [processor.merge(partition).positions for partition in range(2)]
    return [[p[index] for p in positions] for index in range(len(INPUT_TOPICS))]


def _look_ups(settings: Settings, log: str, topic: str) -> dict[str, Any]:
    """Return what the pages of a worker show of each user after it has read the changelog back."""
    processor = ShopProcessor(settings, load_model(settings) if settings.model else None, partitions=2)
    records = list(RecordingReader(HERE / f"{log}.stream"))
    for partition in range(2):
        processor.assign(partition, [0, 0, 0])
        processor.restore(partition, RecordColumns.of([r for r in records if r.partition == partition]))
        processor.restored(partition)
    names = sorted(name for p in range(2) for name in processor.users.mapping(p))
    return {name: processor.look_up(name) for name in names}


def _store(name: str, data: bytes) -> None:
    (HERE / f"{name}.zst").write_bytes(zstandard.ZstdCompressor(level=19).compress(data))


def _git(root: Path, *command: str) -> str:
    return subprocess.run(
        ["git", "-C", root, *command], capture_output=True, text=True, check=True
    ).stdout.strip()


def _check_commit() -> None:
    root = Path(stream_app.__file__).parents[1]
    found, changed = _git(root, "rev-parse", "--short=7", "HEAD"), _git(root, "status", "--porcelain")
    if found != COMMIT or changed:
        sys.exit(f"PYTHONPATH must name a clean checkout of {COMMIT}, not {found or root}")


if __name__ == "__main__":
    _check_commit()
    for step in (plain, edges, outputs, changelogs):
        print(step.__name__, flush=True)
        step()
    print(json.dumps({"bytes": sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file())}))
