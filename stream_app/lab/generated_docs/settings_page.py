"""The reference page of the settings, written from their declarations.

`python -m stream_app.lab.generated_docs.settings_page > docs/settings.md` writes it; a test fails when it is
out of date.
"""

import sys
from pathlib import Path

from stream_app.settings import fields
from stream_app.settings.sources import Field, expected

_HEAD = """\
# Settings

Settings come from four sources, and a later source wins: defaults, a TOML file (`--config` or `FORECLICK_CONFIG`),
environment variables, options on the command line. At the start, all mistakes are listed at once, including unknown
keys and unknown `FORECLICK_*` variables.

An option has the name of its key, with dashes: `max_delay_ms` is `--max-delay-ms`. The keys of `train` are only for
`foreclick train`, and their options have no `train` in their names: `train.learning_rate` is `--learning-rate`.
Secrets have no key and no option. They come from their variable, or from the file that the next key names, which is
how Docker and Kubernetes provide secrets.

This page is generated from the code: `python -m stream_app.lab.generated_docs.settings_page > docs/settings.md`.

| key in the file | variable | default | expected | what it sets |
|---|---|---|---|---|
"""


def settings_page() -> str:
    """Return the page as Markdown: one row per setting, in the order of their declarations."""
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
    # Secrets do not belong in a file of settings.
    key = "none" if field.secret else f"`{'.'.join(field.path)}`"
    return key, f"`{field.env}`", shown, expected(field), field.doc


if __name__ == "__main__":
    sys.stdout.write(settings_page())
