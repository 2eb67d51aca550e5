"""Reads the files of a model folder, which must be plain files of a plausible size and intact archives."""

import io
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from model.artifact.errors import ModelError

MIB = 1 << 20
#: Largest size of each file in bytes; of all others `OTHER_BYTES`.
LARGE_FILES = {"step.ts": 8192 * MIB, "candidates.npz": 8192 * MIB, "vocabulary.json": 2048 * MIB}
OTHER_BYTES = 16 * MIB
#: How many bytes more than its own size an archive may unpack to.
UNPACKED_BYTES = 64 * MIB


def read_file(folder: Path, name: str) -> bytes:
    """Return the bytes of one file. Raises FileNotFoundError, and ModelError for anything but a plain file.

    A link is followed (Kubernetes mounts files as links), and its target is checked: reading a device or a pipe
    could go on forever, or wait forever.
    """
    limit = LARGE_FILES.get(name, OTHER_BYTES)
    try:
        # Without blocking: opening a pipe without a writer would wait forever.
        number = os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(number, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ModelError(f"{folder / name} is not a plain file: copy the model's folder again.")
            content = file.read(limit + 1) if found.st_size <= limit else b""
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ModelError(
            f"{folder / name} cannot be read ({error.strerror}): copy the folder again."
        ) from error
    except MemoryError as error:
        raise ModelError(f"{folder / name} is larger than the memory that is left.") from error
    if found.st_size > limit or len(content) > limit:
        raise ModelError(
            f"{folder / name} has more than {limit // MIB} MiB, which no model needs: copy the folder again."
        )
    return content


def check_archive(content: bytes) -> None:
    """Check that a zip archive is complete and unpacks to about its own size. Raises ValueError otherwise.

    torch and numpy store arrays without compression, and compress a few kB of code: an archive that unpacks to
    more could take any amount of memory.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > len(content) + UNPACKED_BYTES:
                raise ValueError("an archive that unpacks to much more than its own size")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError) as error:
        raise ValueError(f"an incomplete archive: {error}") from error
    if damaged is not None:
        raise ValueError(f"an incomplete archive: {damaged} is damaged")
