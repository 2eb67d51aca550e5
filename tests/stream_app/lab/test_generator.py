"""Synthetic traffic: the same for the same seed, according to the settings, with correct labels."""

import collections
import itertools
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.contract.partitioner import partitions_of
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.decoding.decoder import Decoder
from stream_app.decoding.name_table import NameTable
from stream_app.lab.generator import GeneratorSettings, Label, generate, read_labels, write
from stream_app.lab.generator.settings import GeneratorError
from stream_app.lab.generator.trouble import FAULTS
from stream_app.recordings.errors import RecordingError
from stream_app.recordings.recording import RecordingReader

SMALL = GeneratorSettings(events=40_000, users=2_000, items=1_000, categories=40)
Place = tuple[str, int, int]


class Traffic:
    """A generated stream, decoded once for all tests."""

    def __init__(self, settings: GeneratorSettings) -> None:
        blocks = list(generate(settings))
        self.settings = settings
        self.records: list[Record] = [record for block in blocks for record in block.records]
        self.labels: list[Label] = [label for block in blocks for label in block.labels]
        self.by_place = {place(record): record for record in self.records}
        self.kinds: dict[Place, set[str]] = collections.defaultdict(set)
        for label in self.labels:
            self.kinds[label.topic, label.partition, label.offset].add(label.kind)
        bad = {p for p, kinds in self.kinds.items() if "malformed" in kinds}
        #: Records that follow the contract, in stream order, with their values.
        self.good = [(r, decode(r.value)) for r in self.records if place(r) not in bad]

    def with_label(self, kind: str) -> list[tuple[Label, Record]]:
        return [
            (each, self.by_place[each.topic, each.partition, each.offset])
            for each in self.labels
            if each.kind == kind
        ]


def place(record: Record) -> Place:
    return record.topic, record.partition, record.offset


def decode(value: bytes | None) -> dict[str, Any]:
    assert value is not None
    return msgspec.json.decode(value) if value[:1] == b"{" else msgspec.msgpack.decode(value)


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return Traffic(SMALL)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    """Recording and labels depend only on the settings, and another seed gives other ones."""
    settings = msgspec.structs.replace(SMALL, events=5_000)
    for name in "a", "b":
        (tmp_path / name).mkdir()
        write(settings, tmp_path / name / "x.stream")
    write(msgspec.structs.replace(settings, seed=2), tmp_path / "c.stream")
    first, second = ((tmp_path / name / "x.stream").read_bytes() for name in "ab")
    assert first == second
    labels = [(tmp_path / name / "x.labels.jsonl").read_bytes() for name in "ab"]
    assert labels[0] == labels[1] != b""
    assert list(RecordingReader(tmp_path / "c.stream")) != list(RecordingReader(tmp_path / "a" / "x.stream"))


def test_written_is_generated(tmp_path: Path, traffic: Traffic) -> None:
    """The recording has the generated records, the file next to it the labels, the summary their counts."""
    seen: list[int] = []
    summary = write(SMALL, tmp_path / "a.stream", seen.append)
    reader = RecordingReader(tmp_path / "a.stream")
    assert list(reader) == traffic.records
    assert reader.topics == dict.fromkeys(INPUT_TOPICS, SMALL.partitions)
    assert reader.metadata["settings"] == msgspec.to_builtins(SMALL)
    assert read_labels(tmp_path / "a.labels.jsonl") == traffic.labels
    assert summary.records == seen[-1] == sum(summary.topics.values()) == SMALL.events
    assert summary.planted == {
        kind: len(traffic.with_label(kind)) for kind in ("bot", "fraud", "late", "duplicate", "malformed")
    }
    assert (summary.first_ms, summary.last_ms) == (
        traffic.records[0].timestamp,
        traffic.records[-1].timestamp,
    )


def test_order_offsets_and_partitions(traffic: Traffic) -> None:
    """Records are in the order of the broker's time, offsets have no gaps, the key decides the partition."""
    times = [record.timestamp for record in traffic.records]
    assert times == sorted(times)
    offsets: dict[tuple[str, int], list[int]] = collections.defaultdict(list)
    for record in traffic.records:
        offsets[record.topic, record.partition].append(record.offset)
    assert len(offsets) == len(INPUT_TOPICS) * SMALL.partitions
    assert all(each == list(range(len(each))) for each in offsets.values())
    keys = [record.key or b"" for record, _ in traffic.good]
    assert [record.partition for record, _ in traffic.good] == partitions_of(keys, SMALL.partitions).tolist()


