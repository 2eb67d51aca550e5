"""Signed model folders: a model changed after the signature, or signed with another key, is not loaded."""

import io
import json
import os
import pickle
import shutil
import subprocess
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as new_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from model.artifact import signing
from model.serving.runtime import ModelError, Runtime
from model.training.export import export
from model.training.train import Trained


class Keys(NamedTuple):
    """The files of a private key and its public key."""

    private: Path
    public: Path


def make_keys(folder: Path, name: str) -> Keys:
    key = Ed25519PrivateKey.generate()
    keys = Keys(folder / f"{name}.pem", folder / f"{name}.pub")
    keys.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    keys.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return make_keys(tmp_path, "sign")


@pytest.fixture
def signed(trained: Trained, tmp_path: Path, keys: Keys) -> Path:
    """A signed model folder of this test."""
    export(trained, tmp_path / "signed", "tiny", keys.private)
    return tmp_path / "signed"


def load(folder: Path, key: Path | None) -> Runtime:
    return Runtime.load(folder, "cpu", model_key=key)


def with_new_checksum(folder: Path, file: str) -> None:
    """Write the checksum of a changed file into the manifest, as an attacker who knows the format would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][file] = sha256((folder / file).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_signed_model_loads_with_and_without_the_key(signed: Path, keys: Keys, trained: Trained) -> None:
    """The signature changes neither content nor version, and is not needed if no key is set."""
    unsigned = export(trained, signed.with_name("plain"), "tiny")
    assert load(signed, keys.public).label == load(signed, None).label == unsigned


def test_an_unsigned_model_is_refused_where_a_key_is_given(folder: Path, keys: Keys) -> None:
    """The message names the folder, the key and the option that signs."""
    with pytest.raises(ModelError, match=r"is not signed.*sign\.pub.*--sign-key"):
        load(folder, keys.public)
    assert load(folder, None)


def test_another_key_is_refused(signed: Path, tmp_path: Path) -> None:
    """A signature by an untrusted key is refused."""
    with pytest.raises(ModelError, match=r"does not fit.*other\.pub"):
        load(signed, make_keys(tmp_path, "other").public)


def test_one_of_several_keys_is_enough(signed: Path, keys: Keys, tmp_path: Path) -> None:
    """During a change of keys, a file with the old and the new public key accepts models of both."""
    both = tmp_path / "both.pub"
    both.write_bytes(make_keys(tmp_path, "new").public.read_bytes() + keys.public.read_bytes())
    assert load(signed, both)


@pytest.mark.parametrize("file", ["step.ts", "vocabulary.json", "candidates.npz", "metrics.json"])
def test_a_tampered_file_is_refused(signed: Path, keys: Keys, file: str) -> None:
    """A changed file has a wrong checksum; with a new checksum in the manifest, the signature is wrong."""
    content = bytearray((signed / file).read_bytes())
    content[len(content) // 2] ^= 1
    (signed / file).write_bytes(content)
    with pytest.raises(ModelError, match=f"damaged.*{file}"):
        load(signed, keys.public)
    with_new_checksum(signed, file)
    with pytest.raises(ModelError, match="does not fit"):
        load(signed, keys.public)


def test_a_tampered_manifest_is_refused(signed: Path, keys: Keys) -> None:
    """An added byte, another name, or invalid JSON: the signature is checked before the content."""
    manifest = signed / "manifest.json"
    whole = manifest.read_bytes()
    for changed in (whole + b" ", whole.replace(b"tiny", b"tinx"), b"{", b""):
        manifest.write_bytes(changed)
        with pytest.raises(ModelError, match="does not fit"):
            load(signed, keys.public)
    manifest.write_bytes(whole)
    assert load(signed, keys.public)


@pytest.mark.parametrize("content", [b"", b"x" * 64, b"x" * 63, b"x" * 100_000])
def test_a_broken_signature_is_refused(signed: Path, keys: Keys, content: bytes) -> None:
    """A damaged signature of any length is refused."""
    (signed / signing.SIGNATURE).write_bytes(content)
    with pytest.raises(ModelError, match="does not fit"):
        load(signed, keys.public)


def test_a_signature_of_another_model_is_refused(trained: Trained, signed: Path, keys: Keys) -> None:
    """A valid signature of another manifest is refused."""
    other = signed.with_name("other")
    export(trained, other, "another-name", keys.private)
    shutil.copy(other / signing.SIGNATURE, signed / signing.SIGNATURE)
    with pytest.raises(ModelError, match="does not fit"):
        load(signed, keys.public)


def test_a_bad_key_says_what_to_do(trained: Trained, signed: Path, keys: Keys, tmp_path: Path) -> None:
    """Errors for a missing file, no key, the private key instead of the public one, another kind, a password."""
    nothing, other, locked = (tmp_path / name for name in ("nothing", "other.pem", "locked.pem"))
    nothing.write_text("no key")
    elliptic = new_ec_key(SECP256R1())
    other.write_bytes(elliptic.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    lock = BestAvailableEncryption(b"a-password")
    locked.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    for key in (tmp_path / "missing", nothing, other, locked, keys.public):
        with pytest.raises(ModelError, match=r"cannot be read|openssl genpkey -algorithm ed25519"):
            export(trained, tmp_path / "new", "tiny", key)
    assert not (tmp_path / "new").exists(), "nothing is written without the signature"
    other.write_bytes(elliptic.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for key in (tmp_path / "missing", nothing, other, keys.private):
        with pytest.raises(ModelError, match=r"cannot be read|openssl pkey"):
            load(signed, key)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
def test_openssl_makes_keys_signs_and_verifies(trained: Trained, tmp_path: Path) -> None:
    """The commands of the operations page: openssl makes the keys and verifies our signature; we accept its own."""

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    openssl("genpkey", "-algorithm", "ed25519", "-out", "sign.pem")
    openssl("pkey", "-in", "sign.pem", "-pubout", "-out", "sign.pub")
    export(trained, tmp_path / "m", "tiny", tmp_path / "sign.pem")
    files = ("-rawin", "-in", "m/manifest.json")
    openssl("pkeyutl", "-verify", "-pubin", "-inkey", "sign.pub", *files, "-sigfile", "m/manifest.sig")
    (tmp_path / "m" / "manifest.sig").unlink()
    openssl("pkeyutl", "-sign", "-inkey", "sign.pem", *files, "-out", "m/manifest.sig")
    assert load(tmp_path / "m", tmp_path / "sign.pub")


# --- without a key: the effect of a file in a folder with correct checksums


class Shell:
    """Runs a command when it is unpickled by Python."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.made}",)


