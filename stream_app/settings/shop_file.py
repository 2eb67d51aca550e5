"""Reads a shop file: how the shop's own topics and files are mapped to events (docs/shop_file.md)."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path as FilePath
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from stream_app.contract import paths
from stream_app.contract.mapping import MAPPED_FIELDS, REQUIRED_FIELDS, TIME_FORMATS, EventTypes, TopicMapping
from stream_app.contract.records import EVENT_TYPES
from stream_app.errors import SettingsError

_PRESETS = resources.files("stream_app.settings") / "presets"
_TOPIC_KEYS = ("name", "fields", "type", "time", "zone", "preset")
_TYPE_KEYS = ("field", "values", "others")
_OTHERS = ("skip", "dead_letter")


class ShopFile(NamedTuple):
    """The topics of a shop file, by name."""

    topics: Mapping[str, TopicMapping]

    def topic(self, name: str | None) -> TopicMapping:
        """Return a topic, or the only one if no name is given. Raises SettingsError if it is not clear which."""
        if name is None and len(self.topics) == 1:
            return next(iter(self.topics.values()))
        if name is not None and name in self.topics:
            return self.topics[name]
        known = ", ".join(self.topics)
        why = f"has no topic {name}" if name is not None else "has several topics"
        raise SettingsError([f"the shop file {why}: take one of {known} with --topic"])


def presets() -> list[str]:
    """Return the names of all presets."""
    return sorted(
        each.name.removesuffix(".toml") for each in _PRESETS.iterdir() if each.name.endswith(".toml")
    )


def load_shop_file(path: FilePath) -> ShopFile:
    """Return the topics of a shop file. Raises SettingsError with all mistakes at once."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            [f"{path} cannot be read ({error.strerror}): give an existing shop file"]
        ) from error
    except ValueError as error:
        raise SettingsError([f"{path} is not text in UTF-8"]) from error
    return read_shop_file(text, str(path))


def load_preset(name: str) -> ShopFile:
    """Return the topic of a preset. Raises SettingsError for an unknown name."""
    problems: list[str] = []
    table = _preset(name, problems)
    if problems:
        raise SettingsError(problems)
    return read_shop_file(table, f"the preset {name}")


def read_shop_file(text: str, source: str) -> ShopFile:
    """As `load_shop_file`, of the text of a file; `source` stands before each mistake."""
    problems: list[str] = []
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{source} is not valid TOML: {error}"]) from error
    except RecursionError as error:
        raise SettingsError([f"{source} has values that are nested too deeply"]) from error
    _unknown(table, ("topic",), "", problems)
    listed = table.get("topic")
    topics: dict[str, TopicMapping] = {}
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed) or not listed:
        problems.append("it needs at least one [[topic]]")
    else:
        for number, each in enumerate(listed, 1):
            mapping = _topic(each, number, problems)
            if mapping.topic in topics:
                problems.append(f"two topics have the name {mapping.topic}")
            topics[mapping.topic] = mapping
    if problems:
        raise SettingsError([f"{source}: {problem}" for problem in problems])
    return ShopFile(topics)


def _preset(name: Any, problems: list[str]) -> str:
    known = presets()
    if name in known:
        return (_PRESETS / f"{name}.toml").read_text(encoding="utf-8")
    problems.append(f"there is no preset {name!r}{_meant(name, known)}: take one of {', '.join(known)}")
    return ""


def _topic(table: dict[str, Any], number: int, problems: list[str]) -> TopicMapping:
    name = table.get("name")
    if not isinstance(name, str) or not name:
        problems.append(f"topic {number} needs a name")
        name = f"number {number}"
    where = f"topic {name}: "
    found: list[str] = []
    if "preset" in table:
        table = _with_preset(table, found)
    _unknown(table, _TOPIC_KEYS, "", found)
    fields = _fields(table.get("fields"), found)
    types = _types(table.get("type"), found)
    time = table.get("time", "ms")
    if time not in TIME_FORMATS:
        found.append(f"time is {_shown(time)}, expected one of {', '.join(TIME_FORMATS)}")
    zone = _zone(table.get("zone"), found)
    each_path = [path for group in (*fields.values(), types.paths) for path in group]
    arrays = list(dict.fromkeys(path.lines for path in each_path if path.lines is not None))
    if len(arrays) > 1:
        shown = " and ".join(path.text for path in each_path if path.lines is not None)
        found.append(f"{shown} lead to different arrays, but only one array can hold the events of a record")
    found.extend(
        f"{field} cannot stand in the array of events: all events of a record have the same"
        for field in REQUIRED_FIELDS
        if any(path.lines is not None for path in fields.get(field, ()))
    )
    problems.extend(where + problem for problem in found)
    lines = arrays[0] if arrays else None
    return TopicMapping(name, fields, types, time if time in TIME_FORMATS else "ms", zone, lines)


