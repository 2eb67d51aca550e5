"""`foreclick import jsonl|csv`, run as a person runs it: files of a shop's own become recordings."""

import gzip
import json
import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from stream_app.contract.records import Record
from stream_app.recordings.recording import RecordingReader
from tests.stream_app.command_line import run, run_json

SEGMENT: list[dict[str, Any]] = [
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
        (("csv", "T", "--preset", "rees46", "--out", "O"), "several columns of the name 'a'"),
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


CSV_SHOP = """
[[topic]]
name = "own"
time = "s"
fields = { user_id = "user", ts = "at", item_id = "item", category_id = "m.k", list_id = "n" }
type = "click"
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A shop file for the columns user, at and item."""
    path = tmp_path / "shop.toml"
    path.write_text(CSV_SHOP)
    return path


@pytest.mark.parametrize("rows", [100, 10_000])
@pytest.mark.parametrize("cell", ['"note', 'note",', '"a"b'])
def test_a_stray_quote_costs_its_own_line_only(
    rows: int, cell: str, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a quote that closes, the rest of the file would be one cell, and all its events would be lost."""
    lines = [f"u{n},{1_700_000_000 + n},i,fine\n" for n in range(rows)]
    lines[3] = f"u3,1700000003,i,{cell}\n"
    lines[5] = 'u5,1700000005,i,"two\nlines"\n'
    path = tmp_path / "a.csv"
    path.write_text("user,at,item,note\n" + "".join(lines))
    found = run_json(capsys, "import", "csv", path, "--shop", own, "--out", tmp_path / "a.stream")
    assert (found["records"], found["bad_lines"]) == (rows - 1, 1)
    assert found["examples"][0].startswith("a.csv, line 5: ")


def test_many_stray_quotes_end_soon(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here each line opens a quote, whether it begins inside of one or not."""
    monkeypatch.setattr("stream_app.recordings.importers.files._MOST_REREAD", 10_000)
    path = tmp_path / "a.csv"
    path.write_text("user,at\n" + 'x","\n' * 5000)
    assert run("import", "csv", path, "--shop", own, "--dry-run") == 1
    assert "too many quotes that do not close" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"user,at\ru,1\ru,2\r", "the first line of F is not CSV (new-line character"),
        (b"x" * 140_000 + b",at\nu,1\n", "the first line of F is not CSV (field larger"),
        (b'"user,at\nu,1\n', "the first line of F is not CSV (a quote does not close)"),
        ("user,at\nu,1\n".encode("utf-16"), "the first line of F is not text in UTF-8"),
        (b"\xff,\xff\n", "the first line of F is not text in UTF-8"),
        (b"\x1b[31m,\x1b[31m\n", "columns of the name '\\x1b[31m'"),
    ],
)
def test_first_lines_that_are_not_csv(
    content: bytes, why: str, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence for each."""
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert run("import", "csv", path, "--shop", own, "--dry-run") == 1
    assert why.replace(" F ", f" {path} ") in capsys.readouterr().err


def test_odd_values_of_parquet(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that Python cannot hold costs its row; ids may be decimals or text without a type; a map has fields."""
    path, out = tmp_path / "a.parquet", tmp_path / "a.stream"
    odd = {
        "user": pa.array([Decimal(2**64), Decimal(1), Decimal(2)], pa.decimal128(20, 0)),
        "at": pa.array(["1700000000"] * 3),
        "item": pa.array([b"\xc3\xa4", b"i", b"\xff"], pa.binary()),
        "m": pa.array([[("k", "c")], None, None], pa.map_(pa.string(), pa.string())),
        "unused": pa.array([0, 2**62, 0], pa.timestamp("ms")),
    }
    parquet.write_table(pa.table(odd), path)
    found = run_json(capsys, "import", "parquet", path, "--shop", own, "--out", out)
    (event,) = (json.loads(record.value or b"") for record in RecordingReader(out))
    assert (event["user_id"], event["item_id"], event["category_id"]) == (str(2**64), "ä", "c")
    assert [example.partition(": ")[2][:30] for example in found["examples"]] == [
        "the row has a time out of rang", "item_id is binary (from item),",
    ]  # fmt: skip
    twice = pa.table([odd["user"], odd["user"]], names=["user", "user"])
    parquet.write_table(twice, path)
    assert run("import", "parquet", path, "--shop", own, "--dry-run") == 1
    assert "several columns of the name 'user'" in capsys.readouterr().err


def test_as_many_bad_events_as_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An order with a good and a bad line is not a file without an event."""
    path = tmp_path / "a.jsonl"
    order = {**SEGMENT[0], "properties": {"products": [{"sku": "a"}, {}]}}
    path.write_text(json.dumps(order) + "\n")
    found = run_json(capsys, "import", "jsonl", path, "--preset", "segment", "--out", tmp_path / "a.stream")
    assert (found["records"], found["bad_lines"]) == (1, 1)


def test_names_of_types_take_little_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path to the wrong field leads to a new, perhaps long name in each record."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"event": f"{n}-{'x' * 1000}"}) + "\n" for n in range(1100)))
    found = run_json(capsys, "import", "jsonl", path, "--preset", "segment", "--dry-run")
    assert len(found["skipped_types"]) == 1001
    assert found["skipped_types"]["(other names)"] == 100
    assert max(map(len, found["skipped_types"])) == 100


def test_dry_run_shows_nothing_that_a_terminal_obeys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As text and as JSON, and a long value is cut in the table."""
    path = tmp_path / "a.jsonl"
    event = {**SEGMENT[3], "userId": "\x1b[31m\x9b1m\u202eu", "properties": {"query": "q" * 3000}}
    path.write_text(json.dumps(event) + "\n")
    assert run("import", "jsonl", path, "--preset", "segment", "--dry-run") == 0
    assert run("import", "jsonl", path, "--preset", "segment", "--dry-run", "--json") == 0
    said = capsys.readouterr().out
    assert not {"\x1b", "\x9b", "\u202e"} & set(said)
    assert max(map(len, said.splitlines()[:3])) < 150


def test_file_names_that_are_not_utf8(segment: Path, tmp_path: Path) -> None:
    """Names are bytes on Linux; recordings and reports hold text."""
    odd = tmp_path / os.fsdecode(b"\xff.jsonl")
    out = tmp_path / os.fsdecode(b"\xff.stream")
    segment.rename(odd)
    assert run("import", "jsonl", odd, "--preset", "segment", "--out", out, "--json") == 0
    assert run("inspect", out, "--html", tmp_path / "a.html", "--json") == 0
    assert "\ufffd.stream" in (tmp_path / "a.html").read_text()
