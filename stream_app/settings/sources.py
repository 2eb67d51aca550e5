"""Where settings come from (a TOML file, the environment) and how a text becomes a checked value."""

import difflib
import hmac
import math
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec
from msgspec import Meta

ENV_PREFIX = "FORECLICK_"
#: Variables with our prefix that are not settings of the worker.
OTHER_VARIABLES = ("FORECLICK_CONFIG", "FORECLICK_CACHE_DIR", "FORECLICK_MAVEN_URL")
TEST_PREFIX = "FORECLICK_TEST_"

_SWITCH = {"yes": True, "on": True, "no": False, "off": False}

#: What a source yields: the field's name, then where the value came from and the value.
Found = tuple[str, tuple[str, Any]]


class Secret:
    """A text that only `reveal` returns: no print, log, error or encoder shows it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself; only for the code that logs in with it."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)


def doc(
    text: str,
    unit: str = "",
    *,
    takes: str = "",
    check: Callable[[Any], bool] | None = None,
    hints: Mapping[str, str] | None = None,
    **limits: Any,
) -> Meta:
    """Return a setting's description, unit and limits; `takes` describes the value if limits cannot."""
    return Meta(
        description=text, extra={"unit": unit, "takes": takes, "check": check, "hints": hints}, **limits
    )


class Field(NamedTuple):
    """One setting as a reference page or a command line shows it."""

    name: str  #: as an option and within Python, `rules_` before those of the rules
    path: tuple[str, ...]  #: keys within the TOML file
    base: Any  #: the plain type: int, float, bool, str, Path, Secret, tuple[str, ...] or a Literal
    annotation: Any  #: the type with its limits
    default: Any
    meta: Meta

    @property
    def env(self) -> str:
        """The environment variable."""
        return ENV_PREFIX + self.name.upper()

    @property
    def option(self) -> str:
        """The option of the command line; those of `foreclick train` need no `train` before their names."""
        name = self.path[-1] if self.path[0] == "train" else self.name
        return "--" + name.replace("_", "-")

    @property
    def doc(self) -> str:
        """What it sets, in one line."""
        return self.meta.description or ""

    @property
    def unit(self) -> str:
        """Of the value, empty where it has none."""
        return (self.meta.extra or {}).get("unit", "")

    @property
    def secret(self) -> bool:
        """Whether it comes from a variable or a file of its own only: no option, no key of the TOML file."""
        return self.base is Secret


def make_field(name: str, path: tuple[str, ...], annotation: Any, default: Any) -> Field:
    """The description of a struct's field declared as `Annotated[type, Meta(...)]`."""
    base, meta = get_args(annotation)[:2]
    if get_origin(base) in (Union, UnionType):
        base = next(each for each in get_args(base) if each is not type(None))
        annotation = Annotated[base, meta]  # msgspec takes limits of a number only
    return Field(name, path, base, annotation, default, meta)


def from_file(config: Path, known: Mapping[str, Field], problems: list[str]) -> Iterator[Found]:
    """Yield the values of a TOML file; mistakes of the file itself are added to `problems`."""
    try:
        table = tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"file {config} cannot be read ({error.strerror}): give an existing TOML file")
        return
    except ValueError as error:  # bad TOML or bad UTF-8
        problems.append(f"file {config} is not valid TOML: {error}")
        return
    names = {field.path: name for name, field in known.items()}
    groups = {path[0] for path in names if len(path) > 1}
    for path, value in _leaves(table, groups):
        key = ".".join(path)
        if path in names and known[names[path]].secret:
            field = known[names[path]]
            problems.append(
                f"file {config}, key {key}, would contain a secret: set the variable {field.env}, "
                f"or name a file that contains it with {key}_file"
            )
        elif path in names:
            yield names[path], (f"file {config}, key {key},", value)
        else:
            problems.append(f"file {config} has an unknown key {key}{meant(key, map('.'.join, names))}")


