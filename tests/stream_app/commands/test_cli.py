"""The command line: quick help, one sentence for a user's mistake, exit codes that scripts rely on."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from stream_app import cli
from stream_app.cli import COMMANDS, Entry, main
from stream_app.commands import tail
from stream_app.kafka.partition_counts import partition_counts
from stream_app.kafka.security import PLAIN
from stream_app.kafka.security.rights import Operation
from stream_app.lab.broker import EmbeddedKafka
from stream_app.settings import fields, load_settings
from stream_app.settings.command_options import with_settings

pytestmark = pytest.mark.usefixtures("restored")

HEAVY = ("torch", "faust", "mode", "aiokafka", "numba", "numpy", "sklearn")


def exit_code(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(args)
    return int(caught.value.code or 0)


def made_up(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> None:
    """Add the command `made-up` that runs `body`."""
    (folder / "made_up_command.py").write_text(f"def made_up():\n    '''Made up.'''\n    {body}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "made_up_command", raising=False)
    monkeypatch.setitem(COMMANDS, "made-up", Entry("made_up_command", "made_up", "Made up."))


def test_help_shows_each_command_on_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The help lists every command with its one line."""
    monkeypatch.setenv("COLUMNS", "120")
    assert exit_code("--help") == 0
    lines = capsys.readouterr().out.splitlines()
    for name, entry in COMMANDS.items():
        assert any(name in line and entry.help in line for line in lines), name


