"""The examples of docs/shop_file.md are read as the page says."""

import re
from pathlib import Path

import msgspec
import pytest

from stream_app.contract.mapping import MAPPED_FIELDS, TIME_FORMATS
from stream_app.decoding.mapped import MappedEvent, map_value
from stream_app.settings.shop_file import load_shop_file, presets
from tests.stream_app.command_line import run_json

PAGE = (Path(__file__).parents[2] / "docs" / "shop_file.md").read_text()
FILES = dict(re.findall(r"```toml\n# file: (\S+)\n(.*?)```", PAGE, re.S))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shop files of the page."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_all_examples_can_be_read(folder: Path) -> None:
    """There are three, and one changes a preset."""
    assert set(FILES) == {"csv.toml", "orders.toml", "segment.toml"}
    mapping = load_shop_file(folder / "segment.toml").topic(None)
    assert mapping.fields["user_id"][0].text == "context.traits.customer_number"
    assert (mapping.types.names["Coupon Applied"], mapping.types.names["Order Completed"]) == (
        "browse",
        "purchase",
    )


def test_the_order_of_the_page(folder: Path) -> None:
    """It gives the two purchases that the page names."""
    (line,) = re.findall(r"```json\n(.*?)\n```", PAGE, re.S)
    found = list(map_value(msgspec.json.decode(line), load_shop_file(folder / "orders.toml").topic(None)))
    assert [isinstance(each, MappedEvent) for each in found] == [True, True]
    events = [each.event for each in found if isinstance(each, MappedEvent)]
    assert [(e.event_id, e.item_id, e.price, e.quantity) for e in events] == [
        ("5c1d", "a", 2.5, 2),
        ("5c1d-1", "b", 4, 1),
    ]
    assert {e.user_id for e in events} == {"17"}


def test_the_csv_file_of_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its columns are those of the page; the newsletter is left out."""
    (header,) = re.findall(r"columns `(when;[a-z;]+)`", PAGE)
    rows = [
        "1700000000;v1;view;p1;games;9.99",
        "1700000060;v1;order;p1;games;9.99",
        "1700000070;v1;newsletter;;;",
    ]
    (folder / "events.csv").write_text("\n".join([header, *rows]))
    found = run_json(
        capsys, "import", "csv", folder / "events.csv", "--shop", folder / "csv.toml", "--dry-run"
    )
    assert found["events"] == {"click": 1, "purchase": 1}
    assert (found["skipped_types"], found["not_events"]) == ({"newsletter": 1}, {})


def test_the_page_names_everything() -> None:
    """Every preset, every field and every format of times."""
    for name in (*presets(), *MAPPED_FIELDS, *TIME_FORMATS):
        assert f"`{name}`" in PAGE, name
