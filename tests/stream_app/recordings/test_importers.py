"""Public data sets as recordings: every good line becomes one event of the contract, every bad one is counted."""

import gzip
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.contract.partitioner import partitions_of
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.decoding.decoder import Decoder
from stream_app.decoding.name_table import NameTable
from stream_app.recordings.importers import FORMATS, ImportFailed, ImportStats, import_files
from stream_app.recordings.importers.lines import Source
from stream_app.recordings.recording import RecordingReader


def imported(
    tmp_path: Path, format_name: str, *texts: str, **options: Any
) -> tuple[ImportStats, list[Record]]:
    """Import files with these texts; return statistics and records."""
    files = []
    for number, text in enumerate(texts):
        files.append(tmp_path / f"{number}.csv")
        files[-1].write_text(text)
    stats = import_files(format_name, files, tmp_path / "out.stream", **options)
    return stats, list(RecordingReader(tmp_path / "out.stream"))


def event(record: Record) -> dict[str, Any]:
    assert record.value is not None
    return msgspec.json.decode(record.value)


def check_contract(records: list[Record], partitions: int = 4) -> None:
    """Check that the worker's decoder accepts every record, in the right partition, with offsets without gaps."""
    decoder = Decoder(NameTable(lambda _: 0, 0), NameTable(lambda _: 0, 0), max_future_ms=0)
    offsets: dict[tuple[str, int], int] = {}
    for record in records:
        place = record.topic, record.partition
        assert record.offset == offsets.get(place, 0)
        offsets[place] = record.offset + 1
    for topic_index, topic in enumerate(INPUT_TOPICS):
        of_topic = [record for record in records if record.topic == topic]
        events, bad = decoder.decode(topic_index, RecordColumns.of(of_topic))
        assert bad == []
        assert (events.data["ts"] == events.data["timestamp"]).all()
        keys = [record.key or b"" for record in of_topic]
        assert [record.partition for record in of_topic] == partitions_of(keys, partitions).tolist()
    times = [record.timestamp for record in records]
    assert times == sorted(times)


def test_a_file_as_other_programs_leave_it(tmp_path: Path) -> None:
    """A byte order mark, a header line and gzip lose no row and give no bad line."""
    rows = "1,2268318,2520377,pv,1511544070\n1,2333346,2520771,pv,1511561733\n"
    for name, body in (
        ("bom.csv", b"\xef\xbb\xbf" + rows.encode()),
        ("names.csv", b"user_id,item_id,category_id,behaviour,timestamp\n" + rows.encode()),
        ("both.csv", b"\xef\xbb\xbfuser;item;category\n" + rows.encode()),
        ("packed.csv.gz", gzip.compress(rows.encode())),
    ):
        (tmp_path / name).write_bytes(body)
        stats = import_files("taobao", [tmp_path / name], tmp_path / "out.stream")
        assert (stats.records, stats.bad_lines) == (2, 0), name
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(rows.encode())[:-12])
    with pytest.raises(ImportFailed, match=r"cannot read .*cut\.csv\.gz"):
        import_files("taobao", [tmp_path / "cut.csv.gz"], tmp_path / "out.stream")


def test_times_with_a_zone_in_words(tmp_path: Path) -> None:
    """ "2014-04-07 10:51:09 UTC", as BigQuery exports it, is that moment."""
    stats, records = imported(tmp_path, "yoochoose", "1,2014-04-07 10:51:09 UTC,214536502,0\n")
    assert stats.bad_lines == 0
    assert event(records[0])["ts"] == 1_396_867_869_000


def test_taobao_mapping(tmp_path: Path) -> None:
    """Each behaviour becomes the event in the module's table, without invented values."""
    lines = [
        "7,10,3,pv,1511658000",
        "7,10,3,cart,1511658001",
        "7,10,3,fav,1511658002",
        "7,10,3,buy,1511658003",
    ]
    stats, records = imported(tmp_path, "taobao", "\n".join(lines))
    base = {"user_id": "7", "item_id": "10", "category_id": "3"}
    assert [(r.topic, event(r)) for r in records] == [
        ("clicks", {**base, "ts": 1511658000000}),
        ("browses", {**base, "ts": 1511658001000, "props": {"action": "cart"}}),
        ("browses", {**base, "ts": 1511658002000, "props": {"action": "fav"}}),
        ("purchases", {**base, "ts": 1511658003000}),
    ]
    check_contract(records)
    assert (stats.records, stats.bad_lines) == (4, 0)
    assert (stats.first_ms, stats.last_ms) == (1511658000000, 1511658003000)


def test_yoochoose_forms(tmp_path: Path) -> None:
    """Tab-separated clicks and the challenge's clicks and buys are combined, with the session as the user."""
    stats, records = imported(
        tmp_path,
        "yoochoose",
        "SessionId\tItemId\tTime\n3\t214\t1396437466.94\n",
        "1,2014-04-02T11:17:46.941Z,214536502,0\n1,2014-04-02T11:17:47.000Z,214536503,S\n",
        "1,2014-04-02T11:17:48.5Z,214536502,12462,1\r\n1,2014-04-02T11:17:49Z,214536503,0,0\r\n",
    )
    assert [event(r) for r in records] == [
        {"user_id": "3", "session_id": "3", "ts": 1396437466940, "item_id": "214"},
        {"user_id": "1", "session_id": "1", "ts": 1396437466941, "item_id": "214536502"},
        {"user_id": "1", "session_id": "1", "ts": 1396437467000, "item_id": "214536503", "category_id": "S"},
        {
            "user_id": "1",
            "session_id": "1",
            "ts": 1396437468500,
            "item_id": "214536502",
            "price": 12462.0,
            "quantity": 1,
        },
        {"user_id": "1", "session_id": "1", "ts": 1396437469000, "item_id": "214536503"},
    ]
    assert stats.topics == {"clicks": 3, "browses": 0, "purchases": 2}
    check_contract(records)


