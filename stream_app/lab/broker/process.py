"""The broker's Java process: starts it apart from the terminal, finds it by its command line, waits for it."""

import os
import time
from pathlib import Path

import msgspec
import psutil

from stream_app.lab.broker.config import java_environment
from stream_app.lab.broker.errors import BrokerExitedError, JavaError, NotReadyError
from stream_app.lab.broker.probe import missing

POLL_S = 0.02
KILL_LIMIT_S = 10.0
TAIL_LINES = 12


class BrokerInfo(msgspec.Struct, frozen=True):
    """What `broker.json` in the data folder says about the broker running on it."""

    pid: int
    port: int
    cluster_id: str

    @property
    def bootstrap(self) -> str:
        """The address for clients, host:port."""
        return f"127.0.0.1:{self.port}"


def spawn(command: list[str], folder: Path) -> psutil.Process:
    """Start Java in the folder, in a session of its own, its output in `logs/java.out`. Raises JavaError.

    It has its own session, because Ctrl-C in a terminal must not end the broker before the worker has committed.
    """
    # posix_spawn and not Popen, which warns of a process that outlives its object. It cannot set a working directory.
    within = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(folder), *command]
    create = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(folder / "logs" / "java.out"), create, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    try:
        pid = os.posix_spawn(within[0], within, java_environment(), file_actions=files, setsid=True)
    except OSError as error:
        raise JavaError(f"Starting {command[0]}", str(error)) from error
    return psutil.Process(pid)


def wait_ready(process: psutil.Process, port: int, folder: Path, timeout_s: float) -> None:
    """Wait until the broker serves requests. Raises BrokerExitedError, NotReadyError."""
    log = folder / "logs" / "kafka.log"
    log_start = log.stat().st_size if log.exists() else 0
    deadline = time.monotonic() + timeout_s
    while (lacking := missing(port, timeout_s=2.0)) is not None:
        if time.monotonic() > deadline:
            raise NotReadyError(timeout_s, lacking, log)
        try:
            code = process.wait(timeout=POLL_S)
        except psutil.TimeoutExpired:
            continue
        raise BrokerExitedError(code, log, _last_lines(folder, log_start))


def find(folder: Path) -> tuple[BrokerInfo, psutil.Process] | None:
    """Return the broker that runs on the data folder, or None.

    A `broker.json` left by a crash names a process that no longer exists, or an id that another program has now. So
    only a process whose command line names the settings of this folder counts.
    """
    try:
        info = msgspec.json.decode((folder / "broker.json").read_bytes(), type=BrokerInfo)
        process = psutil.Process(info.pid)
        # A zombie has no command line, so it does not count either.
        if str(folder / "server.properties") in process.cmdline():
            return info, process
    except (FileNotFoundError, msgspec.DecodeError, ValueError, psutil.Error):
        pass  # no file, a half-written one, no such process, or one of another user
    return None


def end(process: psutil.Process, timeout_s: float) -> bool:
    """Ask the process to end, and kill it after the limit; return whether it ended by itself.

    Kafka closes its log on SIGTERM; after SIGKILL it checks the last segments at the next start.
    """
    try:
        process.terminate()
        process.wait(timeout=timeout_s)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        kill(process)
        return False
    return True


def kill(process: psutil.Process) -> None:
    """End the process and all its children at once, as a crash would."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue  # it ended by itself between the two lines
    psutil.wait_procs(family, timeout=KILL_LIMIT_S)


def _last_lines(folder: Path, log_start: int) -> str:
    """Return the lines that best explain an early end: Java's output, then the log's errors since the start."""
    lines = (folder / "logs" / "java.out").read_text(errors="replace").splitlines()
    log = folder / "logs" / "kafka.log"
    if log.exists():
        with log.open(errors="replace") as file:
            file.seek(log_start)
            logged = file.read().splitlines()
        telling = [line for line in logged if " ERROR " in line or " FATAL " in line or "Exception: " in line]
        lines += telling or logged
    return "\n".join(lines[-TAIL_LINES:])
