"""`foreclick import jsonl|csv`, run as a person runs it: files of a shop's own become recordings."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from stream_app.contract.records import Record
from stream_app.recordings.recording import RecordingReader
from tests.stream_app.command_line import run, run_json

SEGMENT = [
    {
        "type": "track", "event": "Order Completed", "userId": "u1", "messageId": "m2",
        "timestamp": "2026-03-01T12:01:00Z",
        "properties": {"order_id": "o", "products": [{"sku": "a", "price": 2}, {"sku": "b", "quantity": 3}, {}]},
    },
    {
        "type": "track", "event": "Product Viewed", "userId": "u1", "messageId": "m1",
        "timestamp": "2026-03-01T12:00:00Z", "properties": {"sku": "a"},
    },
    {"type": "track", "event": "\x1b[31mEmail Opened", "userId": "u1", "timestamp": "2026-03-01T12:00:00Z"},
    {"type": "page", "userId": "u2", "timestamp": "2026-03-01T12:00:30.5Z"},
]  # fmt: skip


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    """A file of what Segment sends, with a line that is no JSON."""
    path = tmp_path / "segment.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in SEGMENT) + "{\n\n")
    return path


def shown(record: Record) -> tuple[str, int, bytes | None, object]:
    """A record in a short form."""
    return record.topic, record.timestamp, record.key, json.loads(record.value or b"")


def test_lines_of_json(segment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Events are sorted by time; each line of an order is one; what is left out is counted by reason and type."""
    out = tmp_path / "a.stream"
    stats = run_json(
        capsys, "import", "jsonl", segment, "--preset", "segment", "--out", out, "--partitions", 1
    )
    assert (stats["records"], stats["bad_lines"]) == (4, 2)
    assert stats["topics"] == {"clicks": 1, "browses": 1, "purchases": 2}
    start = 1_772_366_400_000
    assert [shown(record) for record in RecordingReader(out)] == [
        ("clicks", start, b"u1", {"user_id": "u1", "ts": start, "event_id": "m1", "item_id": "a"}),
        ("browses", start + 30_500, b"u2", {"user_id": "u2", "ts": start + 30_500}),
        (
            "purchases", start + 60_000, b"u1",
            {"user_id": "u1", "ts": start + 60_000, "event_id": "m2", "item_id": "a", "order_id": "o", "price": 2.0},
        ),
        (
            "purchases", start + 60_000, b"u1",
            {
                "user_id": "u1", "ts": start + 60_000, "event_id": "m2-1", "item_id": "b", "order_id": "o",
                "quantity": 3,
            },
        ),
    ]  # fmt: skip
    assert run("import", "jsonl", segment, "--preset", "segment", "--out", out) == 0
    said = capsys.readouterr()
    assert (
        "line 1: event 3 of the line: item_id is missing (from properties.products[].product_id" in said.err
    )
    assert "line 5: the line is not valid JSON" in said.err
    assert "types that are not used: 1 x \\x1b[31mEmail Opened" in said.err
    assert "\x1b" not in said.err
    assert "4 records" in said.out


