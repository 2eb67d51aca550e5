"""The command line in this process, and arguments that make a run short."""

import sys
from typing import Any

import msgspec
import pytest

from stream_app.cli import main

#: The command line in its own process.
FORECLICK = (sys.executable, "-c", "from stream_app.cli import main; main()")

SMALL = ("--events", "4000", "--users", "300", "--items", "100", "--categories", "10", "--partitions", "2")
FAST = ("--epochs", "2", "--hidden", "16")
#: Arguments that make a training short if only its end matters.
TINY = ("--epochs", "1", "--hidden", "8", "--no-refit")


def run(*args: object) -> int:
    """Run the command and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    code = caught.value.code
    assert isinstance(code, int | None)
    return code or 0


def run_json(capsys: pytest.CaptureFixture[str], *args: object) -> Any:
    """Run the command with `--json` and return what it prints."""
    capsys.readouterr()
    assert run(*args, "--json") == 0
    return msgspec.json.decode(capsys.readouterr().out)
