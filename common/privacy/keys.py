"""Ed25519 keys on disk: PEM PKCS8 readable by their owner only, the public half beside it as `NAME.pub`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from common.errors import UserError
from common.files import sha256, write_atomic


def create_key(path: Path) -> Ed25519PrivateKey:
    """Return a new private key, written to `path` with mode 0600 and its public half to `path` + `.pub`.

    Raises `UserError` when there is a file already: a key that is overwritten can never sign for its ledger again.
    """
    for place in (path, public_path(path)):
        if place.exists():
            raise UserError(f"{place} exists; keep it, or choose another name for the new key")
    key = Ed25519PrivateKey.generate()
    write_atomic(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
    write_atomic(public_path(path), key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return key


def public_path(path: Path) -> Path:
    """Return where the public half of the key at `path` lies."""
    return path.with_name(path.name + ".pub")


def load_key(path: Path) -> Ed25519PrivateKey:
    """Return the private key at `path`.

    Raises `UserError` when it is missing, no Ed25519 key, or readable by others than its owner.
    """
    data = _read(path)
    if path.stat().st_mode & 0o077:
        raise UserError(f"{path} can be read by others; chmod 600 {path}, and make a new key if others had access")
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UserError(f"{path} is no private key in PEM form without password; restore it from a backup") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path} holds a key of another kind; an Ed25519 key is needed")
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Return the public key at `path`; raises `UserError` when it is missing or no Ed25519 key."""
    data = _read(path)
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"{path} is no public key in PEM form; restore it from a backup") from error
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{path} holds a key of another kind; an Ed25519 key is needed")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the key {path}: {error.strerror}; restore it or create one") from error


def public_hex(key: Ed25519PublicKey) -> str:
    """Return the 32 bytes of a public key in hex: the form in which ledgers and signatures name it."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


@lru_cache(maxsize=64)
def public_from_hex(text: str) -> Ed25519PublicKey:
    """Return the public key written by `public_hex`; raises ValueError for anything else."""
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return the first 16 hex digits of the SHA-256 of the public key: what people compare."""
    return sha256(bytes.fromhex(public_hex(key)))[:16]


def holds(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    """Return whether `signature` over `message` was made by the owner of `key`."""
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
