"""Stored batches, read by Kafka's Java consumer and by ours: `python -m tests.fuzz.stored --accepted 100000`.

Each mutant goes to a real broker. After each one that it acknowledges comes a valid record. Then both consumers read
the log, and these rules must hold:

- our consumer reads the valid record after each mutant;
- it delivers what the Java consumer delivers, with the same offset, time, key, value and headers;
- of each batch that it sets aside, the Java consumer refuses or skips something.

One exception is counted ("renumbered"): uncompressed batches with an offset delta beyond the batch. There the Java
consumer gives a record the offset of another one and skips what follows; ours keeps the broker's offsets.
"""

import argparse
import asyncio
import json
import random
import time
import uuid
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from stream_app.contract.record_columns import RecordColumns
from stream_app.lab.broker import EmbeddedKafka
from stream_app.worker.transport.aiokafka_internals import stop_consumer
from stream_app.worker.transport.fetch_hook import install_fetch_hook
from tests.fuzz.java_consumer import JavaConsumer, Log, Seen
from tests.fuzz.mutants import FIELDS, Mutant, mutant
from tests.fuzz.produce import RawProducer
from tests.stream_app.batches import CODECS
from tests.stream_app.raw_batches import record, stored

PARTITIONS = 32
PER_PARTITION = 24
GOOD = stored(record(0, b"good", b"behind"), 1)

LOST = "read; skipped by Java after a renumbered one"

#: Codec and field.
Kind = tuple[str, str]


class Round:
    """Mutants in the partitions of one topic, and their outcomes."""

    def __init__(self, bootstrap: str, draw: random.Random, kinds: list[Kind]) -> None:
        self.topic = f"fuzz-{uuid.uuid4().hex[:10]}"
        self._bootstrap, self._draw, self._kinds = bootstrap, draw, kinds
        self.stored: dict[int, list[tuple[int, Mutant]]] = {p: [] for p in range(PARTITIONS)}
        self.behind: dict[int, set[int]] = {p: set() for p in range(PARTITIONS)}
        self.begins: dict[int, list[int]] = {p: [] for p in range(PARTITIONS)}
        self.sent: Counter[Kind] = Counter()
        self.accepted: Counter[Kind] = Counter()

    def produce(self, producer: RawProducer) -> None:
        """Send them, each followed by a valid record."""
        admin = AdminClient({"bootstrap.servers": self._bootstrap})
        config = {"message.timestamp.before.max.ms": str(2**62), "message.timestamp.after.max.ms": str(2**62)}
        admin.create_topics([NewTopic(self.topic, PARTITIONS, 1, config=config)])[self.topic].result(60)
        waiting, deadline = set(range(PARTITIONS)), time.monotonic() + 60
        while waiting:  # until each has a leader
            assert time.monotonic() < deadline, f"{self.topic} has no leader for {sorted(waiting)}"
            for p, (error, offset) in producer.send(self.topic, dict.fromkeys(sorted(waiting), GOOD)).items():
                if not error:
                    waiting.discard(p)
                    self.behind[p].add(offset)
                    self.begins[p].append(offset)
        for _ in range(PER_PARTITION):
            some = {p: mutant(self._draw, *self._draw.choice(self._kinds)) for p in range(PARTITIONS)}
            answers = producer.send_each(self.topic, {p: m.batch for p, m in some.items()})
            good = {}
            for p, (error, offset) in answers.items():
                self.sent[some[p].codec, some[p].field] += 1
                if not error:
                    self.accepted[some[p].codec, some[p].field] += 1
                    self.stored[p].append((offset, some[p]))
                    self.begins[p].append(offset)
                    good[p] = GOOD
            for p, (error, offset) in producer.send(self.topic, good).items() if good else ():
                assert not error, error
                self.behind[p].add(offset)
                self.begins[p].append(offset)

    def delete(self) -> None:
        """Delete the topic, to free the disk."""
        admin = AdminClient({"bootstrap.servers": self._bootstrap})
        admin.delete_topics([self.topic])[self.topic].result(60)

    def compare(
        self, java: dict[int, Log], ours: dict[int, tuple[list[Seen], list[tuple[int, int]]]]
    ) -> Counter[str]:
        """Return the outcomes of the batches by kind. Raises AssertionError if a rule is broken."""
        outcomes: Counter[str] = Counter()
        for p in range(PARTITIONS):
            records, aside = ours[p]
            mine = {seen[0]: seen for seen in records}
            assert list(mine) == sorted(mine) and len(mine) == len(records), "offsets must rise"
            theirs: dict[int, list[Seen]] = {}
            for seen in java[p].records:
                theirs.setdefault(seen[0], []).append(
                    seen
                )  # with a delta beyond its batch, an offset occurs twice
            lost = self.behind[p] - mine.keys()
            assert not lost, f"valid records at {sorted(lost)} are missing"
            beyond = False
            for first, m in self.stored[p]:
                set_aside = (first, first + m.records - 1) in aside
                outcome = self._one(m, first, java[p], theirs, mine, set_aside)
                beyond |= outcome == "renumbered"
                assert beyond or outcome != LOST, (
                    m,
                    first,
                    [mine.get(first + i) for i in range(m.records)],
                    theirs,
                )
                outcomes[outcome] += 1
            # A record that Java renumbers has another offset here, or is in a batch that was set aside.
            moved = [seen for found in theirs.values() for seen in found if mine.get(seen[0]) != seen]
            elsewhere = {seen[1:] for seen in records}
            unknown = [seen for seen in moved if seen[1:] not in elsewhere]
            assert len(unknown) <= sum(
                m.codec == "none" and m.field == "deltas" for _, m in self.stored[p]
            ), unknown
        return outcomes

    @staticmethod
    def _one(
        m: Mutant, first: int, java: Log, theirs: dict[int, list[Seen]], mine: dict[int, Seen], aside: bool
    ) -> str:
        offsets = range(first, first + m.records)
        read = [mine.get(o) for o in offsets]
        refused = [why for at, why in java.refused if at in offsets]
        equal = [seen in theirs.get(o, []) for o, seen in zip(offsets, read, strict=True)]
        shown = (m, first, [theirs.get(o) for o in offsets], read, refused, aside)
        whole = None not in read
        by_the_broker = (m.codec, m.field) != ("none", "deltas")  # whose offsets are those of the log
        assert not by_the_broker or all(o not in theirs or mine.get(o) for o in offsets), shown
        if aside:
            assert refused or not all(equal), shown
            return "set aside after some records" if any(read) else "set aside"
        assert whole and not refused, shown
        if all(equal):
            return "read by both"
        if not by_the_broker:
            return "renumbered"  # all of it was read
        return LOST


