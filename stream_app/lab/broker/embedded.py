"""A real Apache Kafka, one node, on this machine: no Docker, no installed Java."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import psutil

from stream_app.lab.broker import boot_cache, process
from stream_app.lab.broker.config import Listener
from stream_app.lab.broker.errors import BrokerExitedError, FolderError, FolderInUseError, NotRunningError
from stream_app.lab.broker.install import InstallProgress, install
from stream_app.lab.broker.installation import Installation
from stream_app.lab.broker.locks import file_lock
from stream_app.lab.broker.process import BrokerInfo
from stream_app.lab.broker.storage import Launch, prepare

ATTEMPTS = 3
PORT_IN_USE = "Address already in use"

log = logging.getLogger(__name__)


class EmbeddedKafka:
    """One broker on one data folder, which keeps its records between starts.

    `port` 0 takes any free port, which `restart` keeps. `properties` override Kafka's settings; `listeners` are
    added to the default one. The process is in a session of its own and runs until it is stopped, even after this
    object is gone: `attach` finds it again.
    """

    def __init__(
        self,
        data_dir: Path | str,
        port: int = 0,
        heap_mb: int = 512,
        properties: Mapping[str, str] | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        # Resolved, since the process is recognised by the full path of its settings file.
        self.data_dir = Path(data_dir).expanduser().resolve()
        self.port = port
        self.heap_mb = heap_mb
        self.properties = dict(properties or {})
        self.listeners = tuple(listeners)
        self._process: psutil.Process | None = None

    @classmethod
    def attach(cls, data_dir: Path | str) -> Self:
        """Return an object for the broker that runs on the folder. Raises NotRunningError."""
        broker = cls(data_dir)
        found = process.find(broker.data_dir)
        if found is None:
            raise NotRunningError(broker.data_dir)
        info, broker._process = found
        broker.port = info.port
        return broker

    @property
    def bootstrap(self) -> str:
        """The address for clients, host:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The Java process. Raises NotRunningError before `start`."""
        if self._process is None:
            raise NotRunningError(self.data_dir)
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether a broker process runs on the folder, this one or a later one."""
        return process.find(self.data_dir) is not None

    def start(self, timeout_s: float = 60.0, progress: InstallProgress = log.info) -> Self:
        """Start the broker and return once it serves requests.

        `progress` gets a text for each slow step. Fetching Kafka, once per user, does not count towards the limit.
        Raises DownloadError, JavaError, FolderInUseError, FolderError, PortTakenError, NoFreePortError,
        BrokerExitedError, NotReadyError; none of them leaves a process behind.
        """
        made = install(progress)
        try:
            with file_lock(self.data_dir / "broker.lock", wait=False):
                if found := process.find(self.data_dir):
                    raise FolderInUseError(self.data_dir, f"the broker with process id {found[0].pid}")
                self._process = self._launch(made, timeout_s)
        except BlockingIOError as error:
            raise FolderInUseError(self.data_dir, "another start") from error
        except OSError as error:
            raise FolderError(self.data_dir, error) from error
        return self

    def _launch(self, made: Installation, timeout_s: float) -> psutil.Process:
        """Start the process. If another program takes the free port before Java binds it, try another port."""
        java = boot_cache.options(made)
        for attempts_left in reversed(range(ATTEMPTS)):
            launch = prepare(
                made,
                self.data_dir,
                port=self.port,
                heap_mb=self.heap_mb,
                properties=self.properties,
                java=java,
                listeners=self.listeners,
            )
            try:
                broker = self._run(launch, timeout_s)
            except BrokerExitedError as error:
                if PORT_IN_USE not in str(error) or not attempts_left:
                    raise
            else:
                self.port = launch.port
                return broker
        raise AssertionError("the last attempt returns or raises")

    def _run(self, launch: Launch, timeout_s: float) -> psutil.Process:
        broker = process.spawn(launch.command, self.data_dir)
        try:
            info = BrokerInfo(broker.pid, launch.port, launch.cluster_id)
            (self.data_dir / "broker.json").write_bytes(msgspec.json.encode(info))
            process.wait_ready(broker, launch.port, self.data_dir, timeout_s)
        except BaseException:  # Ctrl-C too: otherwise the process would be left unnoticed
            process.kill(broker)
            raise
        return broker

    def stop(self, timeout_s: float = 30.0) -> bool:
        """Shut the broker down, by force after the limit; return whether it ended by itself.

        Returns True if no broker runs.
        """
        clean = True
        if self._process is not None:
            clean = process.end(self._process, timeout_s)
            self._process = None
            if not self.running:  # another process may have started it again
                (self.data_dir / "broker.json").unlink(missing_ok=True)
                shutil.rmtree(self.data_dir / "tmp", ignore_errors=True)
        return clean

    def wait(self) -> int | None:
        """Wait until the process ends by itself; return its exit code, None if that is unknown."""
        return None if self._process is None else self._process.wait()

    def kill(self) -> None:
        """End the broker as a crash would: it closes nothing and cleans up nothing."""
        if self._process is not None:
            process.kill(self._process)
            self._process = None

    def restart(self, timeout_s: float = 60.0) -> Self:
        """Stop the broker if it still runs, and start it on the same port and folder."""
        self.stop()
        return self.start(timeout_s)

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def status(data_dir: Path | str) -> BrokerInfo | None:
    """Return what is known of the broker that runs on the folder, or None."""
    found = process.find(Path(data_dir).expanduser().resolve())
    return found[0] if found else None
