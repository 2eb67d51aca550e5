"""Formats, configures and describes the broker's data folder."""

import base64
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from stream_app.lab.broker.config import (
    NODE_ID,
    Listener,
    java_command,
    log4j_properties,
    meta_properties,
    server_properties,
)
from stream_app.lab.broker.errors import FolderError, PortTakenError
from stream_app.lab.broker.installation import Installation
from stream_app.lab.broker.ports import free_port, is_free


class Launch(msgspec.Struct, frozen=True):
    """A broker that is about to start."""

    command: list[str]
    port: int
    cluster_id: str


def prepare(
    made: Installation,
    folder: Path,
    *,
    port: int,
    heap_mb: int,
    properties: Mapping[str, str] | None = None,
    java: tuple[str, ...] = (),
    listeners: Sequence[Listener] = (),
) -> Launch:
    """Write all files that Kafka needs to the data folder; existing records are kept.

    `port` 0 takes any free one. Raises PortTakenError, NoFreePortError, FolderError.
    """
    if port and not is_free(port):
        raise PortTakenError(port)
    port = port or free_port()
    try:
        for name in ("data", "logs", "tmp"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name).chmod(
                0o700
            )  # records are data of users: close the folder to others even if it was open to them before
        made.link(folder)
        cluster_id = format_storage(folder / "data", made.bootstrap_checkpoint)
        settings = server_properties("data", port, free_port(besides=port), properties, listeners)
        (folder / "server.properties").write_text(settings)
        (folder / "log4j2.properties").write_text(log4j_properties())
    except OSError as error:
        raise FolderError(folder, error) from error
    return Launch(java_command(made.class_path, folder, heap_mb, java), port, cluster_id)


def format_storage(storage: Path, checkpoint: Path, node_id: int = NODE_ID, cluster_id: str = "") -> str:
    """Return the cluster id of the storage folder; format the folder if it is new ("" means a new id).

    It writes the same two files as `StorageTool format`, without the second that starting Java takes.
    """
    meta = storage / "meta.properties"
    if not meta.exists():
        shutil.copy(checkpoint, storage / "bootstrap.checkpoint")
        partial = storage / "meta.properties.partial"
        partial.write_text(meta_properties(cluster_id or _kafka_uuid(), _kafka_uuid(), node_id))
        partial.rename(meta)
    return dict(line.split("=", 1) for line in meta.read_text().splitlines() if "=" in line)["cluster.id"]


def _kafka_uuid() -> str:
    """Return a random id in Kafka's spelling: 16 bytes in URL-safe base 64, no padding, no leading dash."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text
