"""README and docs agree with the code: their commands, options, variables, links, metrics and reasons exist."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path
from typing import Any, get_args

import kubernetes_validate
import pytest
import typer
import yaml
from prometheus_client.core import Metric

from stream_app.cli import COMMANDS
from stream_app.contract.events import DEAD_LETTER_REASONS
from stream_app.contract.outputs import FlagReasonCode
from stream_app.lab.commands.bench import BENCHMARKS
from stream_app.ops.metrics import Metrics
from stream_app.settings import fields

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXT = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}

#: Variables that code other than the settings reads: the choice of the file, the broker's cache, tests.
OTHER_VARIABLES = ("CONFIG", "CACHE_DIR", "MAVEN_URL", "TEST_DATA")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

#: Options that every command has.
_HELP = {"--help"}


def shell_lines(text: str) -> Iterator[list[str]]:
    """Return the words of each line of the shell blocks."""
    for language, block in _BLOCK.findall(text):
        if language == "sh":
            for line in block.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield words


def inline_lines(text: str) -> Iterator[list[str]]:
    """Return the words of each piece of code in the text."""
    for code in _INLINE.findall(_BLOCK.sub("", text)):
        yield code.split()


def foreclick_calls(text: str) -> Iterator[list[str]]:
    """Return the arguments of each `foreclick …` on a page, without variables before it."""
    for line in (*shell_lines(text), *inline_lines(text)):
        words = list(dropwhile(_ASSIGNMENT.fullmatch, line))
        if words and words[0].rpartition("/")[2] == "foreclick":
            yield words[1:]


def command_of(name: str) -> Any:
    """Return the click command with a name."""
    entry = COMMANDS[name]
    found = getattr(importlib.import_module(entry.module), entry.attribute)
    if not isinstance(found, typer.Typer):
        function, found = found, typer.Typer(add_completion=False)
        found.command(name)(function)
    return typer.main.get_command(found)


def complaint(call: list[str]) -> str | None:
    """Return the mistake in a call: an unknown command, an unknown option, or too few arguments; None if correct."""
    if not call:
        return None
    if call[0].startswith("-"):
        return None if call[0] in ("--version", "--help") else f"no option {call[0]}"
    if call[0] not in COMMANDS:
        return f"no command {call[0]}"
    command, rest = command_of(call[0]), call[1:]
    while rest and hasattr(command, "commands"):
        if rest[0] not in command.commands:
            return f"no command {call[0]} {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts) if name.startswith("-")}
    for word in rest:
        option = word.partition("=")[0]
        if option.startswith("-") and option not in known | _HELP:
            return f"no option {option}"
    return None


def required_missing(call: list[str]) -> list[str]:
    """Return the required options that a call in a shell block lacks."""
    command = command_of(call[0])
    for word in call[1:]:
        command = getattr(command, "commands", {}).get(word, command)
    return [
        p.name
        for p in command.params
        if p.required and p.opts[0].startswith("-") and not set(p.opts) & set(call)
    ]


def metric_families() -> list[Metric]:
    """Return all metrics of a worker except those that the client library adds for the process."""
    return [family for family in Metrics().registry.collect() if family.name.startswith("foreclick_")]


def exposed(family: Metric) -> str:
    """Return a metric's name as Prometheus shows it."""
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


@pytest.mark.parametrize("page", TEXT)
def test_every_command_and_option_exists(page: str) -> None:
    """Each `foreclick …` on a page is a command with these options."""
    wrong = {" ".join(call): complaint(call) for call in foreclick_calls(TEXT[page])}
    assert {call: why for call, why in wrong.items() if why} == {}


def test_the_check_of_commands_can_fail() -> None:
    """A command or an option that does not exist is noticed, in a block and in the text."""
    block = "```sh\nX=1 foreclick worker --modle m\nforeclick broker halt\n```\n"
    page = f"{block}or `foreclick trian S`, `foreclick run S --out d`"
    assert [complaint(call) for call in foreclick_calls(page)] == [
        "no option --modle",
        "no command broker halt",
        "no command trian",
        None,
    ]


@pytest.mark.parametrize("page", TEXT)
def test_commands_to_copy_are_complete(page: str) -> None:
    """A command in a shell block has every option that it must have."""
    calls = [words[1:] for words in shell_lines(TEXT[page]) if words[0] == "foreclick" and len(words) > 1]
    assert {" ".join(call): required_missing(call) for call in calls if required_missing(call)} == {}


def test_every_command_is_documented() -> None:
    """No command of `foreclick` is missing from README and docs."""
    named = {call[0] for text in TEXT.values() for call in foreclick_calls(text) if call}
    assert set(COMMANDS) - named == set()


@pytest.mark.parametrize("page", TEXT)
def test_every_variable_exists(page: str) -> None:
    """Some code reads each FORECLICK_ variable on a page."""
    known = {field.env for field in fields()} | {f"FORECLICK_{name}" for name in OTHER_VARIABLES}
    assert set(re.findall(r"FORECLICK_[A-Z0-9_]*[A-Z0-9]", TEXT[page])) - known == set()


