"""The reference page of the settings, written from their declarations.

`python -m stream_app.lab.pages.settings_page > docs/settings.md` writes it again; a test fails when that is due.
"""

import sys
from pathlib import Path

from stream_app.settings import fields
from stream_app.settings.sources import Field, expected

_HEAD = """\
# Settings

Later sources win: defaults, a TOML file (`--config` or `FORECLICK_CONFIG`), environment variables, options
of the command line. All mistakes are listed at once at the start, unknown keys and `FORECLICK_*` variables
among them. Options are named like the key, with dashes: `max_delay_ms` is `--max-delay-ms`. The keys of `train` are
for `foreclick train` only, where their options need no `train`: `train.learning_rate` is `--learning-rate`. Secrets
have no key and no option: they come from their variable, or from the file that the key below names, as Docker and
Kubernetes mount them. This page is generated from the code:
`python -m stream_app.lab.pages.settings_page > docs/settings.md`.

| key in the file | variable | default | expected | what it sets |
|---|---|---|---|---|
"""


def settings_page() -> str:
    """The whole page as Markdown: one row per setting, in the order of their declaration."""
    return _HEAD + "".join(f"| {' | '.join(_cells(field))} |\n" for field in fields())


def _cells(field: Field) -> tuple[str, ...]:
    default = field.default
    if isinstance(default, tuple):
        shown = f"`{','.join(default)}`" if default else "empty"
    elif isinstance(default, str | Path):
        shown = f"`{default}`" if str(default) else "empty"
    elif isinstance(default, bool) or default is None:
        shown = "none" if default is None else str(default).lower()
    else:
        shown = f"{default:,}"
    # A file of settings is no place for a secret.
    key = "none" if field.secret else f"`{'.'.join(field.path)}`"
    return key, f"`{field.env}`", shown, expected(field), field.doc


if __name__ == "__main__":
    sys.stdout.write(settings_page())