def decoded(records: list[Record]) -> tuple[int, list[str]]:
    """Return how many of the records our own decoder accepts, and the reasons of the others."""
    decoder = Decoder(NameTable(lambda _: 0, 0), NameTable(lambda _: 0, 0), max_future_ms=60_000)
    good, reasons = 0, []
    for kind, topic in enumerate(INPUT_TOPICS):
        events, bad = decoder.decode(
            kind, RecordColumns.of([record for record in records if record.topic == topic])
        )
        good += len(events)
        reasons += [each.reason for each in bad]
    return good, reasons


def test_good_records_keep_the_contract(traffic: Traffic) -> None:
    """The worker's decoder accepts every record that is not labelled malformed, in JSON and in msgpack."""
    assert decoded([record for record, _ in traffic.good]) == (len(traffic.good), [])
    packed = sum(record.value[:1] != b"{" for record, _ in traffic.good if record.value)
    assert packed / len(traffic.good) == pytest.approx(SMALL.msgpack_share, abs=0.02)


def test_malformed_records_are_refused_for_their_reason(traffic: Traffic) -> None:
    """Every fault occurs, and the worker's decoder gives the expected reason."""
    found = traffic.with_label("malformed")
    assert {label.detail for label, _ in found} == set(FAULTS)
    for label, record in found:
        assert decoded([record]) == (0, [FAULTS[str(label.detail)]]), label.detail


def test_shares_are_as_asked(traffic: Traffic) -> None:
    """Planted records are as frequent as the settings say, within chance."""
    share = {
        kind: len(traffic.with_label(kind)) / SMALL.events for kind in ("late", "duplicate", "malformed")
    }
    assert share["late"] == pytest.approx(SMALL.late_share, rel=0.3)
    assert share["duplicate"] == pytest.approx(SMALL.duplicate_share, rel=0.3)
    assert share["malformed"] == pytest.approx(SMALL.malformed_share, rel=0.4)
    more = Traffic(msgspec.structs.replace(SMALL, bot_share=0.2, fraud_share=0.05))
    assert len(more.with_label("bot")) / SMALL.events == pytest.approx(0.2, rel=0.3)
    assert len(more.with_label("fraud")) / SMALL.events == pytest.approx(0.05, rel=0.3)


def test_nothing_planted_where_nothing_is_wanted() -> None:
    """With all shares at zero there is no label, no duplicate and no msgpack."""
    none = dict.fromkeys((f for f in GeneratorSettings.__struct_fields__ if f.endswith("_share")), 0.0)
    clean = Traffic(GeneratorSettings(events=5_000, users=500, items=300, categories=10, **none))
    assert clean.labels == []
    assert len({event["event_id"] for _, event in clean.good}) == len(clean.records) == 5_000
    assert all(record.value and record.value[:1] == b"{" for record in clean.records)


def test_duplicates_repeat_a_record_bit_for_bit(traffic: Traffic) -> None:
    """A duplicate has key and value of an earlier record of its partition; no other two share an event id."""
    duplicates = {place(record) for _, record in traffic.with_label("duplicate")}
    first: dict[str, Record] = {}
    for record, event in traffic.good:
        if place(record) in duplicates:
            earlier = first[event["event_id"]]
            assert (earlier.key, earlier.value, earlier.partition) == (
                record.key,
                record.value,
                record.partition,
            )
            assert earlier.offset < record.offset
        else:
            assert event["event_id"] not in first
            first[event["event_id"]] = record


def test_late_records_are_late_by_what_their_label_says(traffic: Traffic) -> None:
    """A late event's time is behind the broker's by the value of its label; others only by the network's delay."""
    late = {place(record): label for label, record in traffic.with_label("late")}
    for record, event in traffic.good:
        behind = record.timestamp - event["ts"]
        assert behind > 0
        if "duplicate" in traffic.kinds[place(record)]:
            continue
        label = late.get(place(record))
        behind -= int(label.detail or 0) if label else 0
        assert 0 < behind < 1_000


def test_labels_name_the_user_and_event_of_their_record(traffic: Traffic) -> None:
    """User and event id of a label are those in the record that it points to."""
    for label in traffic.labels:
        if label.kind != "malformed":
            event = decode(traffic.by_place[label.topic, label.partition, label.offset].value)
            assert (label.user_id, label.event_id) == (event["user_id"], event["event_id"])


