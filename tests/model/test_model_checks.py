"""No model folder crashes the process: each wrong shape, type, range and file gives one sentence, or answers.

All checksums are correct, as an attacker who knows the format would write them. A separate process loads the folders,
since a crash would end it.
"""

import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.network import torchscript
from model.serving.runtime import ModelError, Runtime

LIMIT_S = 240
TABLES = ("followers", "strength", "category_best", "popular", "successors")
WEIGHTS = (
    "item", "category", "kind", "gap", "hour", "shortcut", "input_weight", "state_weight", "input_bias",
    "state_bias", "item_bias", "head_weight", "head_bias", "reference_items", "reference_bias",
)  # fmt: skip
ENDS = (-(2**63), -(2**31), -2, -1, 0, 1, 2**20, 2**30, 2**31 - 1, 2**63 - 1, 10**30)

Array = np.ndarray[Any, Any]
Change = Callable[[Path], None]


def seal(folder: Path, file: str) -> None:
    """Write the file's checksum into the manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][file] = sha256((folder / file).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def answers(folders: list[Path]) -> dict[Path, str]:
    """Return the answer of a process to each folder; fail if one of them ends it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.model.answers"],
        input="".join(f"{folder}\n" for folder in folders),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"exit {done.returncode} at {lines[-1]}\n{done.stderr[-2000:]}"
    return {Path(folder): said for folder, _, said in (line.partition("\t") for line in lines)}


def apply(folder: Path, tmp_path: Path, changes: dict[str, Change]) -> dict[str, str]:
    """Copy the folder for each change, and return the answer of a process to it."""
    made = {name: tmp_path / str(number) for number, name in enumerate(changes)}
    for name, change in changes.items():
        shutil.copytree(folder, made[name])
        change(made[name])
    said = answers(list(made.values()))
    return {name: said[path] for name, path in made.items()}


def array_change(name: str, change: Callable[[Array], Array], folder: Path) -> None:
    with np.load(folder / "candidates.npz") as arrays:
        tables = dict(arrays)
    tables[name] = change(tables[name].copy())
    np.savez(folder / "candidates.npz", **tables)
    seal(folder, "candidates.npz")


def put(value: float, at: int, array: Array) -> Array:
    array.reshape(-1)[at] = value
    return array


def array_changes() -> Iterator[tuple[str, Change]]:
    shapes: dict[str, Callable[[Array], Array]] = {
        "one row": lambda a: a[:1],
        "no row": lambda a: a[:0],
        "a row less": lambda a: a[:-1],
        "a row more": lambda a: np.concatenate((a, a[:1])),
        "a column less": lambda a: a[..., :-1],
        "flat": lambda a: a.reshape(-1),
        "deep": lambda a: a[None],
        "a number": lambda a: np.array(a.reshape(-1)[0]),
        "64 bits": lambda a: a.astype(a.dtype.str.replace("4", "8")),
        "16 bits": lambda a: a.astype(a.dtype.str.replace("4", "2")),
        "other bytes": lambda a: a.astype(a.dtype.newbyteorder()),
        "bool": lambda a: a.astype(bool),
        "text": lambda a: a.astype("U8"),
        "columns first": np.asfortranarray,
        "complex": lambda a: a.astype(complex),
    }
    for table in TABLES:
        for name, change in shapes.items():
            yield f"{table}: {name}", partial(array_change, table, change)
        values = (np.nan, np.inf, -np.inf) if table == "strength" else (-(2**31), -2, 40, 2**30, 2**31 - 1)
        for value in values:
            for at in (0, -1):
                yield f"{table}[{at}] = {value}", partial(array_change, table, partial(put, value, at))


def test_no_table_of_candidates_ends_the_process(folder: Path, tmp_path: Path) -> None:
    """Each table with 15 other shapes and types and with values beyond both ends, first and last."""
    said = apply(folder, tmp_path, dict(array_changes()))
    assert len(said) > 100
    same = {name for name, text in said.items() if text == "ok"}
    assert same == {f"{table}: columns first" for table in TABLES} | {"popular: flat"}
    assert all("cannot be used" in text or "cannot be read" in text for text in said.values() if text != "ok")


