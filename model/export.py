"""A trained model to a model folder."""

from pathlib import Path

from model import folder as folders
from model.train import Trained


def export(trained: Trained, folder: Path, name: str = "foreclick") -> str:
    """Write a model folder and return its label "name@version".

    All or nothing: a model that stands there already is replaced at the end. Raises ModelError where the
    path holds something else.
    """
    manifest = folders.write(trained.content, folder, name)
    return f"{manifest.name}@{manifest.version}"