def test_bad_lines_are_counted_and_named(tmp_path: Path) -> None:
    """Bad lines do not affect others; the first few are reported with file, number and reason."""
    text = "\n".join(
        [
            "1,2,3,pv,1511658000",
            "1,2,3,pv",
            "1,2,3,look,1511658000",
            "",
            'x",2,3,pv,1511658000',
            "1,2,3,pv,-5",
            "1,2,3,pv,99999999999999",
            "1" * 200 + ",2,3,pv,1511658000",
            "1,2,3,buy,1511658001",
        ]
    )
    stats, records = imported(tmp_path, "taobao", text)
    assert [r.topic for r in records] == ["clicks", "purchases"]
    assert stats.bad_lines == 6
    assert stats.examples[0].startswith("0.csv, line 2: expected user,item,category,behaviour,seconds")
    assert stats.examples[1].startswith("0.csv, line 3: the behaviour must be pv, cart, fav or buy")
    assert len(stats.examples) == 5
    check_contract(records)


@settings(deadline=None)
@given(
    name=st.sampled_from(list(FORMATS)),
    lines=st.lists(
        st.binary(max_size=40)
        | st.text("0123456789,\t.TZ:-pvS", max_size=40).map(str.encode)
        | st.lists(
            st.sampled_from([b"1", b"20", b"0", b"pv", b"1.5", b"x", b"2014-04-02T11:17:49Z"]), min_size=3
        ).map(lambda parts: (b"\t" if len(parts) == 3 else b",").join(parts[:5]))
    ),
)
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, name: str, lines: list[bytes]) -> None:
    """Any bytes are events or bad lines, never an exception, and the counts add up."""
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(b"\n".join(lines))
    source = Source([path])
    rows = list(source.rows(path, FORMATS[name]))
    assert len(rows) + source.bad == source.lines
    decoder = Decoder(NameTable(lambda _: 0, 0), NameTable(lambda _: 0, 0), max_future_ms=0)
    for row in rows:
        record = Record(row.topic, 0, 0, row.ts, row.key, row.value)
        events, bad = decoder.decode(INPUT_TOPICS.index(row.topic), RecordColumns.of([record]))
        assert (len(events), bad) == (1, [])


@pytest.mark.parametrize("sort_rows", [1, 7, 100, 1_000])
def test_sorted_in_pieces(tmp_path: Path, sort_rows: int) -> None:
    """Files larger than the sort in memory give the same order: by time, then by place in the files."""
    times = [1511658000 + (i * 37) % 23 for i in range(200)]
    text = "\n".join(f"{i % 9},{i},3,pv,{at}" for i, at in enumerate(times))
    _, records = imported(tmp_path, "taobao", text, sort_rows=sort_rows, partitions=3)
    expected = sorted(range(200), key=lambda i: times[i])
    assert [int(event(r)["item_id"]) for r in records] == expected
    check_contract(records, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.csv", "out.stream"]


def test_files_that_cannot_be_imported(tmp_path: Path) -> None:
    """A wrong or unknown format, a missing or empty file and a missing folder each give a clear error."""
    out = tmp_path / "out.stream"
    with pytest.raises(ImportFailed, match=r"none of 1 lines is of format taobao; 0.csv, line 2: expected"):
        imported(tmp_path, "taobao", "SessionId\tItemId\tTime\n3\t214\t1396437466.94\n")
    with pytest.raises(ImportFailed, match="none of 0 lines"):
        imported(tmp_path, "yoochoose", "")
    with pytest.raises(ImportFailed, match="take one of jsonl, csv, parquet, taobao, yoochoose"):
        import_files("other", [tmp_path / "0.csv"], out)
    with pytest.raises(ImportFailed, match="No such file"):
        import_files("taobao", [tmp_path / "none.csv"], out)
    with pytest.raises(ImportFailed, match="make it first"):
        import_files("taobao", [tmp_path / "0.csv"], tmp_path / "none" / "out.stream")
    assert not out.exists()


def test_real_taobao(data_dir_real: Path, tmp_path: Path) -> None:
    """The real slice: 98,361 clicks, 6,063 carts and 3,383 favourites, 2,493 purchases, no bad line."""
    path = data_dir_real / "taobao_user_behavior" / "UserBehavior.csv"
    stats = import_files("taobao", [path], tmp_path / "t.stream")
    assert stats.topics == {"clicks": 98_361, "browses": 6_063 + 3_383, "purchases": 2_493}
    assert (stats.records, stats.bad_lines) == (110_300, 0)
    records = list(RecordingReader(tmp_path / "t.stream"))
    check_contract(records)
    actions = [event(r)["props"]["action"] for r in records if r.topic == "browses"]
    assert (actions.count("cart"), actions.count("fav")) == (6_063, 3_383)
    assert len({record.key for record in records}) == 66_454


def test_real_yoochoose(data_dir_real: Path, tmp_path: Path) -> None:
    """The real sessions: 70,278 clicks in `train_full`, all of them sorted by time."""
    path = data_dir_real / "yoochoose_100k" / "yoochoose-clicks-100k_train_full.txt"
    stats = import_files("yoochoose", [path], tmp_path / "y.stream")
    assert stats.topics == {"clicks": 70_278, "browses": 0, "purchases": 0}
    assert stats.bad_lines == 0
    check_contract(list(RecordingReader(tmp_path / "y.stream")))
