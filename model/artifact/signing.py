"""Signatures of model folders: Ed25519 over the exact bytes of `manifest.json`, which has every file's checksum.

It is a signature and not a keyed hash, because a worker that can check signatures must not be able to make them.
Keys are PEM files and a signature is 64 raw bytes, so `openssl` can also make keys, sign and verify. This file
requires the package `cryptography`, an extra: `pip install 'foreclick[sign]'`.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from model.artifact.errors import ModelError
from model.artifact.files import read_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE = "manifest.sig"

_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)
_MAKE = "make one with `openssl genpkey -algorithm ed25519 -out sign.pem`"
_EXTRACT = "make it with `openssl pkey -in sign.pem -pubout -out sign.pub`"


def private_key(path: Path) -> "Ed25519PrivateKey":
    """Return the key that signs, from a PEM file without a password. Raises ModelError."""
    _require()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_bytes(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ModelError(f"{path} is not a private key in PEM without a password: {_MAKE}.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ModelError(f"{path} is a private key of another kind than Ed25519: {_MAKE}.")
    return key


def public_keys(path: Path) -> list["Ed25519PublicKey"]:
    """Return the keys of a PEM file, any of which may have signed (several: to change keys). Raises ModelError."""
    _require()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        keys = [load_pem_public_key(block) for block in _PUBLIC.findall(_bytes(path))]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ModelError(f"{path} is not a public key in PEM: {_EXTRACT}.") from error
    found = [key for key in keys if isinstance(key, Ed25519PublicKey)]
    if not found or len(found) < len(keys):
        raise ModelError(f"{path} must hold Ed25519 public keys in PEM, and nothing else: {_EXTRACT}.")
    return found


def verify(folder: Path, manifest: bytes, keys_file: Path) -> None:
    """Check that one of the keys made the folder's signature of `manifest`. Raises ModelError otherwise."""
    keys = public_keys(keys_file)
    from cryptography.exceptions import InvalidSignature

    try:
        signature = read_file(folder, SIGNATURE)
    except FileNotFoundError:
        raise ModelError(
            f"The model at {folder} is not signed, but must be signed with a key in {keys_file}: use one that was "
            "trained with `foreclick train --sign-key`."
        ) from None
    for key in keys:
        try:
            key.verify(signature, manifest)
        except InvalidSignature:
            continue
        return
    raise ModelError(
        f"The signature of the model at {folder} does not fit {keys_file}: its manifest was changed, or signed "
        "with another key; find out which before you use it."
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"The key {path} cannot be read ({error.strerror}): correct the path.") from error


def _require() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise ModelError(
            "Signed models need the package cryptography: pip install 'foreclick[sign]'."
        ) from error
