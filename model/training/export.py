"""Writes a trained model to a model folder."""

import os
import tempfile
from pathlib import Path

from model.artifact import model_folder as folders
from model.artifact import signing
from model.artifact.errors import ModelError
from model.training.train import Trained

#: Bytes that `check_target` writes, since a full disk still accepts an empty file.
_TRIED_BYTES = 64 * 1024


class NotWritten(ModelError):  # noqa: N818 - reads as what happened
    """The model could not be written to its folder; the text names the folder where it was stored instead."""


def export(trained: Trained, folder: Path, name: str = "foreclick", sign_key: Path | None = None) -> str:
    """Write a model folder, signed if there is a key, and return its label "name@version".

    The folder is written completely or not at all: a model that is already there is replaced at the end. Raises
    ModelError if the path holds something else.
    """
    manifest = folders.write(trained.content, _real(folder), name, sign_key)
    return f"{manifest.name}@{manifest.version}"


def check_target(folder: Path, sign_key: Path | None = None) -> None:
    """Raise ModelError if `export` could not write a model to `folder`, before hours of training are spent.

    It writes a file next to the folder, or where the folder will be created, and removes it again.
    """
    if sign_key is not None:
        signing.private_key(sign_key)
    try:
        place = _real(folder)
        folders.refuse_foreign(place)
        if place.is_mount():
            raise ModelError(f"{folder} is where a disk is mounted: name a folder within it for the model.")
        parent = next(each for each in place.parents if each.exists())
        if not parent.is_dir():
            raise ModelError(
                f"{folder} cannot be made, since {parent} is a file: choose another path for the model."
            )
        for target in (parent, place) if place.is_dir() else (parent,):
            _try(target)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelError(
            f"No model can be written to {folder} ({reason}): choose another path, or make it writable."
        ) from error


def export_or_keep(trained: Trained, folder: Path, name: str, sign_key: Path | None = None) -> str:
    """Like `export`, but a model that cannot be written there is kept in a temporary folder, named by NotWritten."""
    try:
        return export(trained, folder, name, sign_key)
    except (OSError, ModelError) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        failure = error
    for base in (tempfile.gettempdir(), Path.cwd(), Path.home()):
        for key in (sign_key, None) if sign_key else (None,):
            try:
                kept = Path(tempfile.mkdtemp(prefix="foreclick-model-", dir=base)) / (folder.name or "model")
                export(trained, kept, name, key)
            except (OSError, ModelError):
                continue
            unsigned = ", not signed" if sign_key and key is None else ""
            raise NotWritten(
                f"The model could not be written to {folder} ({reason}). It is kept in {kept}{unsigned}: move it to "
                "where it belongs."
            ) from failure
    raise NotWritten(
        f"The model could not be written to {folder} ({reason}), nor to a temporary folder: it is lost. Free some "
        "space and train again."
    ) from failure


def _real(folder: Path) -> Path:
    """The folder itself: `.`, `..` and links resolved, so that it has a name and can be replaced."""
    return Path(os.path.realpath(folder))


def _try(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder, prefix=".foreclick-") as file:
        file.write(bytes(_TRIED_BYTES))
        file.flush()
        os.fsync(file.fileno())
