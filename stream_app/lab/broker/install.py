"""Installs Kafka on this machine, once per user: jars, a storage template, a boot cache."""

import logging
import shutil
import subprocess
from collections.abc import Callable

from stream_app.lab.broker import boot_cache
from stream_app.lab.broker.artifacts import download
from stream_app.lab.broker.config import java_environment, java_executable, server_properties
from stream_app.lab.broker.errors import FolderError, JavaError
from stream_app.lab.broker.installation import KAFKA_VERSION, Installation, installation_dir, load
from stream_app.lab.broker.locks import file_lock

FORMAT_LIMIT_S = 60.0

InstallProgress = Callable[[str], None]
log = logging.getLogger(__name__)


def install(progress: InstallProgress = log.info) -> Installation:
    """Return the installed Kafka; fetch it first if this user has none yet.

    Two processes may call it at once: the second waits for the first. `progress` gets a text for each slow
    step. Raises DownloadError, JavaError, FolderError.
    """
    folder = installation_dir()
    if found := load(folder):
        return found
    try:
        with file_lock(folder.with_name(folder.name + ".lock")):
            if found := load(folder):  # the process that held the lock has installed it
                return found
            shutil.rmtree(folder, ignore_errors=True)  # remains of an interrupted download
            folder.mkdir(parents=True, mode=0o700)
            progress(f"fetching Apache Kafka {KAFKA_VERSION} (43 MB, once)")
            made = Installation(folder, download(folder))
            progress("preparing Kafka for quick starts (once)")
            _make_checkpoint(made)
            boot_cache.train(made)
            made.save()
    except OSError as error:
        raise FolderError(folder, error) from error
    return made


def _make_checkpoint(made: Installation) -> None:
    """Let Kafka's own tool format a temporary folder once; every new data folder starts with a copy of the result."""
    scratch = made.folder / "format"
    scratch.mkdir()
    made.link(scratch)
    settings = scratch / "server.properties"
    settings.write_text(server_properties("data", port=1, controller_port=2))
    java = [java_executable(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", made.class_path]
    tool = ["kafka.tools.StorageTool", "format", "--cluster-id", "foreclickTemplateCluster"]
    command = [*java, *tool, "--config", settings.name]
    try:
        done = subprocess.run(
            command, cwd=scratch, env=java_environment(), capture_output=True, text=True, errors="replace",
            timeout=FORMAT_LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise JavaError("Formatting Kafka's storage", str(error)) from error
    if done.returncode != 0:
        raise JavaError("Formatting Kafka's storage", (done.stdout + done.stderr)[-2000:])
    shutil.copy(scratch / "data" / "bootstrap.checkpoint", made.bootstrap_checkpoint)
    shutil.rmtree(scratch)
