"""Compiled code on disk is used again only if nothing that it contains has changed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model.kernels import jit
from model.kernels.jit import sources_hash

ROOT = Path(__file__).parents[3]

#: A kernel with code of other files: it calls a kernel, which uses a constant of a third file.
CALLER = """
from stream_app.kernels.jit import jit
from stream_app.kernels.called import twice


@jit
def answer(x):
    return twice(x)
"""
CALLED = """
from stream_app.kernels import constant
from stream_app.kernels.jit import jit

_FACTOR = constant.FACTOR


@jit
def twice(x):
    return _FACTOR * x
"""
#: Prints the answer and whether it came from compiled code on disk.
RUN = """
from stream_app.kernels.caller import answer
print(answer(21), sum(answer.stats.cache_hits.values()))
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the rooms with the kernels, and three more files."""
    for package in ("model", "stream_app"):
        (tmp_path / package).mkdir()
        shutil.copy(ROOT / package / "__init__.py", tmp_path / package)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package / "kernels", tmp_path / package / "kernels", ignore=ignored)
    kernels = tmp_path / "stream_app" / "kernels"
    (kernels / "caller.py").write_text(CALLER)
    (kernels / "called.py").write_text(CALLED)
    (kernels / "constant.py").write_text("FACTOR = 2\n")
    return tmp_path


def run(tree: Path, cache: Path | None = None) -> tuple[int, int]:
    """Run a process of this tree; return the answer, and how often compiled code was loaded."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    env["PYTHONPATH"] = str(tree)
    if cache is not None:
        env["NUMBA_CACHE_DIR"] = str(cache)
    ran = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tree,
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    answer, hits = ran.stdout.split()
    return int(answer), int(hits)


def compiled(folder: Path) -> list[str]:
    """Return the files of compiled code of the caller, without their hashes."""
    names = (file.name.partition("-") for file in folder.rglob("caller.answer-*"))
    return sorted(f"{name}-{rest.partition('.')[2]}" for name, _, rest in names)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["next to the sources", "NUMBA_CACHE_DIR"])
def test_a_change_of_a_called_kernel_is_seen(tree: Path, elsewhere: bool, tmp_path: Path) -> None:
    """With a warm cache, an edit of a called kernel or of a constant two files away changes the result.

    The number of files of compiled code does not change.
    """
    cache = tmp_path / "cache" if elsewhere else None
    kernels = tree / "stream_app" / "kernels"
    assert run(tree, cache) == (42, 0)
    assert run(tree, cache) == (42, 1)
    before = compiled(cache or tree)
    assert len(before) == 2
    (kernels / "constant.py").write_text("FACTOR = 3\n")
    assert run(tree, cache) == (63, 0)
    (kernels / "called.py").write_text(CALLED.replace("_FACTOR * x", "_FACTOR * x + 1"))
    assert run(tree, cache) == (64, 0)
    assert run(tree, cache) == (64, 1)
    assert compiled(cache or tree) == before


def forget() -> None:
    """Let the next hash read the files again, as in a new process."""
    for cached in (jit.sources_hash, jit._read, jit._imported, jit._file_of):
        cached.cache_clear()


def test_only_what_is_imported_counts(tree: Path) -> None:
    """A change of a file that a kernel does not import, directly or not, keeps its compiled code."""
    kernels = tree / "stream_app" / "kernels"
    files = [kernels / "caller.py", kernels / "called.py", kernels / "hashing.py"]
    before = [sources_hash(file) for file in files]
    (kernels / "crc32c.py").write_text("")
    forget()
    assert [sources_hash(file) for file in files] == before
    (kernels / "constant.py").write_text("FACTOR = 4\n")
    forget()
    after = [sources_hash(file) for file in files]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, False, True]


def test_all_kernels_are_compiled_by_one_rule() -> None:
    """No file of the packages calls numba.njit or numba.jit itself: its code on disk would not see other files."""
    rule = ROOT / "model" / "kernels" / "jit.py"
    for package in ("model", "stream_app"):
        for file in (ROOT / package).rglob("*.py"):
            assert file == rule or "numba.njit" not in file.read_text(), file