def test_a_dry_run_writes_nothing(segment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It shows the events as they would be read, and what would be skipped and why."""
    assert run("import", "jsonl", segment, "--preset", "segment", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "time",
        "type",
        "user_id",
        "event_id",
        "item_id",
        "price",
        "quantity",
        "order_id",
    ]
    assert lines[1].split() == ["2026-03-01T12:01:00.000Z", "purchase", "u1", "m2", "a", "2.0", "1", "o"]
    assert len([line for line in lines if line.startswith("2026")]) == 4
    assert "events: 2 purchase, 1 click, 1 browse" in lines
    assert any(line.startswith("not events: 1 x item_id is missing") for line in lines)
    found = run_json(capsys, "import", "jsonl", segment, "--preset", "segment", "--dry-run")
    assert found["events"] == {"purchase": 2, "click": 1, "browse": 1}
    assert found["skipped_types"] == {"\x1b[31mEmail Opened": 1}
    assert sum(found["not_events"].values()) == 2
    assert [path.name for path in tmp_path.iterdir()] == [segment.name]


def test_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns by name in any order and delimiter, quotes, a mark of the byte order, gzip; bad rows are counted."""
    rows = (
        "\ufeffevent;user;at;item;price\n"
        'view;"a;b";1700000000;"x\n""y""";\nbuy;c;1700000001;z;2.5\nbuy;c\nview;;1;1;1\n'
    )
    path = tmp_path / "own.csv.gz"
    path.write_bytes(gzip.compress(rows.encode() + b"view;\xff;1700000002;z;1\n"))
    shop = tmp_path / "shop.toml"
    shop.write_text(
        '[[topic]]\nname = "own"\ntime = "s"\n'
        'fields = { user_id = "user", ts = "at", item_id = "item", price = "price" }\n'
        'type = { field = "event", values = { view = "click", buy = "purchase" } }\n'
    )
    out = tmp_path / "a.stream"
    stats = run_json(capsys, "import", "csv", path, "--shop", shop, "--out", out)
    assert (stats["topics"], stats["bad_lines"]) == ({"clicks": 1, "browses": 0, "purchases": 1}, 3)
    assert sorted(json.loads(record.value or b"")["item_id"] for record in RecordingReader(out)) == [
        'x\n"y"',
        "z",
    ]
    assert stats["examples"] == [
        "own.csv.gz, line 5: the line has 2 columns, the first one has 5",
        "own.csv.gz, line 6: user_id is missing (from user), expected text or an integer, 1 to 128 bytes",
        "own.csv.gz, line 7: the line is not text in UTF-8",
    ]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("jsonl", "F", "--out", "O"), "needs either --shop FILE or --preset"),
        (
            ("jsonl", "F", "--preset", "segment", "--shop", "F", "--out", "O"),
            "needs either --shop FILE or --preset",
        ),
        (("jsonl", "F", "--preset", "segment"), "give --out S.stream, or --dry-run"),
        (("jsonl", "F", "--preset", "segmnt", "--out", "O"), "did you mean segment?"),
        (("jsonl", "--preset", "segment", "--out", "O"), "needs files"),
        (("taobao", "F", "--preset", "segment", "--out", "O"), "leave --shop and --preset out"),
        (("taobao", "F", "--dry-run"), "--dry-run is for files"),
        (("json", "F", "--out", "O"), "take one of jsonl, csv, parquet, taobao"),
        (("csv", "F", "--preset", "rees46", "--out", "O"), "none of 4 lines is of format csv"),
        (("jsonl", "F", "--preset", "retailrocket", "--out", "O"), "none of 5 lines is of format jsonl"),
        (("csv", "E", "--preset", "rees46", "--out", "O"), "begins with the names of its columns"),
        (("csv", "T", "--preset", "rees46", "--out", "O"), "several columns of the name a"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    words: tuple[str, ...], why: str, segment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is written."""
    (tmp_path / "empty.csv").write_text("\n")
    (tmp_path / "twice.csv").write_text("a,b,a\n1,2,3\n")
    places = {
        "F": segment,
        "O": tmp_path / "o.stream",
        "E": tmp_path / "empty.csv",
        "T": tmp_path / "twice.csv",
    }
    assert run("import", *(places.get(word, word) for word in words)) != 0
    said = capsys.readouterr()
    assert why in " ".join((said.err + said.out).replace("│", " ").split())
    assert not (tmp_path / "o.stream").exists()


def test_only_types_that_are_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file without a single event is a mistake, most likely of the shop file: its types are named."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"event": "Ping", "userId": "u", "timestamp": "2026-03-01T12:00:00Z"}\n')
    assert run("import", "jsonl", path, "--preset", "segment", "--out", tmp_path / "a.stream") == 1
    assert "types that are not used: 1 x Ping" in capsys.readouterr().err


def test_parquet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Native types of columns: times with nanoseconds and a zone, decimals, integers, arrays of order lines."""
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    table = pa.table({
        "at": pa.array([noon, noon + timedelta(milliseconds=1500), None], pa.timestamp("ns", "Europe/Berlin")),
        "user": pa.array([17, 18, 19], pa.int64()),
        "what": ["buy", "view", "view"],
        "price": pa.array([Decimal("2.50"), None, None], pa.decimal128(9, 2)),
        "lines": [[{"sku": "a"}, {"sku": "b"}], None, [{"sku": "c"}]],
        "day": pa.array([noon.date()] * 3),
    })  # fmt: skip
    path, shop, out = tmp_path / "own.parquet", tmp_path / "shop.toml", tmp_path / "a.stream"
    parquet.write_table(table, path)
    shop.write_text(
        '[[topic]]\nname = "own"\ntime = "iso8601"\n'
        'fields = { user_id = "user", ts = "at", item_id = "lines[].sku", price = "price", list_id = "day" }\n'
        'type = { field = "what", values = { view = "browse", buy = "purchase" } }\n'
    )
    stats = run_json(capsys, "import", "parquet", path, "--shop", shop, "--out", out)
    assert (stats["records"], stats["bad_lines"]) == (3, 1)
    assert stats["examples"] == [
        "own.parquet, line 3: ts is missing (from at), expected Unix milliseconds as an integer"
    ]
    events = [json.loads(record.value or b"") for record in RecordingReader(out)]
    assert [(e["user_id"], e["ts"], e.get("item_id"), e.get("price")) for e in events] == [
        ("17", 1_772_366_400_000, "a", 2.5), ("17", 1_772_366_400_000, "b", 2.5),
        ("18", 1_772_366_401_500, None, None),
    ]  # fmt: skip
    assert {e["list_id"] for e in events} == {"2026-03-01"}
    path.write_bytes(b"no Parquet")
    assert run("import", "parquet", path, "--shop", shop, "--out", out) == 1
    assert "as Parquet" in capsys.readouterr().err


def test_lone_halves_of_characters_are_no_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON may hold half a character as an escape; it has no form in UTF-8."""
    path = tmp_path / "a.jsonl"
    good = {"userId": "u", "timestamp": "2026-03-01T12:00:00Z", "type": "page"}
    path.write_text(json.dumps({**good, "userId": "\ud800"}) + "\n" + json.dumps(good) + "\n")
    stats = run_json(capsys, "import", "jsonl", path, "--preset", "segment", "--out", tmp_path / "a.stream")
    assert (stats["records"], stats["bad_lines"]) == (1, 1)
