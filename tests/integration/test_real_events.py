"""The whole worker on events of a real shop, compared with counts made record by record."""

import csv
import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from stream_app.contract.partitioner import partitions_of
from stream_app.contract.records import Record
from stream_app.lab.broker import EmbeddedKafka
from stream_app.state.window_buckets import WINDOWS
from tests.integration.answered import ids, ids_of
from tests.integration.harness import Reader, Start, make_topics, produce, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]


def taobao(folder: Path, n: int) -> list[Record]:
    """Return the first n rows of the Taobao slice as records, made without the importer."""
    kinds = {"pv": "clicks", "cart": "browses", "fav": "browses", "buy": "purchases"}
    offsets: Counter[tuple[str, int]] = Counter()
    records = []
    with (folder / "taobao_user_behavior" / "UserBehavior.csv").open() as file:
        for user, item, category, behaviour, ts in islice(csv.reader(file), n):
            topic, partition = kinds[behaviour], int(partitions_of([user.encode()], 4)[0])
            value = {"user_id": user, "item_id": item, "category_id": category, "ts": int(ts) * 1000}
            offset = offsets[topic, partition]
            offsets[topic, partition] += 1
            ms = int(ts) * 1000
            records.append(
                Record(topic, partition, offset, ms, user.encode(), json.dumps(value).encode(), ())
            )
    return records


def count_windows(records: list[Record]) -> dict[str, dict[str, Counter[str]]]:
    """Count each user's events per window at the last event, record by record."""
    events: dict[str, list[tuple[int, str]]] = {}
    for r in records:
        body = json.loads(r.value or b"")
        events.setdefault(body["user_id"], []).append((body["ts"], r.topic))
    names = {"clicks": "click", "browses": "browse", "purchases": "purchase"}
    result: dict[str, dict[str, Counter[str]]] = {}
    for user, seen in events.items():
        clock = max(ts for ts, _ in seen)
        result[user] = {
            name: Counter(
                names[topic] for ts, topic in seen if ts // (length // n) > clock // (length // n) - n
            )
            for name, length, n in WINDOWS
        }
    return result


async def test_twenty_thousand_real_events(
    kafka: EmbeddedKafka, prefix: str, start: Start, data_dir_real: Path, tmp_path: Path
) -> None:
    """Each Taobao event has one prediction, and every window count equals an independent count."""
    records = taobao(data_dir_real, 20_000)
    await make_topics(kafka.bootstrap, prefix)
    produce(kafka.bootstrap, prefix, records)
    worker = start(tmp_path, kafka.bootstrap, prefix)
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    reader.read_until("20,000 predictions", lambda m: len(m) >= 20_000)
    wait_for("the worker to be ready", worker.ready)
    assert ids(reader.messages) == Counter(ids_of(records, prefix))
    truth = count_windows(records)
    busy = sorted(truth, key=lambda u: -sum(truth[u]["7d"].values()))
    for user in [*busy[:200], *busy[200::40]]:
        _, shown = worker.get(f"/users/{user}/")
        for name, counts in truth[user].items():
            found = {kind: shown["windows"][name][kind] for kind in ("click", "browse", "purchase")}
            assert found == {kind: counts[kind] for kind in found}, (user, name)
    assert worker.stop() == 0
    reader.close()
