"""The version of a model depends on its training, not on the path of the code or the machine."""

import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from model.artifact import model_folder
from model.network import torchscript
from model.serving.runtime import Runtime
from model.training.train import Trained
from tests.model.answers import batch

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "tests" / "reference" / "model"

#: Writes the file of a step with weights made from a seed.
WRITES = """
import sys
from pathlib import Path
import torch
from model.network.network import Network, Shape
from model.network.step import Step
from model.network.torchscript import compile_step, to_bytes
torch.manual_seed(7)
network = Network(Shape(item_rows=9, known_items=8, category_rows=3, hidden=4))
step = Step(network, torch.arange(4), torch.zeros(4))
Path(sys.argv[1]).write_bytes(to_bytes(compile_step(step)))
"""
#: Trains for one epoch and writes the folder.
TRAINS = """
import sys
from pathlib import Path
import msgspec, torch
torch.set_num_threads(1)
from model.training.export import export
from model.training.train import train
from tests.model.tiny import SETTINGS, tiny_interactions
quick = msgspec.structs.replace(SETTINGS, epochs=1)
print(export(train(tiny_interactions(1, users=30), quick), Path(sys.argv[1]), "tiny"))
"""
#: The record of the archive that has the code of the class.
CODE = "code/__torch__/model/step.py"


def run_in(tree: Path, program: str, target: Path) -> str:
    """Run a program with the code of one tree; return what it printed."""
    env = os.environ | {"PYTHONPATH": str(tree)}
    command = [sys.executable, "-c", program, str(target)]
    run = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout.strip()


def copy_of_the_code(copy: Path) -> Path:
    for name in ("model", "tests/model"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "tests" / "__init__.py").touch()
    return copy


def paths_in(file: Path) -> list[str]:
    """Return paths of this machine and names of source files in a file, or in the records of an archive."""
    contents = {file.name: file.read_bytes()}
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            contents |= {name: archive.read(name) for name in archive.namelist()}
    marks = [str(path).encode() for path in (ROOT, Path(__file__).parents[3], file.parent, sys.prefix)]
    pattern = re.compile(b"|".join([re.escape(mark) for mark in marks] + [rb"[\w.-]/[\w./-]+\.py\b"]))
    return [name for name, content in contents.items() if pattern.search(content)]


def test_the_step_is_the_same_from_a_copy_of_the_code(tmp_path: Path) -> None:
    """The same weights give the same bytes of step.ts in a tree at another path, and they contain no path."""
    copy = copy_of_the_code(tmp_path / "somewhere" / "else")
    for tree, name in ((ROOT, "here.ts"), (copy, "there.ts")):
        run_in(tree, WRITES, tmp_path / name)
    assert (tmp_path / "here.ts").read_bytes() == (tmp_path / "there.ts").read_bytes()
    assert paths_in(tmp_path / "here.ts") == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_version_is_that_of_the_training(tmp_path: Path) -> None:
    """The same training with this code and with a copy elsewhere gives the same version and bytes of every file."""
    copy = copy_of_the_code(tmp_path / "somewhere" / "else")
    here, there = tmp_path / "here", tmp_path / "there"
    labels = [run_in(tree, TRAINS, target) for tree, target in ((ROOT, here), (copy, there))]
    for file in model_folder.FILES:
        assert (here / file).read_bytes() == (there / file).read_bytes(), file
    assert labels[0] == labels[1]


def test_no_file_of_a_folder_names_a_path(folder: Path) -> None:
    """A model folder contains nothing about the machine it was made on."""
    assert {file.name: paths_in(file) for file in folder.iterdir() if paths_in(file)} == {}


def test_the_class_has_one_name(trained: Trained, folder: Path) -> None:
    """The code of a step has one name: in a new file, in an old one, and in one that was written again."""
    fresh = (folder / "step.ts").read_bytes()
    again = torchscript.to_bytes(torchscript.from_bytes(fresh, torch.device("cpu")))
    for content in (fresh, again, (REFERENCE / "step.ts").read_bytes(), trained.content.step):
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        assert reader.has_record(CODE)


def test_a_folder_of_an_earlier_release_answers_the_same(tmp_path: Path) -> None:
    """A file with debug records loads, and gives the same answers as without them."""
    old = Runtime.load(REFERENCE, device="cpu")
    stripped = torchscript.to_bytes(torchscript.from_bytes(old.content.step, torch.device("cpu")))
    assert len(stripped) < len(old.content.step)
    content = msgspec.structs.replace(old.content, step=stripped)
    model_folder.write(content, tmp_path / "stripped", "foreclick")
    new = Runtime.load(tmp_path / "stripped", device="cpu")
    for one, other in ((old, new), (old.plainly(), new.plainly())):
        expected, found = (each.step(each.hidden_states(9), batch(each)) for each in (one, other))
        for name, values in vars(expected).items():
            np.testing.assert_array_equal(getattr(found, name), values, name)
