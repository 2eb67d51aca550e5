"""Settings as options of a command, made from their declarations in `stream_app.settings`."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from stream_app.settings import Settings, fields, load_settings
from stream_app.settings.sources import Field, expected


def with_settings(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command `--config` and the settings `names` (all of a worker where none is named) as options.

    The decorated function takes `settings: Settings` by name, next to its own typer parameters; it is called
    with the settings of all sources, or SettingsError is raised with every mistake.
    """
    # No secret: whoever may list the processes of a machine reads their options.
    chosen = [
        each
        for each in fields()
        if not each.secret and (each.name in names if names else each.path[0] != "train")
    ]
    unknown = set(names) - {field.name for field in chosen}
    if unknown:
        raise ValueError(f"no such settings: {', '.join(sorted(unknown))}")

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(function, eval_str=True).parameters
        kept = [each for name, each in own.items() if name != "settings"]
        added = [_config_option()]
        added += [_option(field, hidden=not names and field.name not in _BASIC) for field in chosen]
        if not names:
            added.append(_help_all_option())

        @functools.wraps(function)
        def command(**given: Any) -> Any:
            config = given.pop("config")
            given.pop("help_all", None)
            options = {field.name: given.pop(field.name) for field in chosen}
            settings: Settings = load_settings(config, options=options)
            return function(settings=settings, **given)

        # typer reads the parameters from here and not from the function that it calls
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*kept, *added)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return decorate


_PANELS = {"kafka": "Connection to Kafka", "rules": "Limits of the flags", "train": "Training"}
#: What `--help` shows of a command that takes all settings; `--help-all` shows the others too.
_BASIC = frozenset(
    (
        "brokers",
        "group",
        "topic_prefix",
        "web",
        "model",
        "device",
        "guarantee",
        "k",
        "log_level",
        "log_format",
    )
)


def _show_all(context: typer.Context, wanted: bool) -> None:
    if not wanted:
        return
    for parameter in context.command.params:
        parameter.hidden = False  # type: ignore[attr-defined]
    typer.echo(context.get_help())
    raise typer.Exit


def _help_all_option() -> inspect.Parameter:
    option = typer.Option(
        "--help-all",
        callback=_show_all,
        is_eager=True,
        help="Show every setting and exit.",
        show_default=False,
    )
    return _parameter("help_all", Annotated[bool, option], default=False)


def _config_option() -> inspect.Parameter:
    option = typer.Option(
        "--config", metavar="FILE", help="TOML file of settings. \\[FORECLICK_CONFIG]", show_default=False
    )
    return _parameter("config", Annotated[Path | None, option])


def _option(field: Field, *, hidden: bool) -> inspect.Parameter:
    # Each is a text here: load_settings reads it, so that all mistakes of all sources come at once.
    text = f"{field.doc}: {expected(field)}" if field.base is not Path else field.doc
    option = typer.Option(
        field.option,
        metavar=_metavar(field),
        help=f"{text}. \\[{field.env}, default: {_shown(field.default)}]",
        show_default=False,
        hidden=hidden,
        rich_help_panel=_PANELS.get(field.path[0], "Settings"),
    )
    return _parameter(field.name, Annotated[str | None, option])


def _parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _metavar(field: Field) -> str:
    if field.unit:
        return field.unit.upper()
    return {int: "N", float: "X", bool: "BOOL", Path: "PATH"}.get(field.base, "TEXT")


def _shown(default: Any) -> str:
    if default is None or default == "":
        return "none"
    return ",".join(default) if isinstance(default, tuple) else str(default).lower()
