"""A model folder on disk: its files, their checksums and signature, and what is said when they are wrong.

`manifest.json` names the format, the model, its version and the sha256 of every other file. The version is
the hash of those checksums, so it follows from the content alone. `manifest.sig`, where there is one, signs the
manifest. Every file is read once: what was checked is what is used. Nothing is unpickled by Python.
"""

import hashlib
import io
import shutil
from pathlib import Path

import msgspec
import numpy as np

from model import signing
from model.calibration import Calibration
from model.candidates import Tables
from model.errors import ModelError
from model.features import Scale
from model.network import Shape
from model.vocabulary import Index, Vocabulary

__all__ = ["Content", "Manifest", "ModelError", "Names", "Settings", "read", "write"]

FORMAT = 2
MANIFEST = "manifest.json"
FILES = frozenset(
    {"step.ts", "vocabulary.json", "candidates.npz", "calibration.json", "settings.json", "metrics.json"}
)


class Manifest(msgspec.Struct, frozen=True):
    """What `manifest.json` holds."""

    format: int
    name: str
    version: str
    files: dict[str, str]  # file name -> sha256


class Settings(msgspec.Struct, frozen=True):
    """What `settings.json` holds: all that is needed to run the model, and where it came from."""

    shape: Shape
    scale: Scale
    horizon_ms: int
    fingerprint: str  # of the training data
    events: int  # rows it was trained on
    train: dict[str, object]  # the training settings


class Names(msgspec.Struct, frozen=True):
    """What `vocabulary.json` holds."""

    items: list[str]
    categories: list[str]
    buckets: int


class Content(msgspec.Struct, frozen=True):
    """A model folder in memory, TorchScript still as bytes."""

    step: bytes
    vocabulary: Vocabulary
    tables: Tables
    calibration: Calibration
    settings: Settings
    metrics: dict[str, object]


def write(content: Content, folder: Path, name: str, sign_key: Path | None = None) -> Manifest:
    """Write a model folder, all or nothing; a model that stands there already is replaced.

    `sign_key` is the file of the private key that signs it. Raises ModelError where the path holds something that
    is not a model, and where the key cannot be used.
    """
    key = None if sign_key is None else signing.private_key(sign_key)
    if folder.exists() and not (folder / MANIFEST).is_file():
        if not folder.is_dir() or any(folder.iterdir()):
            raise ModelError(f"{folder} exists and is not a model folder: choose another path for the model.")
        folder.rmdir()
    vocabulary = content.vocabulary
    names = Names(vocabulary.items.ids, vocabulary.categories.ids, vocabulary.items.buckets)
    arrays = io.BytesIO()
    np.savez(arrays, **content.tables._asdict())
    encode = msgspec.json.encode
    files = {
        "step.ts": content.step,
        "vocabulary.json": encode(names),
        "candidates.npz": arrays.getvalue(),
        "calibration.json": encode(content.calibration),
        "settings.json": msgspec.json.format(encode(content.settings)),
        "metrics.json": msgspec.json.format(encode(content.metrics)),
    }
    sums = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    version = hashlib.sha256("".join(f"{file} {sums[file]}\n" for file in sorted(sums)).encode()).hexdigest()
    manifest = Manifest(FORMAT, name, version[:12], sums)
    files[MANIFEST] = msgspec.json.format(encode(manifest))
    if key is not None:
        files[signing.SIGNATURE] = key.sign(files[MANIFEST])
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for file, data in files.items():
        (fresh / file).write_bytes(data)
    if folder.exists():
        shutil.rmtree(folder)
    fresh.rename(folder)
    return manifest


def read(folder: Path, model_key: Path | None = None) -> tuple[Manifest, Content]:
    """Return a model folder's manifest and content, every checksum verified. Raises ModelError.

    With `model_key`, a file of public keys, the manifest must be signed by one of them: that is checked before
    anything else of the folder is looked at.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelError(
            f"There is no model at {folder}: make one with `foreclick train`, or correct the path."
        )
    written = path.read_bytes()
    if model_key is not None:
        signing.verify(folder, written, model_key)
    try:
        head = msgspec.json.decode(written)
        found = head.get("format") if isinstance(head, dict) else None
        if found != FORMAT:
            raise ModelError(
                f"The model at {folder} has format {found}, this program reads {FORMAT}: train it again."
            )
        manifest = msgspec.convert(head, Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(folder, MANIFEST) from error
    if set(manifest.files) != FILES:
        raise ModelError(f"The model at {folder} is of another release (other files): train it again.")
    files: dict[str, bytes] = {}
    for file, checksum in manifest.files.items():
        try:
            files[file] = (folder / file).read_bytes()
        except FileNotFoundError:
            raise ModelError(
                f"The model at {folder} lacks {file}: copy the whole folder again, or train it again."
            ) from None
        if hashlib.sha256(files[file]).hexdigest() != checksum:
            raise _damaged(folder, file)
    try:
        names = msgspec.json.decode(files["vocabulary.json"], type=Names)
        with np.load(io.BytesIO(files["candidates.npz"]), allow_pickle=False) as arrays:
            tables = Tables(**{name: arrays[name] for name in Tables._fields})
        content = Content(
            step=files["step.ts"],
            vocabulary=Vocabulary(Index(names.items, names.buckets), Index(names.categories, names.buckets)),
            tables=tables,
            calibration=msgspec.json.decode(files["calibration.json"], type=Calibration),
            settings=msgspec.json.decode(files["settings.json"], type=Settings),
            metrics=msgspec.json.decode(files["metrics.json"], type=dict[str, object]),
        )
    except (KeyError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise ModelError(
            f"The model at {folder} is of another release and cannot be read ({error}): train it again."
        ) from error
    return manifest, content


def _damaged(folder: Path, file: str) -> ModelError:
    return ModelError(
        f"The model at {folder} is damaged ({file} has changed): copy it again, or train it again."
    )
