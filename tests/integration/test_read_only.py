"""A worker as in its container: only its own folders are writable, without capabilities or a home."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_app.lab.broker import EmbeddedKafka
from tests.integration.harness import Reader, clicks, free_port, make_topics, produce, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
#: One writable folder, $STATE, in a file system that is read-only from here on; then the program, without rights.
CONFINED = """
set -e
mount -t tmpfs -o size=256m none "$STATE"
mkdir "$STATE/data" "$STATE/cache" "$STATE/tmp"
for path in / "$REPOSITORY" "$PYTHON" "$STATE/.." /tmp; do
  mount -o remount,bind,ro "$(stat -c %m "$path")"
done
for path in / "$REPOSITORY" "$PYTHON" "$STATE/.." /tmp; do
  if touch "$path/written" 2>/dev/null; then echo "$path can be written"; exit 99; fi
done
cd /
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


def unshare() -> list[str]:
    """Return a command that gives a program its own mounts; skip the test if the system does not allow it."""
    if shutil.which("unshare") and shutil.which("setpriv"):
        for way in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
            if subprocess.run([*way, "true"], capture_output=True, check=False, timeout=20).returncode == 0:
                return way
    pytest.skip("this system lets the test make no mount namespace")


class Confined:
    """`foreclick worker` that can write only to `state`; `ended` gets its exit code."""

    def __init__(self, state: Path, bootstrap: str, prefix: str) -> None:
        self.state, self.log = state, state.with_suffix(".log")
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOME": "/nonexistent",
            "TMPDIR": str(state / "tmp"),
            "NUMBA_CACHE_DIR": str(state / "cache" / "numba"),
            "FORECLICK_CACHE_DIR": str(state / "cache"),
            "FORECLICK_DATA_DIR": str(state / "data"),
            "FORECLICK_BROKERS": bootstrap,
            "FORECLICK_TOPIC_PREFIX": prefix,
            "FORECLICK_GROUP": f"{prefix}group",
            "FORECLICK_WEB": f"127.0.0.1:{free_port()}",
            "STATE": str(state),
            "REPOSITORY": str(ROOT),
            "PYTHON": sys.prefix,
        }
        program = [sys.executable, "-c", "from stream_app.cli import main; main()", "worker"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*unshare(), "bash", "-c", CONFINED, "confined", *program],
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def written(self) -> list[Path]:
        """Return the files in its folder, as relative paths."""
        seen = Path(f"/proc/{self.process.pid}/root") / self.state.relative_to("/")
        return [file.relative_to(seen) for file in seen.rglob("*") if file.is_file()]

    def status(self, name: str) -> str:
        """Return a line of the process' status, such as CapEff."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))

    def check(self) -> None:
        """Fail with the log if the worker has ended."""
        assert self.process.poll() is None, self.log.read_text()[-4000:]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "state"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == [], "the worker wrote outside its mounts"


async def test_a_worker_writes_to_its_own_folders_only(
    kafka: EmbeddedKafka, prefix: str, state: Path
) -> None:
    """With a read-only file system and without a home it compiles, answers, stops cleanly, and leaves only caches."""
    await make_topics(kafka.bootstrap, prefix)
    produce(kafka.bootstrap, prefix, clicks(2000))
    worker = Confined(state, kafka.bootstrap, prefix)
    reader = Reader(kafka.bootstrap, f"{prefix}predictions")
    try:

        def all_answered() -> bool:
            worker.check()
            return len(reader.poll()) >= 2000

        wait_for("the predictions of a confined worker", all_answered, 300)
        assert (worker.status("CapEff"), worker.status("NoNewPrivs")) == ("0" * 16, "1")
        files = worker.written()
        assert files, "compiled code is kept"
        assert {file.parts[0] for file in files} == {"cache"}
        assert {file.suffix for file in files} == {".nbc", ".nbi"}
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(60) == 0, worker.log.read_text()[-4000:]
        assert "Read-only file system" not in worker.log.read_text()
    finally:
        reader.close()
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait(10)