def test_help_imports_nothing_heavy() -> None:
    """`foreclick --help` starts without torch, Faust or Kafka, which is what makes it quick."""
    code = (
        "import sys; from stream_app.cli import main\n"
        "try: main(['--help'])\n"
        f"finally: print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command can be imported and explains itself."""
    assert exit_code(name, "--help") == 0
    assert f"foreclick {name}" in capsys.readouterr().out


def test_help_all_shows_every_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The worker's `--help` shows the most important settings, `--help-all` all except secrets."""
    monkeypatch.setenv("COLUMNS", "300")
    assert exit_code("worker", "--help") == 0
    short = capsys.readouterr().out
    assert exit_code("worker", "--help-all") == 0
    whole = capsys.readouterr().out
    options = [field.option for field in fields() if not field.secret and field.path[0] != "train"]
    assert [option for option in options if option not in whole] == []
    assert 5 <= sum(f" {option} " in short for option in options) <= 12


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` names the program."""
    assert exit_code("--version") == 0
    assert capsys.readouterr().out.startswith("foreclick")


def test_a_mistyped_command_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage exits with 2 and names the nearest command."""
    assert exit_code("wurker") == 2
    assert "worker" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        "from stream_app.kafka.errors import TopicError; raise TopicError('one clear sentence')",
        "error = type('ModelError', (Exception,), {'__module__': 'model.registry'}); "
        "raise error('one clear sentence')",
    ],
)
def test_our_errors_are_one_sentence(
    error: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors of either package are printed on stderr without a traceback, exit code 1."""
    made_up(monkeypatch, tmp_path, error)
    assert exit_code("made-up") == 1
    assert capsys.readouterr() == ("", "foreclick: one clear sentence\n")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Errors that are not ours are not hidden."""
    made_up(monkeypatch, tmp_path, "raise ZeroDivisionError('a bug')")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["made-up"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_unwind_and_have_their_exit_codes(
    number: signal.Signals,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C and SIGTERM run the `finally` blocks of a command, so that it can end what it started."""
    body = (
        "import signal, threading\n    try:\n"
        f"        signal.raise_signal({int(number)})\n        threading.Event().wait(10)\n"
        "    finally:\n        print('ended what it started')"
    )
    made_up(monkeypatch, tmp_path, body)
    assert exit_code("made-up") == code
    assert capsys.readouterr().out == "ended what it started\n"


def test_wrong_settings_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that takes settings prints all mistakes, those of options and of the environment."""
    monkeypatch.setenv("FORECLICK_K", "many")
    assert exit_code("topics", "--partitions", "none") == 1
    error = capsys.readouterr().err
    assert "2 settings are wrong" in error
    assert "variable FORECLICK_K" in error and "option --partitions" in error


def test_a_command_with_settings_documents_and_gets_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The help has option, variable and meaning of each setting; the command gets the chosen values."""
    made_up(monkeypatch, tmp_path, "print(settings.k, settings.rules.clicks_1m, settings.group)")
    module = tmp_path / "made_up_command.py"
    body = module.read_text().replace("made_up():", "made_up(*, settings):")
    module.write_text(
        f"from stream_app.settings.command_options import with_settings\n\n@with_settings()\n{body}"
    )
    config = tmp_path / "shop.toml"
    config.write_text('k = 3\ngroup = "file"\n[rules]\nclicks_1m = 7\n')
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("FORECLICK_GROUP", "env")
    assert exit_code("made-up", "--help-all") == 0
    text = capsys.readouterr().out
    for field in fields():
        if field.secret:  # everybody who lists the processes of the machine would see it
            assert f"{field.option} " not in text, field.name
            continue
        if field.path[0] == "train":  # nothing for a worker
            assert field.env not in text, field.name
            continue
        assert field.option in text and field.env in text and field.doc in text, field.name
    assert exit_code("made-up", "--config", str(config), "--k", "4") == 0
    assert capsys.readouterr().out == "4 7 env\n"


def test_options_of_settings_that_do_not_exist() -> None:
    """A command that uses a setting that no longer exists fails at import, not at its use."""
    with pytest.raises(ValueError, match="no such settings: no_such"):
        with_settings("k", "no_such")


@pytest.mark.kafka
def test_topics_from_check_to_create(
    kafka: EmbeddedKafka, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`topics` fails on an empty broker, `--create` makes all, then the check passes; `--json` is JSON."""
    options = ("--brokers", kafka.bootstrap, "--topic-prefix", prefix, "--partitions", "1")
    assert exit_code("topics", *options) == 1
    said = capsys.readouterr().err
    assert f"wrong topics {prefix}clicks, {prefix}browses, {prefix}purchases, {prefix}predictions," in said
    assert said.count("foreclick topics --create") == said.count("\n") == 1
    assert exit_code("topics", "--create", "--json", *options) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["ok"] and len(made["created"]) == 7 and made["problems"] == []
    assert exit_code("topics", *options) == 0
    assert f"{prefix}foreclick-users-changelog" in capsys.readouterr().out


def test_no_broker_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a broker there is no traceback and no library's log."""
    assert exit_code("topics", "--brokers", "127.0.0.1:1", "--wait-s", "0.3") == 1
    assert capsys.readouterr().err.startswith("foreclick: no Kafka broker answers at 127.0.0.1:1 ")


def test_a_wait_for_the_broker_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """After a second without output a command prints what it waits for, once, and not to stdout."""
    structlog.reset_defaults()  # as without a worker's log
    assert exit_code("topics", "--json", "--brokers", "127.0.0.1:1", "--wait-s", "1.5") == 1
    out, said = capsys.readouterr()
    assert said.startswith("waiting for 127.0.0.1:1 …\nforeclick: no Kafka broker answers")
    assert said.count("waiting") == 1 and out == ""


def test_completion_is_offered_nowhere_by_halves(capsys: pytest.CaptureFixture[str]) -> None:
    """No command has an option for installing shell completion."""
    assert exit_code("broker", "--help") == 0
    assert "completion" not in capsys.readouterr().out


def test_a_demo_where_a_file_is_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in place of the data folder, or of the demo's folder, is named."""
    (tmp_path / "file").write_text("")
    (tmp_path / "demo").write_text("")
    for folder, named in ((tmp_path / "file", tmp_path / "file/demo"), (tmp_path, tmp_path / "demo")):
        assert exit_code("demo", "--stop", "--data-dir", str(folder)) == 1
        assert f"foreclick: {named} cannot be a folder" in capsys.readouterr().err


async def test_a_silent_broker_is_waited_for_aloud(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`record`, `replay` and `tail` also report a broker that accepts connections and does not answer."""
    structlog.reset_defaults()
    monkeypatch.setattr("stream_app.kafka.waiting.SAID_AFTER_S", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        broker = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = load_settings(env={}, options={"brokers": broker})
        for waits in (
            partition_counts([broker], PLAIN, (), Operation.READ),
            anext(tail._records(settings, "flags", from_beginning=False)),
        ):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waits, 0.5)
            assert capsys.readouterr().err == f"waiting for {broker} …\n"


def test_ours_is_told_by_the_package() -> None:
    """Only errors of our two packages count as messages for the user."""
    assert not cli._is_ours(ValueError("x"))
