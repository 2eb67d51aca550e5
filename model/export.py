"""A trained model to a model folder."""

from pathlib import Path

from model import folder as folders
from model.train import Trained


def export(trained: Trained, folder: Path, name: str = "foreclick", sign_key: Path | None = None) -> str:
    """Write a model folder, signed where there is a key, and return its label "name@version".

    All or nothing: a model that stands there already is replaced at the end. Raises ModelError where the
    path holds something else.
    """
    manifest = folders.write(trained.content, folder, name, sign_key)
    return f"{manifest.name}@{manifest.version}"