def set_at(file: str, path: tuple[str | int, ...], value: object, folder: Path) -> None:
    whole = json.loads((folder / file).read_text())
    inner = whole
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    (folder / file).write_text(json.dumps(whole))
    seal(folder, file)


def json_changes() -> Iterator[tuple[str, Change]]:
    numbers: dict[str, list[tuple[str | int, ...]]] = {
        "vocabulary.json": [("buckets",)],
        "settings.json": [
            ("shape", "item_rows"), ("shape", "known_items"), ("shape", "category_rows"), ("shape", "hidden"),
            ("horizon_ms",), ("scale", "mean", 0), ("scale", "deviation", 3),
        ],
        "calibration.json": [
            ("boost",), ("purchase", "y", 0), ("surprise", "y", -1), ("surprise_item", "x", 0),
            ("tails", "clicks_1m", "x", -1),
        ],
    }  # fmt: skip
    for file, paths in numbers.items():
        for path in paths:
            for value in (*ENDS, 1e308, "3", None, [], -5):
                yield f"{file} {path} = {value!r}", partial(set_at, file, path, value)
    others: list[tuple[str, tuple[str | int, ...], object]] = [
        ("vocabulary.json", ("items",), []),
        ("vocabulary.json", ("items",), [f"i{number}" for number in range(300_000)]),
        ("vocabulary.json", ("items",), [f"i{number}" for number in range(39)]),
        ("vocabulary.json", ("items",), ["same"] * 40),
        ("vocabulary.json", ("categories",), ["one"]),
        ("vocabulary.json", ("categories",), []),
        ("settings.json", ("scale", "mean"), []),
        ("settings.json", ("scale", "mean"), [0.0] * 1000),
        ("calibration.json", ("purchase", "x"), []),
        ("calibration.json", ("purchase",), {"x": [], "y": []}),
        ("calibration.json", ("tails",), {}),
    ]
    for number, (file, at, what) in enumerate(others):
        yield f"{file} {at} other {number}", partial(set_at, file, at, what)


@pytest.mark.slow
def test_no_setting_ends_the_process(folder: Path, tmp_path: Path) -> None:
    """Each number of the JSON files at both ends of 32 and 64 bits and as another type; cut and long vocabularies."""
    said = apply(folder, tmp_path, dict(json_changes()))
    fine = {name for name, text in said.items() if text == "ok"}
    bad = {name for name in said if "buckets" in name or "other" in name or "shape" in name}
    assert not fine & bad
    assert len(said) > 150


def weight_changes(folder: Path) -> Iterator[tuple[str, Change]]:
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "a row less": lambda t: t[:-1].clone(),
        "a row more": lambda t: torch.cat((t, t[:1])),
        "no row": lambda t: t[:0].clone(),
        "flat": lambda t: t.reshape(-1).clone() if t.ndim > 1 else t[None].clone(),
        "a column less": lambda t: t[..., :-1].clone(),
        "64 bits": lambda t: t.double(),
        "integers": lambda t: t.int(),
        "NaN": lambda t: torch.full_like(t, torch.nan),
        "one inf": lambda t: t.clone().index_fill_(0, torch.tensor([len(t) - 1]), torch.inf),
        "sparse": lambda t: t.to_sparse(),
    }
    for weight in WEIGHTS:
        for name, change in changes.items():
            yield f"{weight}: {name}", partial(weight_change, weight, change)
    for name in ("hidden", "known_items", "none_item", "chunk"):
        for value in (-1, 0, 7, 2**20, 2**40):
            yield f"{name} = {value}", partial(number_change, name, value)


def weight_change(name: str, change: Callable[[torch.Tensor], torch.Tensor], folder: Path) -> None:
    step = torchscript.from_bytes((folder / "step.ts").read_bytes(), torch.device("cpu"))
    fresh = change(getattr(step, name).detach())
    held = dict(step.named_parameters())
    setattr(step, name, torch.nn.Parameter(fresh, requires_grad=False) if name in held else fresh)
    (folder / "step.ts").write_bytes(torchscript.to_bytes(step))
    seal(folder, "step.ts")


def number_change(name: str, value: int, folder: Path) -> None:
    step = torchscript.from_bytes((folder / "step.ts").read_bytes(), torch.device("cpu"))
    setattr(step, name, value)
    (folder / "step.ts").write_bytes(torchscript.to_bytes(step))
    seal(folder, "step.ts")