async def read_ours(bootstrap: str, topic: str) -> dict[int, tuple[list[Seen], list[tuple[int, int]]]]:
    """Return the records of each partition, and the offsets of each batch that was set aside."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        isolation_level="read_committed",
        fetch_max_wait_ms=5,
    )
    await consumer.start()
    install_fetch_hook(consumer)
    places = [TopicPartition(topic, p) for p in range(PARTITIONS)]
    found: dict[int, tuple[list[Seen], list[tuple[int, int]]]] = {p: ([], []) for p in range(PARTITIONS)}
    try:
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        for place in places:
            consumer.seek(place, 0)
        deadline = time.monotonic() + 120
        while any([await consumer.position(place) < ends[place] for place in places]):
            assert time.monotonic() < deadline, "our consumer does not reach the end"
            pieces: dict[TopicPartition, list[RecordColumns]] = await consumer.getmany(timeout_ms=200)
            for place, (columns, *_) in pieces.items():
                records, aside = found[place.partition]
                records += [(r.offset, r.timestamp, r.key, r.value, r.headers) for r in columns]
                for letter in columns.aside:
                    first, last = dict(letter.details)["foreclick.offsets"].split("-")
                    if (int(first), int(last)) not in aside:
                        aside.append((int(first), int(last)))
    finally:
        await stop_consumer(consumer)
    return found


def fuzz(
    bootstrap: str,
    seed: int,
    *,
    accepted: int = 0,
    each: int = 0,
    seconds: float = 0.0,
    show: bool = False,
) -> dict[str, object]:
    """Run rounds until so many mutants were accepted, `each` of every kind, and so many seconds have passed."""
    sent: Counter[Kind] = Counter()
    taken: Counter[Kind] = Counter()
    outcomes: Counter[str] = Counter()
    kinds = [(codec, field) for codec in CODECS for field in FIELDS if (codec, field) != ("none", "tail")]
    producer, java = RawProducer(bootstrap), JavaConsumer(bootstrap)
    start, number = time.monotonic(), 0
    try:
        while (rare := [k for k in kinds if taken[k] < each]) or taken.total() < accepted or (
            time.monotonic() - start < seconds
        ):  # fmt: skip
            # The fewer of a kind were accepted so far, the more of it are sent.
            least = sorted(kinds, key=lambda kind: taken[kind])[: len(kinds) // 2] if number % 2 else kinds
            one = Round(bootstrap, random.Random(f"{seed}-{number}"), rare or least)
            one.produce(producer)
            ours = asyncio.run(read_ours(bootstrap, one.topic))
            try:
                outcomes += one.compare(java.read(one.topic, one.begins), ours)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, round {number}, {one.topic}: {error}") from error
            one.delete()
            sent, taken, number = sent + one.sent, taken + one.accepted, number + 1
            if show:
                print(f"{taken.total():,} accepted of {sent.total():,}", dict(outcomes), flush=True)
    finally:
        producer.close()
        java.close()
    return {
        "seed": seed, "rounds": number, "seconds": round(time.monotonic() - start), "sent": sent.total(),
        "accepted": taken.total(), "outcomes": dict(outcomes.most_common()),
        "accepted by codec and field": {f"{c} {f}": [taken[c, f], sent[c, f]] for c, f in kinds},
    }  # fmt: skip


def main() -> None:
    """Run rounds and print the outcomes."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.stored", description=__doc__)
    parser.add_argument("--accepted", type=int, default=100_000)
    parser.add_argument(
        "--each", type=int, default=0, help="least number of accepted mutants per codec and field"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with TemporaryDirectory() as folder, EmbeddedKafka(Path(folder) / "kafka") as kafka:
        found = fuzz(kafka.bootstrap, options.seed, accepted=options.accepted, each=options.each, show=True)
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
