"""A model folder on disk: its files, their checksums and signature, and error messages about them.

`manifest.json` names the format, the model, its version and the sha256 of every other file. The version is
the hash of those checksums, so it follows from the content alone. `manifest.sig`, if there is one, signs the
manifest. Every file is read once, so the checked bytes are the bytes used. Python unpickles nothing.
"""

import errno
import hashlib
import io
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from model.artifact import checks, files, signing
from model.artifact.errors import ModelError
from model.data.calibration_curves import Calibration
from model.data.features import Scale
from model.data.vocabulary import Index, Vocabulary
from model.network.network import Shape
from model.ranking.candidates import Tables

__all__ = [
    "ANY",
    "Content",
    "Manifest",
    "ModelError",
    "StoredNames",
    "StoredSettings",
    "Wanted",
    "check_target",
    "read",
    "refuse_foreign",
    "write",
]

FORMAT = 2
MANIFEST = "manifest.json"
FILES = frozenset(
    {"step.ts", "vocabulary.json", "candidates.npz", "calibration.json", "settings.json", "metrics.json"}
)

_OURS = FILES | {MANIFEST, signing.SIGNATURE}


class Manifest(msgspec.Struct, frozen=True):
    """What `manifest.json` holds."""

    format: int
    name: str
    version: str
    files: dict[str, str]  # file name -> sha256
    created_ms: int = 0  # Unix ms of the export; 0 in folders of earlier releases


class Wanted(msgspec.Struct, frozen=True):
    """Which models are accepted: a model that is too old or has another name is refused, even if it is signed."""

    name: str = ""  # empty: any name
    not_before_ms: int = 0  # created at this Unix time or later; 0: at any time


ANY = Wanted()


class StoredSettings(msgspec.Struct, frozen=True):
    """What `settings.json` holds: all that is needed to run the model, and where it came from."""

    shape: Shape
    scale: Scale
    horizon_ms: int
    fingerprint: str  # of the training data
    events: int  # rows it was trained on
    train: dict[str, object]  # the training settings


class StoredNames(msgspec.Struct, frozen=True):
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
    settings: StoredSettings
    metrics: dict[str, object]


def write(
    content: Content, folder: Path, name: str, sign_key: Path | None = None, created_ms: int | None = None
) -> Manifest:
    """Write a model folder completely or not at all; an existing model is replaced at the end.

    `sign_key` is the file of the private key that signs it, `created_ms` the Unix time of the export (None: now).
    Raises ModelError if the path holds something that is not a model, if it cannot be written, and if the key
    cannot be used.
    """
    key = None if sign_key is None else signing.private_key(sign_key)
    check_target(folder)
    vocabulary = content.vocabulary
    names = StoredNames(vocabulary.items.ids, vocabulary.categories.ids, vocabulary.items.buckets)
    arrays = io.BytesIO()
    np.savez(arrays, **content.tables._asdict())
    encode = msgspec.json.encode
    parts = {
        "step.ts": content.step,
        "vocabulary.json": encode(names),
        "candidates.npz": arrays.getvalue(),
        "calibration.json": encode(content.calibration),
        "settings.json": msgspec.json.format(encode(content.settings)),
        "metrics.json": msgspec.json.format(encode(content.metrics)),
    }
    sums = {file: hashlib.sha256(data).hexdigest() for file, data in parts.items()}
    created = time.time_ns() // 1_000_000 if created_ms is None else created_ms
    manifest = Manifest(FORMAT, name, _version(sums), sums, created)
    parts[MANIFEST] = msgspec.json.format(encode(manifest))
    if key is not None:
        parts[signing.SIGNATURE] = key.sign(parts[MANIFEST])
    _replace(folder.resolve(), parts)  # resolved: a link to a model stays a link
    return manifest


def check_target(folder: Path) -> None:
    """Check that a model can be written to the path, and create the folder's parents. Raises ModelError otherwise.

    Call it before a training, which would otherwise discover hours later that the path cannot be written. A model
    at the path may be replaced; a folder with any other file in it is never replaced.
    """
    try:
        refuse_foreign(folder)
        fresh = _fresh(folder.resolve())
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        fresh.rmdir()
    except OSError as error:
        raise _unwritable(folder, error) from error


