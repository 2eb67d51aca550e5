"""Outputs on a full disk, next to inputs, and on machines without a home folder or UTF-8: nothing is lost or left."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from stream_app.cli import main
from stream_app.contract.records import INPUT_TOPICS
from stream_app.recordings.recording import RecordingReader

MAIN = "from stream_app.cli import main; main()"
OUTPUTS = ["dead-letters.jsonl", "flags.jsonl", "predictions.jsonl"]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A recording of 500 events."""
    path = tmp_path / "small.stream"
    command(0, "generate", "--out", path, "--events", 500, "--users", 20, "--items", 40, "--categories", 8)
    return path


def command(code: int, *args: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in args])
    assert (ended.value.code or 0) == code


def test_a_run_replaces_an_earlier_run_and_nothing_else(small: Path, tmp_path: Path) -> None:
    """The same command works again, other files are not replaced, and only complete files get their names."""
    out = tmp_path / "out"
    for _ in range(2):
        command(0, "run", small, "--out", out)
        assert sorted(path.name for path in out.iterdir()) == OUTPUTS
    (out / "flags.jsonl").unlink()
    command(1, "run", small, "--out", out)
    command(0, "run", small, "--out", out, "--force")
    (out / "predictions.jsonl").unlink()
    (out / "predictions.jsonl").symlink_to(small)
    command(1, "run", small, "--out", out, "--force")
    assert list(RecordingReader(small))


def test_a_full_disk_leaves_nothing_of_a_run(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a limit on file sizes in place of a full disk: one sentence, during the run and at its end."""
    out = tmp_path / "out"
    command(0, "run", small, "--out", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(map(len, before.values()))
    for limit in (1000, largest - 1):
        capsys.readouterr()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            command(1, "run", small, "--out", out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        said = capsys.readouterr().err
        assert "File too large" in said
        assert "Traceback" not in said
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_labels_of_somebody_else_stay(tmp_path: Path) -> None:
    """`generate` writes labels next to its recording, and replaces only its own."""
    (tmp_path / "a.labels.jsonl").write_text("mine")
    args = ("generate", "--out", tmp_path / "a.stream", "--events", 500, "--users", 20, "--items", 200)
    command(1, *args)
    assert (tmp_path / "a.labels.jsonl").read_text() == "mine"
    assert not (tmp_path / "a.stream").exists()
    command(0, *args, "--force")
    command(0, *args)
    assert RecordingReader(tmp_path / "a.stream").topics == dict.fromkeys(INPUT_TOPICS, 4)


def started(*args: object, **env: str) -> subprocess.CompletedProcess[bytes]:
    clean = {name: value for name, value in os.environ.items() if name not in ("HOME", "PYTHONIOENCODING")}
    return subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, args)],
        env=clean | env,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
def test_any_terminal_takes_what_we_print(tmp_path: Path, encoding: str) -> None:
    """A path with letters that the terminal lacks is written with escapes, help and errors alike."""
    path = tmp_path / "日本…"
    done = started("run", path / "none.stream", "--out", path, PYTHONIOENCODING=encoding)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    # click considers ASCII a wrong setting and writes UTF-8.
    shown = {path.name.encode(encoding, "backslashreplace"), path.name.encode()}
    assert any(each in done.stderr for each in shown)
    assert started("--help", PYTHONIOENCODING=encoding).returncode == 0
    assert started("run", "--help", PYTHONIOENCODING=encoding).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an unknown user")
def test_without_a_home_no_folder_is_made_here(tmp_path: Path) -> None:
    """For an unknown user without HOME, numba's code goes to a folder of the process, which is removed at its end."""
    script = (
        "import os; os.environ.pop('HOME', None); os.setuid(123456); "
        "from stream_app.cli import _make_ready; _make_ready(); print(os.environ['NUMBA_CACHE_DIR'])"
    )
    tmp_path.chmod(0o777)
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "NUMBA_CACHE_DIR")}
    # From memory: with another user id the process may not read our folders.
    warm = "import stream_app.cli, tempfile; tempfile.tempdir = '/tmp'; "
    done = subprocess.run(
        [sys.executable, "-c", warm + script],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.is_absolute()
    assert not folder.exists()