def test_popularity_is_skewed(traffic: Traffic) -> None:
    """A tenth of the users make a third of the events, a tenth of the items get half of the clicks."""
    for field, least in (("user_id", 0.33), ("item_id", 0.5)):
        counts = collections.Counter(e[field] for _, e in traffic.good if "item_id" in e)
        common = sorted(counts.values(), reverse=True)
        size = SMALL.users if field == "user_id" else SMALL.items
        assert sum(common[: size // 10]) / sum(common) > least


def test_purchases_follow_clicks_of_the_item(traffic: Traffic) -> None:
    """Users buy only items that they clicked in the same session, except with a stolen account."""
    clicked: set[tuple[str, str]] = set()
    purchases = 0
    for record, event in traffic.good:
        item = event["session_id"], event.get("item_id")
        if record.topic == "clicks":
            clicked.add(item)
        elif record.topic == "purchases" and "fraud" not in traffic.kinds[place(record)]:
            assert item in clicked
            assert event["quantity"] >= 1
            assert event["price"] > 0
            purchases += 1
    assert 0.01 < purchases / len(traffic.good) < 0.1


def test_the_next_click_can_be_learned(traffic: Traffic) -> None:
    """The transitions of the first part predict clicks of the rest far better than popularity."""
    clicks: dict[str, list[str]] = collections.defaultdict(list)
    for record, event in traffic.good:
        if record.topic == "clicks" and not traffic.kinds.get(place(record)):
            clicks[event["session_id"]].append(event["item_id"])
    sessions = list(clicks.values())
    train, test = sessions[: len(sessions) * 4 // 5], sessions[len(sessions) * 4 // 5 :]
    popular = {i for i, _ in collections.Counter(i for each in train for i in each).most_common(20)}
    after: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for each in train:
        for last, item in itertools.pairwise(each):
            after[last][item] += 1
    pairs = [pair for each in test for pair in itertools.pairwise(each)]
    by_popularity = sum(item in popular for _, item in pairs) / len(pairs)
    by_transition = sum(item in dict(after[last].most_common(20)) for last, item in pairs) / len(pairs)
    assert by_transition > 1.5 * by_popularity


def test_sessions_of_a_user_do_not_overlap(traffic: Traffic) -> None:
    """A user's sessions do not overlap."""
    spans: dict[str, dict[str, list[int]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for record, event in traffic.good:
        if not traffic.kinds.get(place(record)):
            spans[event["user_id"]][event["session_id"]].append(event["ts"])
    for sessions in spans.values():
        ordered = sorted((min(times), max(times)) for times in sessions.values())
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ordered))


def test_daily_rhythm() -> None:
    """The evening is busier than the morning, according to the rhythm."""
    settings = GeneratorSettings(events=30_000, users=3_000, span_s=2 * 86_400.0)
    hours = np.array([r.timestamp // 3_600_000 % 24 for b in generate(settings) for r in b.records])
    evening, morning = np.isin(hours, [19, 20, 21]).sum(), np.isin(hours, [7, 8, 9]).sum()
    assert evening > 3 * morning


@pytest.mark.parametrize("compression", [1.0, 60.0])
def test_span_start_and_compression(compression: float) -> None:
    """The events fill the given span of shop time from the given start, faster with a time compression."""
    settings = GeneratorSettings(
        events=30_000,
        users=5_000,
        span_s=600.0,
        start_ms=1_700_000_000_000,
        time_compression=compression,
        rhythm=0.0,
    )
    times = np.array([record.timestamp for block in generate(settings) for record in block.records])
    seconds = (times - 1_700_000_000_000) / 1000 * compression
    assert seconds[0] < 10
    assert seconds[-1] == pytest.approx(600, rel=0.15)
    per_minute = np.histogram(seconds, bins=10, range=(0, seconds[-1]))[0]
    assert per_minute.max() < 1.5 * per_minute.min()  # also at the start: the shop was open before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"events": 0}, "events must be 1 or more"),
        ({"late_share": 1.5}, "between 0 and 1"),
        ({"items": 5, "categories": 6}, "cannot fill"),
        ({"users": 10, "span_s": 10.0}, "take at least"),
        ({"bot_share": 0.8, "malformed_share": 0.2}, "less than a tenth"),
        ({"time_compression": 0.0}, "time compression"),
    ],
)
def test_impossible_settings(change: dict[str, Any], says: str) -> None:
    """Impossible settings are refused with a sentence that says what to change."""
    with pytest.raises(GeneratorError, match=says):
        GeneratorSettings(**change)


def test_labels_of_another_file(tmp_path: Path) -> None:
    """A file without labels, and a missing file, are clear errors."""
    (tmp_path / "a.jsonl").write_text('{"kind": 1}\n')
    with pytest.raises(RecordingError, match="not a file of labels"):
        read_labels(tmp_path / "a.jsonl")
    with pytest.raises(RecordingError, match="No such file"):
        read_labels(tmp_path / "b.jsonl")


@given(keys=st.lists(st.binary(max_size=20), max_size=20), partitions=st.integers(1, 50))
def test_partitioner_is_kafkas(keys: list[bytes], partitions: int) -> None:
    """The partition of a key is that of aiokafka's port of the Java client's murmur2."""
    murmur2 = pytest.importorskip("aiokafka.partitioner").murmur2
    expected = [(murmur2(key) & 0x7FFFFFFF) % partitions for key in keys]
    assert partitions_of(keys, partitions).tolist() == expected