def refuse_foreign(folder: Path) -> None:
    """Raise ModelError if the path holds something that is not part of a model: it is never replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelError(f"{folder} exists and is not a model folder: choose another path for the model.")
    found = sorted(path.name for path in folder.iterdir())
    others = [name for name in found if name not in _OURS]
    if others or (found and MANIFEST not in found):
        what = f"holds {others[0]}, which is not part of a model" if others else "is not a model folder"
        raise ModelError(f"{folder} {what}: choose another path for the model.")


def _replace(folder: Path, parts: Mapping[str, bytes]) -> None:
    fresh, old = _fresh(folder), folder.with_name(f".{folder.name}.old")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        fresh.mkdir(parents=True)
        for file, data in parts.items():
            (fresh / file).write_bytes(data)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    except OSError as error:
        if not folder.exists() and old.exists():
            old.rename(folder)
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _fresh(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.new")


def read(folder: Path, model_key: Path | None = None, wanted: Wanted = ANY) -> tuple[Manifest, Content]:
    """Return a model folder's manifest and content, every checksum verified, all parts checked. Raises ModelError.

    With `model_key`, a file of public keys, the manifest must be signed by one of them. The signature is checked
    before any other file of the folder is read. `wanted` says which models are accepted.
    """
    try:
        written = files.read_file(folder, MANIFEST)
    except FileNotFoundError:
        raise ModelError(
            f"There is no model at {folder}: make one with `foreclick train`, or correct the path."
        ) from None
    if model_key is not None:
        signing.verify(folder, written, model_key)
    manifest = _manifest(folder, written)
    _require_wanted(folder, manifest, wanted)
    parts: dict[str, bytes] = {}
    for file, checksum in manifest.files.items():
        try:
            parts[file] = files.read_file(folder, file)
        except FileNotFoundError:
            raise ModelError(
                f"The model at {folder} lacks {file}: copy the whole folder again, or train it again."
            ) from None
        if hashlib.sha256(parts[file]).hexdigest() != checksum:
            raise _damaged(folder, file)
    try:
        content = _content(parts)
    except checks.MisfitError as error:
        raise ModelError(f"The model at {folder} cannot be used: {error}; train it again.") from error
    except (KeyError, ValueError, MemoryError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise ModelError(
            f"The model at {folder} is of another release and cannot be read ({error}): train it again."
        ) from error
    return manifest, content


def _manifest(folder: Path, written: bytes) -> Manifest:
    try:
        head = msgspec.json.decode(written)
        found = head.get("format") if isinstance(head, dict) else None
        if found != FORMAT:
            raise ModelError(
                f"The model at {folder} has format {found}, this program reads {FORMAT}: train it again."
            )
        manifest = msgspec.convert(head, Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(folder, MANIFEST) from error
    if set(manifest.files) != FILES:
        raise ModelError(f"The model at {folder} is of another release (other files): train it again.")
    return manifest


def _require_wanted(folder: Path, manifest: Manifest, wanted: Wanted) -> None:
    if wanted.name and manifest.name != wanted.name:
        raise ModelError(
            f"The model at {folder} has the name {manifest.name!r}, not {wanted.name!r}: use the right one, or "
            "change FORECLICK_MODEL_NAME."
        )
    if manifest.created_ms < wanted.not_before_ms:
        made = _iso(manifest.created_ms) if manifest.created_ms else "at an unknown time"
        raise ModelError(
            f"The model at {folder} was made {made}, before {_iso(wanted.not_before_ms)}: use a newer one, or "
            "change FORECLICK_MODEL_NOT_BEFORE."
        )


def _content(parts: Mapping[str, bytes]) -> Content:
    """Raises MisfitError if parts do not fit each other, ValueError and others if one cannot be read."""
    names = msgspec.json.decode(parts["vocabulary.json"], type=StoredNames)
    vocabulary = Vocabulary(Index(names.items, names.buckets), Index(names.categories, names.buckets))
    checks.check_vocabulary(vocabulary)
    files.check_archive(parts["candidates.npz"])
    try:
        with np.load(io.BytesIO(parts["candidates.npz"]), allow_pickle=False) as arrays:
            tables = Tables(**{name: arrays[name] for name in Tables._fields})
    except Exception as error:  # numpy reads a header with Python's tokenizer, which can raise any exception
        raise ValueError(f"candidates.npz: {error}") from error
    checks.check_tables(tables, vocabulary)
    settings = msgspec.json.decode(parts["settings.json"], type=StoredSettings)
    calibration = msgspec.json.decode(parts["calibration.json"], type=Calibration)
    checks.check_settings(settings.shape, settings.scale, settings.horizon_ms, calibration, vocabulary)
    return Content(
        step=parts["step.ts"],
        vocabulary=vocabulary,
        tables=tables,
        calibration=calibration,
        settings=settings,
        metrics=msgspec.json.decode(parts["metrics.json"], type=dict[str, object]),
    )


def _version(sums: Mapping[str, str]) -> str:
    text = "".join(f"{file} {sums[file]}\n" for file in sorted(sums))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")


def _unwritable(folder: Path, error: OSError) -> ModelError:
    why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
    return ModelError(
        f"The model cannot be written to {folder} ({why}): choose another path, or free some space."
    )


def _damaged(folder: Path, file: str) -> ModelError:
    return ModelError(
        f"The model at {folder} is damaged ({file} has changed): copy it again, or train it again."
    )