@pytest.mark.slow
def test_no_weight_ends_the_process(folder: Path, tmp_path: Path) -> None:
    """Each weight with ten other shapes, types and values; each number of the script at its ends."""
    said = apply(folder, tmp_path, dict(weight_changes(folder)))
    fine = {name for name, text in said.items() if text == "ok"}
    assert fine <= {"chunk = 7", f"chunk = {2**20}", f"chunk = {2**40}"}
    assert len(said) > 150


def damaged(content: bytes, random_: random.Random) -> bytes:
    """Some bytes replaced, a piece cut out or doubled, a length at the end of its range."""
    data = bytearray(content)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(data))
        match random_.randrange(4):
            case 0:
                data[at] ^= 1 << random_.randrange(8)
            case 1:
                del data[at : at + random_.randint(1, 64)]
            case 2:
                data[at:at] = data[at : at + random_.randint(1, 64)]
            case _:
                data[at : at + 4] = struct.pack("<I", random_.choice((0, 1, 2**31 - 1, 2**32 - 1)))
    return bytes(data)


def damage(file: str, seed: int, folder: Path) -> None:
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(damaged(content, random.Random(seed)))
    seal(folder, file)


def repack(file: str, seed: int, folder: Path) -> None:
    """Damage an entry of an archive and correct its checksum in the archive."""
    chance = random.Random(seed)
    fresh = io.BytesIO()
    with zipfile.ZipFile(folder / file) as old, zipfile.ZipFile(fresh, "w") as new:
        chosen = chance.choice([entry.filename for entry in old.infolist() if ".npy" in entry.filename])
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry, damaged(content, chance) if entry.filename == chosen else content)
    (folder / file).write_bytes(fresh.getvalue())
    seal(folder, file)


@pytest.mark.slow
def test_no_damaged_file_ends_the_process(folder: Path, tmp_path: Path) -> None:
    """Random (seeded) damage of each file; the archives also with correct checksums of their entries."""
    changes: dict[str, Change] = {}
    for file in sorted(json.loads((folder / "manifest.json").read_text())["files"]):
        changes |= {f"{file} {seed}": partial(damage, file, seed) for seed in range(25)}
    changes |= {f"repacked {seed}": partial(repack, "candidates.npz", seed) for seed in range(60)}
    said = apply(folder, tmp_path, changes)
    assert len(said) == 210


@pytest.mark.parametrize("file", ["metrics.json", "step.ts", "manifest.json"])
def test_what_is_no_plain_file_is_one_sentence(folder: Path, tmp_path: Path, file: str) -> None:
    """Instead of a file: an endless device, a pipe without a writer, a folder, an empty file, a dangling link."""
    kinds: dict[str, Change] = {
        "endless": lambda path: path.symlink_to("/dev/zero"),
        "pipe": os.mkfifo,
        "folder": Path.mkdir,
        "circle": lambda path: path.symlink_to(path.name),
        "dangling": lambda path: path.symlink_to("nowhere"),
    }
    for name, make in kinds.items():
        copy = Path(shutil.copytree(folder, tmp_path / name))
        (copy / file).unlink()
        make(copy / file)
        with pytest.raises(ModelError):
            Runtime.load(copy, "cpu")


def test_a_file_without_an_end_is_not_read(folder: Path, tmp_path: Path) -> None:
    """A sparse file of 1 TiB costs neither time nor memory."""
    for file in ("metrics.json", "step.ts", "vocabulary.json"):
        copy = Path(shutil.copytree(folder, tmp_path / file))
        with (copy / file).open("r+b") as large:
            large.truncate(1 << 40)
        with pytest.raises(ModelError, match="MiB"):
            Runtime.load(copy, "cpu")


def test_an_archive_that_unpacks_without_an_end_is_refused(folder: Path, tmp_path: Path) -> None:
    """A compressed array of 200 MB zeros in 200 kB is not unpacked."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    with np.load(folder / "candidates.npz") as arrays:
        np.savez_compressed(copy / "candidates.npz", **dict(arrays), more=np.zeros(200_000_000, np.int8))
    seal(copy, "candidates.npz")
    with pytest.raises(ModelError, match="unpacks to much more"):
        Runtime.load(copy, "cpu")
