"""A model folder: the same answers after loading, and a clear message for each possible damage."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from model.artifact.model_folder import check_target
from model.evaluation import playback
from model.serving.runtime import ModelError, Runtime
from model.training import fit_calibration
from model.training.export import export
from model.training.train import Trained
from tests.model.tiny import tiny_interactions


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_loaded_model_answers_as_the_trained_one(runtime: Runtime, trained: Trained) -> None:
    """Every answer is the same, bit for bit, before export and after loading."""
    fresh = fit_calibration.runtime(trained.content, trained.network)
    data = tiny_interactions(4, users=6)
    batch = playback.whole_batch(fresh, data)
    loaded = runtime.step(runtime.hidden_states(6), batch)
    for name, column in vars(fresh.step(fresh.hidden_states(6), batch)).items():
        np.testing.assert_array_equal(getattr(loaded, name), column, err_msg=name)


def test_the_version_follows_from_the_content(trained: Trained, tmp_path: Path) -> None:
    """The same model gets the same label anywhere; another name changes only the name."""
    label = export(trained, tmp_path / "one", "tiny")
    assert export(trained, tmp_path / "elsewhere" / "two", "tiny") == label
    assert export(trained, tmp_path / "one", "other").split("@") == ["other", label.split("@")[1]]
    assert Runtime.load(tmp_path / "one").label == f"other@{label.split('@')[1]}"


def test_export_never_overwrites_something_else(trained: Trained, tmp_path: Path) -> None:
    """A folder with foreign files and a plain file are not changed."""
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ModelError, match=r"notes\.txt.* not (part of a model|a model folder)"):
            export(trained, path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_beside_a_model_is_never_removed(trained: Trained, tmp_path: Path) -> None:
    """A model is replaced by the next one, unless its folder contains another file."""
    folder = tmp_path / "model"
    export(trained, folder)
    export(trained, folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"notes\.txt"):
        export(trained, folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert Runtime.load(folder)


def test_a_link_to_a_model_stays_a_link(trained: Trained, tmp_path: Path) -> None:
    """The target of a link is replaced, as for `ln -s shop-3 shop`, and the link stays."""
    export(trained, tmp_path / "shop-3", "old")
    (tmp_path / "shop").symlink_to("shop-3")
    export(trained, tmp_path / "shop", "new")
    assert (tmp_path / "shop").is_symlink()
    assert Runtime.load(tmp_path / "shop-3").label.startswith("new@")


def test_a_path_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """A parent that is a file and a file system without folders are reported before the training."""
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file" / "model", Path("/proc/model")):
        with pytest.raises(ModelError, match="cannot be written"):
            check_target(path)
    check_target(tmp_path / "new" / "model")
    assert not (tmp_path / "new" / "model").exists()


def test_a_full_disk_keeps_the_model_before(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed export no partial files are left, and the earlier model still works."""
    export(trained, tmp_path / "model", "old")
    written = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "settings.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ModelError, match="the disk is full"):
        export(trained, tmp_path / "model", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert Runtime.load(tmp_path / "model").label.startswith("old@")


def test_a_missing_folder_says_how_to_make_one(tmp_path: Path) -> None:
    """The message names the path and the command."""
    with pytest.raises(ModelError, match=r"no model at .*nowhere.*foreclick train"):
        Runtime.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "file",
    ["step.ts", "vocabulary.json", "candidates.npz", "calibration.json", "settings.json", "metrics.json"],
)
def test_every_file_is_checked(copied: Path, file: str) -> None:
    """One changed byte, a cut tail or a lost file of any kind is noticed and named."""
    path = copied / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"damaged.*{file}"):
        Runtime.load(copied)
    path.write_bytes(content[:-5])
    with pytest.raises(ModelError, match=f"damaged.*{file}"):
        Runtime.load(copied)
    path.unlink()
    with pytest.raises(ModelError, match=f"lacks {file}"):
        Runtime.load(copied)


def test_a_broken_or_foreign_manifest_is_refused(copied: Path) -> None:
    """Invalid JSON, JSON with other fields, a short list of files, another format: each has its message."""
    manifest = copied / "manifest.json"
    whole = json.loads(manifest.read_text())
    for broken in (b"", b"\xff\xfe", b"{", json.dumps(whole | {"name": 3}).encode()):
        manifest.write_bytes(broken)
        with pytest.raises(ModelError, match=r"damaged.*manifest\.json"):
            Runtime.load(copied)
    for other in ([1], whole | {"format": whole["format"] + 1}):
        manifest.write_text(json.dumps(other))
        with pytest.raises(ModelError, match=r"format .* train it again"):
            Runtime.load(copied)
    files = {name: checksum for name, checksum in whole["files"].items() if name != "settings.json"}
    manifest.write_text(json.dumps(whole | {"files": files}))
    with pytest.raises(ModelError, match="train it again"):
        Runtime.load(copied)


def test_devices_are_chosen_or_refused_clearly(folder: Path) -> None:
    """An unknown device is refused by name; auto always finds one."""
    with pytest.raises(ModelError, match="'abacus'"):
        Runtime.load(folder, device="abacus")
    assert Runtime.load(folder).device.type in ("cpu", "cuda")
