"""The processes of a demo, broker and worker: started, found again, and stopped by their process ids."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from stream_app.lab.broker import EmbeddedKafka, NotRunningError
from stream_app.lab.broker.ports import free_port
from stream_app.lab.demo.plan import DemoError, Plan
from stream_app.settings.sources import ENV_PREFIX

#: Time limits of a clean stop; their sum is below the 15 s in which Ctrl-C must stop everything.
WORKER_END_S, BROKER_END_S = 7.0, 5.0
_READY_S, _POLL_S = 90.0, 0.1
_LAST_LINES = 6
#: Environment variables of the user that the demo passes on: where to fetch Kafka and where to store it.
_PASSED_ON = ("FORECLICK_CACHE_DIR", "FORECLICK_MAVEN_URL")


class Running(msgspec.Struct, frozen=True):
    """The worker of a demo that runs or was left running (`running.json`); the broker has a file of its own."""

    worker: int
    started: float  #: start time of the process, to notice that another process has its id now


class DemoWorker:
    """`foreclick worker` in a session of its own, so that Ctrl-C in the terminal reaches only the demo."""

    def __init__(self, plan: Plan, bootstrap: str, device: str) -> None:
        self.web = f"127.0.0.1:{free_port()}"
        self._log = plan.worker_log
        env = {k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX) or k in _PASSED_ON}
        env |= {
            "FORECLICK_BROKERS": bootstrap,
            "FORECLICK_GROUP": "demo",
            "FORECLICK_MODEL": str(plan.model),
            "FORECLICK_DEVICE": device,
            "FORECLICK_WEB": self.web,
            "FORECLICK_DATA_DIR": str(plan.folder / "worker"),
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from stream_app.cli import main; main()", "worker"],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def check(self) -> None:
        """Raises DemoError, with the end of its log, if the worker has ended."""
        code = self._process.poll()
        if code is not None:
            lines = self._log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
            own = [line for line in lines if line.startswith("foreclick: ")]  # its last message
            said = "\n  ".join(own[-1:] or lines) or "nothing"
            raise DemoError(
                f"the worker ended with code {code} (its log: {self._log}), with the message:\n  {said}"
            )

    def get(self, path: str, timeout_s: float = 5.0) -> str:
        """Return a page of the worker's HTTP port. Raises OSError if it does not answer."""
        with urllib.request.urlopen(f"http://{self.web}{path}", timeout=timeout_s) as answer:
            return str(answer.read().decode())

    def wait_ready(self, waiting: Callable[[str], None]) -> None:
        """Wait until the worker is ready; `waiting` gets the reason as text. Raises DemoError after the limit."""
        deadline = time.monotonic() + _READY_S
        why = "no answer yet"
        while time.monotonic() < deadline:
            self.check()
            try:
                self.get("/health/ready")
            except urllib.error.HTTPError as error:
                checks = json.loads(error.read())["checks"]
                why = next((text for text in checks.values() if not text.startswith("ok")), why)
                waiting(why)
            except OSError:
                waiting("loading")
            else:
                return
            time.sleep(_POLL_S)
        raise DemoError(f"the worker was not ready within {_READY_S:.0f} s ({why}): see {self._log}")

    def stop(self) -> None:
        """Ask the worker to commit and leave; kill it after the limit."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(WORKER_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


class Started:
    """The processes of a demo; `end` stops them, the worker first, so that it can commit."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.broker = EmbeddedKafka(plan.broker)
        self.worker: DemoWorker | None = None
        self.kept = False  #: whether to leave all processes running

    def start_worker(self, device: str) -> DemoWorker:
        """Start the worker on the broker, and store how to find both if this process is killed."""
        self.worker = worker = DemoWorker(self._plan, self.broker.bootstrap, device)
        note = Running(worker.pid, psutil.Process(worker.pid).create_time())
        _note(self._plan.folder).write_bytes(msgspec.json.encode(note))
        return worker

    def end(self) -> None:
        """End the processes, unless they are kept."""
        if self.kept:
            return
        try:
            if self.worker is not None:
                self.worker.stop()
        finally:
            self.broker.stop(BROKER_END_S)
        _note(self._plan.folder).unlink(missing_ok=True)


@contextmanager
def started(plan: Plan) -> Iterator[Started]:
    """Holds the started processes; ends them however the block is left. A second Ctrl-C does not interrupt that."""
    held = Started(plan)
    # A closed terminal ends the demo like Ctrl-C, unless it was started with `nohup`.
    closing = (signal.SIGHUP,) if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL else ()
    with _handling(closing, lambda *_: sys.exit(128 + signal.SIGHUP)):
        try:
            yield held
        finally:
            with _handling((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN):
                held.end()


@contextmanager
def _handling(signums: Sequence[signal.Signals], handler: Any) -> Iterator[None]:
    """Let `handler` handle the signals within the block."""
    before = [(signum, signal.signal(signum, handler)) for signum in signums]
    try:
        yield
    finally:
        for signum, old in before:
            signal.signal(signum, old)


def stop_left(plan: Plan) -> list[str]:
    """End the processes of a demo that was kept or killed; returns one text per process that was ended."""
    ended = []
    worker = _left_worker(plan)
    if worker is not None:
        worker.terminate()
        try:
            worker.wait(WORKER_END_S)
        except psutil.TimeoutExpired:
            worker.kill()
            worker.wait(WORKER_END_S)
        ended.append(f"worker {worker.pid}")
    _note(plan.folder).unlink(missing_ok=True)
    try:
        broker = EmbeddedKafka.attach(plan.broker)
    except NotRunningError:
        return ended
    ended.append(f"broker {broker.pid}")
    broker.stop(BROKER_END_S)
    return ended


def runs(plan: Plan) -> bool:
    """Whether processes of an earlier demo still run in the folder."""
    return _left_worker(plan) is not None or EmbeddedKafka(plan.broker).running


def _note(folder: Path) -> Path:
    return folder / "running.json"


def _left_worker(plan: Plan) -> psutil.Process | None:
    try:
        note = msgspec.json.decode(_note(plan.folder).read_bytes(), type=Running)
        worker = psutil.Process(note.worker)
        return worker if abs(worker.create_time() - note.started) < 1.0 else None
    except (FileNotFoundError, msgspec.DecodeError, psutil.NoSuchProcess):
        return None
