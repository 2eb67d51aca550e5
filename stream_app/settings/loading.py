"""Reads the settings from their sources: defaults < TOML file < environment < options."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_app.errors import SettingsError
from stream_app.settings.checks import clashes
from stream_app.settings.declarations import GROUPS, Settings, fields
from stream_app.settings.sources import convert, from_env, from_file, from_options, read_secrets


def load_settings(
    config: Path | None = None,
    env: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Settings:
    """Return the settings from defaults, TOML file, environment and options; later sources win.

    If `env` is None, the environment of the process is used; without `config`, the file that `FORECLICK_CONFIG`
    names. `options` maps the name of a field to a value or its text, or to None if it was not given. Raises
    SettingsError with all mistakes at once.
    """
    env = os.environ if env is None else env
    known = {field.name: field for field in fields()}
    problems: list[str] = []
    if config is None and env.get("FORECLICK_CONFIG"):
        config = Path(env["FORECLICK_CONFIG"])
    chosen = dict(from_file(config, known, problems)) if config is not None else {}
    chosen.update(from_env(env, known, problems))
    chosen.update(from_options(options or {}, known, problems))
    values: dict[str, Any] = {}
    for name, (source, value) in chosen.items():
        try:
            values[name] = convert(known[name], value)
        except ValueError as error:
            problems.append(f"{source} {error}")
    read_secrets(known, values, problems)
    if not problems:
        problems.extend(clashes({name: field.default for name, field in known.items()} | values))
    if problems:
        raise SettingsError(problems)
    found: dict[str, Any] = {}
    grouped: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for name, value in values.items():
        *group, key = known[name].path
        (grouped[group[0]] if group else found)[key] = value
    found |= {group: GROUPS[group](**members) for group, members in grouped.items()}
    return Settings(**found)