@pytest.mark.parametrize("page", TEXT)
def test_every_link_leads_somewhere(page: str) -> None:
    """Each relative link of a page leads to a file of the repository."""
    folder = (ROOT / page).parent
    links = [link.partition("#")[0] for link in _LINK.findall(TEXT[page]) if "://" not in link]
    assert [link for link in links if link and not (folder / link).exists()] == []


@pytest.mark.parametrize("page", TEXT)
def test_every_script_and_module_exists(page: str) -> None:
    """Each `python FILE` and `python -m MODULE` of a page exists, and so do the targets of make."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in (*shell_lines(TEXT[page]), *inline_lines(TEXT[page])):
        if words[:2] == ["python", "-m"]:
            module = ROOT / words[2].replace(".", "/")
            assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), words
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), words
        elif words[0] == "make" and len(words) > 1:
            assert words[1] in targets, words


def test_the_pages_name_every_metric() -> None:
    """The page for operators has each metric under the name that Prometheus shows, and no other."""
    page = TEXT["docs/operations.md"]
    names = {exposed(family) for family in metric_families()}
    assert {name for name in names if f"`{name}`" not in page} == set()
    written = set(re.findall(r"foreclick_[a-z_]*[a-z]", page))
    assert {re.sub(r"_(sum|count|bucket)$", "", name) for name in written} - names == set()


@pytest.mark.parametrize("page", ["README.md", "docs/operations.md"])
def test_the_pages_name_every_reason(page: str) -> None:
    """README and the page for operators have each reason of dead letters and of flags."""
    assert [
        code for code in (*DEAD_LETTER_REASONS, *get_args(FlagReasonCode)) if f"`{code}`" not in TEXT[page]
    ] == []


def test_the_pages_name_every_benchmark() -> None:
    """Each benchmark of `foreclick bench` is named next to its figure."""
    commands = [f"`python bench/{' '.join(words)}`" for words in BENCHMARKS.values()]
    assert [command for command in commands if command not in TEXT["docs/figures.md"]] == []


def test_the_readme_is_short_and_links_every_page() -> None:
    """A newcomer reads at most 200 lines, and finds every page of the documentation from there."""
    assert len(TEXT["README.md"].splitlines()) <= 200
    linked = {link.partition("#")[0] for link in _LINK.findall(TEXT["README.md"])}
    assert [page for page in TEXT if page.startswith("docs/") and page not in linked] == []


@pytest.mark.parametrize("page", TEXT)
def test_every_anchor_exists(page: str) -> None:
    """The part of a link after `#` is a heading of the target page."""
    folder = (ROOT / page).parent
    for link in (each for each in _LINK.findall(TEXT[page]) if "#" in each and "://" not in each):
        name, _, anchor = link.partition("#")
        target = (folder / name).read_text() if name else TEXT[page]
        headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", target), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in anchors, link


@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "docs" / "examples").iterdir()))
def test_a_page_includes_every_example(example: str) -> None:
    """Each file of docs/examples is word for word in a block of a page that links to it."""
    code = (ROOT / "docs" / "examples" / example).read_text()
    pages = [
        text
        for page, text in TEXT.items()
        if page.startswith("docs/") and code in [block for _, block in _BLOCK.findall(text)]
    ]
    assert [text for text in pages if f"](examples/{example})" in text], f"no page includes {example}"


def test_the_cron_job_is_valid() -> None:
    """Every object of the example for Kubernetes passes the schemas, and mounts what the workers' settings name."""
    text = (ROOT / "docs" / "examples" / "retrain-cronjob.yaml").read_text()
    objects = list(yaml.safe_load_all(text))
    for each in objects:
        kubernetes_validate.validate(each, "1.37", strict=True)
    (job,) = [each for each in objects if each["kind"] == "CronJob"]
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        assert {m["name"] for m in container.get("volumeMounts", ())} <= {v["name"] for v in pod["volumes"]}


@pytest.mark.parametrize("page", [page for page in TEXT if page != "CHANGELOG.md"])
def test_every_path_exists(page: str) -> None:
    """Each path below a folder of the repository that a page names exists."""
    paths = re.findall(
        r"`((?:stream_app|model|bench|docker|docs|tests)/[\w./-]+)(?:::\w+)?`", _BLOCK.sub("", TEXT[page])
    )
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", TEXT)
def test_python_blocks_import_what_exists(page: str) -> None:
    """Each block of Python on a page compiles, and the names that it imports exist."""
    for language, block in _BLOCK.findall(TEXT[page]):
        for node in ast.walk(ast.parse(block)) if language == "python" else ():
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == [], node.module


def test_every_test_that_a_page_names_exists() -> None:
    """Each test that a page names exists, as a function or a file."""
    files = list((ROOT / "tests").rglob("*.py"))
    there = {file.stem for file in files}
    for file in files:
        there.update(re.findall(r"def (test_\w+)", file.read_text()))
    named = {
        page: set(re.findall(r"`(?:[\w/]*/)?(test_\w+)(?:\.py)?(?:\[\w+\])?`", text))
        for page, text in TEXT.items()
        if page.startswith("docs/")
    }
    assert {page: names - there for page, names in named.items() if names - there} == {}