def _leaves(table: Mapping[str, Any], groups: set[str]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in table.items():
        if key in groups and isinstance(value, dict):
            yield from (((key, inner), each) for inner, each in value.items())
        else:
            yield (key,), value


def from_env(env: Mapping[str, str], known: Mapping[str, Field], problems: list[str]) -> Iterator[Found]:
    """Yield the values of the environment; unknown variables with our prefix are added to `problems`."""
    names = {field.env: name for name, field in known.items()}
    for variable, text in env.items():
        if variable in names:
            yield names[variable], (f"variable {variable}", text)
        elif variable.startswith(ENV_PREFIX) and not (
            variable in OTHER_VARIABLES or variable.startswith(TEST_PREFIX)
        ):
            problems.append(f"variable {variable} is unknown{meant(variable, (*names, *OTHER_VARIABLES))}")


def from_options(
    options: Mapping[str, Any], known: Mapping[str, Field], problems: list[str]
) -> Iterator[Found]:
    """Yield the options that were given (not None)."""
    for name, value in options.items():
        option = known[name].option if name in known else "--" + name.replace("_", "-")
        if name not in known:
            problems.append(f"option {option} is unknown{meant(name, known)}")
        elif known[name].secret and value is not None:
            problems.append(
                f"a secret cannot be an option: set the variable {known[name].env}, or {option}-file"
            )
        elif value is not None:
            yield name, (f"option {option}", value)


def meant(name: str, names: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest of `names`, or where to find them."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return (
        f": did you mean {close[0]}?" if close else ": see `foreclick worker --help-all` for the known names"
    )


def convert(field: Field, value: Any) -> Any:
    """Return `value`, or its text, as the field's type. Raises ValueError with what is wrong and what is expected."""
    if field.secret:
        return _secret(field, value)
    plain = value.strip() if isinstance(value, str) else value
    if plain == "" and field.default is None:  # Docker Compose sets an unset variable to ""
        return None
    if field.base is Path:
        return _path(field, plain)
    if field.base == tuple[str, ...] and isinstance(plain, str):
        plain = [each.strip() for each in plain.split(",") if each.strip()]
    elif field.base is bool and isinstance(plain, str):
        plain = _SWITCH.get(plain.lower(), plain)
    try:
        # Text is read leniently ("17" is a number); a value that has a type must have the right one.
        converted = msgspec.convert(plain, field.annotation, strict=not isinstance(plain, str))
    except msgspec.ValidationError:
        raise ValueError(_wrong(field, value)) from None
    check: Callable[[Any], bool] | None = (field.meta.extra or {}).get("check")
    if (check and not check(converted)) or (isinstance(converted, float) and not math.isfinite(converted)):
        raise ValueError(_wrong(field, value))
    return converted


def _secret(field: Field, value: Any) -> Secret | None:
    """Return the value unchanged, with its spaces; None for an empty one."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("is not a text (not shown, because it is a secret)")
    return Secret(value) if value else None


def read_secrets(known: Mapping[str, Field], values: dict[str, Any], problems: list[str]) -> None:
    """Read the secrets whose files (`NAME_file`) are in `values`; a line break at the end is removed."""
    for name, field in known.items():
        file: Path | None = values.get(f"{name}_file") if field.secret else None
        if file is None:
            continue
        if values.get(name) is not None:
            problems.append(f"{field.env} and {field.env}_FILE are both given: remove one of them")
            continue
        try:
            values[name] = _secret(
                field, file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
            )
        except OSError as error:
            problems.append(f"{field.env}_FILE: {file} cannot be read ({error.strerror})")
        except ValueError:  # no UTF-8, or NUL
            problems.append(f"{field.env}_FILE: {file} does not contain text")
        else:
            if values[name] is None:
                problems.append(f"{field.env}_FILE: {file} is empty")


def moment_ms(text: str) -> int | None:
    """An ISO 8601 time as Unix ms, UTC where it names no zone; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def _path(field: Field, value: Any) -> Path:
    """A path, `~` expanded."""
    if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
        raise ValueError(_wrong(field, value))
    try:
        return Path(value).expanduser()
    except RuntimeError:  # `~name` of a user that this machine does not know
        raise ValueError(_wrong(field, value)) from None


def _wrong(field: Field, value: Any) -> str:
    text = str(value)
    hints: Mapping[str, str] = (field.meta.extra or {}).get("hints") or {}
    if text in hints:
        return hints[text]
    shown = repr(value) if len(text) <= 80 else repr(text[:77] + "...")
    if "@" in text:  # user:password@host
        shown = "a value with an @ (not shown, because it may contain a password)"
    return f"is {shown}, expected {expected(field)}"


def expected(field: Field) -> str:
    """What the field takes, in words: "a whole number, at least 1 (ms)"."""
    meta = field.meta
    takes: str = (meta.extra or {}).get("takes", "")
    if takes:
        return takes
    if field.secret:
        return "a secret, in this variable or in a file"
    if get_origin(field.base) is Literal:
        return " or ".join(get_args(field.base))
    if field.base is Path:
        return "a path"
    if field.base is bool:
        return "true or false"
    kind = "a whole number" if field.base is int else "a number"
    limits = [(meta.ge, "at least"), (meta.gt, "above"), (meta.le, "at most")]
    unit = f" ({field.unit})" if field.unit else ""
    return ", ".join((kind, *(f"{word} {limit:,}" for limit, word in limits if limit is not None))) + unit
