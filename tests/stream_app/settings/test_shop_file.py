"""Shop files: presets, what a file may change of one, and all mistakes at once."""

from pathlib import Path

import pytest

from stream_app.errors import SettingsError
from stream_app.settings.shop_file import load_preset, load_shop_file, presets, read_shop_file

GOOD = """
[[topic]]
name = "web"
type = "click"
fields = { user_id = "user", ts = "at", item_id = "item" }
"""


def mistakes(text: str) -> list[str]:
    """The sentences of the error."""
    with pytest.raises(SettingsError) as caught:
        read_shop_file(text, "shop.toml")
    return list(caught.value.problems)


def test_all_presets_can_be_read() -> None:
    """Each is one topic of its own name's kind that finds users, times, items and the three event types."""
    assert presets() == ["ga4-bigquery", "rees46", "retailrocket", "segment"]
    for name in presets():
        mapping = load_preset(name).topic(None)
        assert {"user_id", "ts", "item_id"} <= mapping.fields.keys()
        assert {"click", "browse", "purchase"} <= set(mapping.types.names.values())


def test_a_file_changes_a_preset_where_it_says_so() -> None:
    """Fields and types are replaced one by one; everything else stays."""
    text = """
    [[topic]]
    name = "web"
    preset = "segment"
    zone = "Europe/Berlin"
    fields = { user_id = "context.traits.customer" }
    type = { values = { "Cart Viewed" = "browse", "Wishlist" = "browse" }, others = "dead_letter" }
    """
    changed, preset = read_shop_file(text, "x").topic("web"), load_preset("segment").topic(None)
    assert changed.fields["user_id"][0].text == "context.traits.customer"
    assert changed.fields["price"] == preset.fields["price"]
    assert changed.types.names == {**preset.types.names, "Cart Viewed": "browse", "Wishlist": "browse"}
    assert (changed.types.others, changed.types.paths) == ("dead_letter", preset.types.paths)
    assert str(changed.zone) == "Europe/Berlin"


def test_all_mistakes_are_told_at_once() -> None:
    """Each with its topic and what would be right."""
    found = mistakes(
        """
        [[topic]]
        tme = "s"
        time = "hours"
        zone = "Mars"
        fields = { user = "a", ts = "a..b", item_id = ["x[].a", "y[].b"] }
        type = { feld = "x", values = { a = "clik" }, others = "no" }
        [[topic]]
        name = "web"
        type = "clicks"
        fields = { user_id = "users[].id", ts = [] }
        [[topic]]
        name = "web"
        preset = "segmnt"
        [other]
        """
    )
    wanted = [
        "other is unknown",
        "topic 1 needs a name",
        "tme is unknown (did you mean time?)",
        "fields.user is unknown (did you mean user_id?)",
        "fields.ts: the path a..b needs the name of a field at column 3",
        "fields.user_id is missing",
        "type.feld is unknown (did you mean field?)",
        "type.field is missing",
        'type.values.a is "clik", expected one of click, browse, purchase',
        'type.others is "no"',
        'time is "hours", expected one of ms, s, us, iso8601',
        'zone is "Mars"',
        "x[].a and y[].b lead to different arrays",
        'type is "clicks", expected one of click, browse, purchase',
        "fields.ts is [], expected a path or a list of paths",
        "user_id cannot stand in the array of events",
        "there is no preset 'segmnt' (did you mean segment?)",
        "two topics have the name web",
    ]
    for sentence in wanted:
        assert any(sentence in each for each in found), sentence
    assert all(each.startswith("shop.toml: ") for each in found)


def test_files_that_are_no_shop_file(tmp_path: Path) -> None:
    """A file that is not there, not TOML, not UTF-8 or empty gives one sentence."""
    assert "not valid TOML" in mistakes("[[topic")[0]
    assert "nested too deeply" in mistakes(f"x = {'[' * 3000}{']' * 3000}")[0]
    assert "there is no preset 5" in mistakes('[[topic]]\nname = "a"\npreset = 5\n')[0]
    assert mistakes("") == ["shop.toml: it needs at least one [[topic]]"]
    assert "at least one" in mistakes("topic = 3")[0]
    with pytest.raises(SettingsError, match="cannot be read"):
        load_shop_file(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe4")
    with pytest.raises(SettingsError, match="not text in UTF-8"):
        load_shop_file(tmp_path / "latin.toml")


def test_the_topic_is_chosen_by_name_where_there_are_several() -> None:
    """One topic needs no name; of several it must be one that the file has."""
    assert read_shop_file(GOOD, "x").topic(None).topic == "web"
    several = read_shop_file(GOOD + GOOD.replace("web", "app"), "x")
    assert several.topic("app").topic == "app"
    for name in (None, "other"):
        with pytest.raises(SettingsError, match="take one of web, app"):
            several.topic(name)