def _with_preset(table: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """The table of a preset with what the shop file says in its place; fields and types are taken one by one."""
    name = table["preset"]
    text = _preset(name, problems)
    if not text:
        return {key: value for key, value in table.items() if key != "preset"}
    (base,) = tomllib.loads(text)["topic"]
    merged = {**base, **{key: value for key, value in table.items() if key != "preset"}}
    for part in ("fields", "type"):
        ours, theirs = table.get(part), base.get(part)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            merged[part] = {**theirs, **ours}
            if isinstance(ours.get("values"), dict):
                merged[part]["values"] = {**theirs.get("values", {}), **ours["values"]}
    return merged


def _fields(table: Any, problems: list[str]) -> dict[str, tuple[paths.Path, ...]]:
    if not isinstance(table, dict):
        problems.append("it needs a table [topic.fields] with at least user_id and ts")
        return {}
    _unknown(table, MAPPED_FIELDS, "fields.", problems)
    found = {}
    for name, value in table.items():
        if name in MAPPED_FIELDS:
            found[name] = _paths(value, f"fields.{name}", problems)
    problems.extend(f"fields.{name} is missing" for name in REQUIRED_FIELDS if name not in table)
    return found


def _paths(value: Any, name: str, problems: list[str]) -> tuple[paths.Path, ...]:
    """One path or several; the first that is present in a record counts."""
    listed = value if isinstance(value, list) else [value]
    if not listed or not all(isinstance(each, str) for each in listed):
        problems.append(f"{name} is {_shown(value)}, expected a path or a list of paths")
        return ()
    found = []
    for text in listed:
        try:
            found.append(paths.parse(text))
        except ValueError as error:
            problems.append(f"{name}: {error}")
    return tuple(found)


def _types(value: Any, problems: list[str]) -> EventTypes:
    if isinstance(value, str):
        _check_type(value, "type", problems)
        return EventTypes((), {}, always=value)
    if not isinstance(value, dict):
        problems.append(
            f'it needs `type = "click"` (or {" or ".join(EVENT_TYPES[1:])}) or a table [topic.type]'
        )
        return EventTypes((), {})
    _unknown(value, _TYPE_KEYS, "type.", problems)
    found: tuple[paths.Path, ...] = ()
    if "field" in value:
        found = _paths(value["field"], "type.field", problems)
    else:
        problems.append("type.field is missing: the path to the shop's own name of the type")
    names, others = value.get("values"), value.get("others", "skip")
    if not isinstance(names, dict) or not names:
        problems.append("type.values is missing: a table from the shop's own names to event types")
        names = {}
    for name, event_type in names.items():
        if event_type != "":
            _check_type(event_type, f"type.values.{name}", problems)
    if others not in _OTHERS:
        problems.append(f"type.others is {_shown(others)}, expected one of {', '.join(_OTHERS)}")
        others = "skip"
    return EventTypes(found, names, others)


def _check_type(value: Any, name: str, problems: list[str]) -> None:
    if value not in EVENT_TYPES:
        problems.append(f"{name} is {_shown(value)}, expected one of {', '.join(EVENT_TYPES)}")


def _zone(value: Any, problems: list[str]) -> ZoneInfo | None:
    if value is None:
        return None
    try:
        return ZoneInfo(value)
    except (ValueError, KeyError, TypeError, OSError):
        problems.append(f'zone is {_shown(value)}, expected a name such as "UTC" or "Europe/Berlin"')
        return None


def _unknown(table: Mapping[str, Any], known: Iterable[str], prefix: str, problems: list[str]) -> None:
    known = list(known)
    for key in table:
        if key not in known:
            hint = _meant(key, known) or f": known are {', '.join(known)}"
            problems.append(f"{prefix}{key} is unknown{hint}")


def _meant(word: Any, known: list[str]) -> str:
    close = difflib.get_close_matches(str(word), known, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _shown(value: Any) -> str:
    return f'"{value[:60]}"' if isinstance(value, str) else str(value)[:60]
