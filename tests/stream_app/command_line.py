"""The command line in this process, and arguments that make a run short."""

import sys
from typing import Any

import msgspec
import pytest

from stream_app.cli import main

#: The command line in a process of its own.
FORECLICK = (sys.executable, "-c", "from stream_app.cli import main; main()")

SMALL = ("--events", "4000", "--users", "300", "--items", "100", "--categories", "10", "--partitions", "2")
FAST = ("--epochs", "2", "--hidden", "16")
#: What makes a run short of which only the end matters.
TINY = ("--epochs", "1", "--hidden", "8", "--no-refit")


def run(*args: object) -> int:
    """Exit code of the command."""
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    code = caught.value.code
    assert isinstance(code, int | None)
    return code or 0


def run_json(capsys: pytest.CaptureFixture[str], *args: object) -> Any:
    """What the command says with `--json`."""
    capsys.readouterr()
    assert run(*args, "--json") == 0
    return msgspec.json.decode(capsys.readouterr().out)