def test_a_pickle_in_the_script_is_not_run(folder: Path, tmp_path: Path) -> None:
    """Each pickle of the TorchScript file is replaced by one that would start a shell: refused, and not run."""
    made = tmp_path / "made"
    pickle.loads(pickle.dumps(Shell(made)))
    assert made.exists(), "the pickle would run"
    made.unlink()
    for part in ("/data.pkl", "/constants.pkl"):
        bad = Path(shutil.copytree(folder, tmp_path / part.strip("/")))
        fresh = io.BytesIO()
        with zipfile.ZipFile(folder / "step.ts") as old, zipfile.ZipFile(fresh, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                new.writestr(name, pickle.dumps(Shell(made), 2) if name.endswith(part) else content)
        (bad / "step.ts").write_bytes(fresh.getvalue())
        with_new_checksum(bad, "step.ts")
        with pytest.raises(ModelError, match=r"cannot read step\.ts"):
            load(bad, None)
        assert not made.exists()


def test_a_pickle_in_an_array_is_not_run(folder: Path, tmp_path: Path) -> None:
    """An array of Python objects would be unpickled by numpy: refused, and not run."""
    bad, made = Path(shutil.copytree(folder, tmp_path / "bad")), tmp_path / "made"
    with np.load(folder / "candidates.npz") as arrays:
        names = list(arrays)
    np.savez(bad / "candidates.npz", **{name: np.array([Shell(made)], object) for name in names})
    with_new_checksum(bad, "candidates.npz")
    with pytest.raises(ModelError, match="Object arrays cannot be loaded"):
        load(bad, None)
    assert not made.exists()


def test_a_manifest_names_no_files_outside_its_folder(folder: Path, tmp_path: Path) -> None:
    """A file name with a path, or a file that is not part of a model, is refused before anything is read."""
    bad = Path(shutil.copytree(folder, tmp_path / "bad"))
    (tmp_path / "outside").write_text("x")
    shutil.copy(tmp_path / "outside", bad / "more")
    for name in ("../outside", "more", str(tmp_path / "outside")):
        shutil.copy(folder / "manifest.json", bad / "manifest.json")
        with_new_checksum(bad, name)
        with pytest.raises(ModelError, match="other files"):
            load(bad, None)
