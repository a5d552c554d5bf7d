"""Who takes part: one licence, one key, one vote.

A key that was ever enrolled is never taken again, and a licence has at most one merchant at a time; a merchant whose key
was lost is revoked and enrolled with a new one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.hazmat.primitives.serialization.ssh import load_ssh_public_key

from common.errors import UserError
from common.files import sha256, write_atomic
from common.privacy.keys import load_public_key, public_hex, public_path
from server.config import load_coordinator
from server.deploy.layout import Layout

A_NAME = re.compile(r"[a-z0-9-]{1,64}")


@dataclass(frozen=True)
class Enrolled:
    """One merchant: `name` is its id in the federation, `key` the PEM of its node's public key."""

    name: str
    licence: str
    key: str
    node: int
    revoked: bool = False

    @property
    def fingerprint(self) -> str:
        """The first 16 hex digits of the key's SHA-256: what people compare."""
        return sha256(self.key.encode())[:16]


def read_merchants(layout: Layout) -> list[Enrolled]:
    """Return everybody who was ever enrolled, revoked ones too."""
    if not layout.merchants.exists():
        return []
    try:
        return [Enrolled(**one) for one in json.loads(layout.merchants.read_text("utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{layout.merchants} cannot be read: {error}; restore it from a backup") from None


def names_of_nodes(layout: Layout) -> dict[int, str]:
    """Return node id -> name of every merchant that may take part."""
    return {one.node: one.name for one in read_merchants(layout) if not one.revoked}


def enroll(layout: Layout, key_file: Path, name: str, licence: str, register: Callable[[bytes], int]) -> Enrolled:
    """Register a merchant's public key and return the entry; `register(PEM)` gives the node's id.

    Raises `UserError` for a key that is none, and for a key, name or licence that is taken.
    """
    if not A_NAME.fullmatch(name):
        raise UserError(
            f"--name {name!r}: lower-case letters, digits and hyphens, at most 64; the shop's id in merchant.toml"
        )
    if not licence.strip() or not licence.isprintable():
        raise UserError(f"--licence {licence!r}: the number of the shop's business licence")
    key = read_node_key(key_file)
    merchants = read_merchants(layout)
    _check_free(merchants, key, name, licence.strip())
    entry = Enrolled(name, licence.strip(), key, register(key.encode()))
    _write(layout, [*merchants, entry])
    write_atomic(layout.invitations / f"{name}.json", json.dumps(invitation(layout, entry), indent=1) + "\n")
    return entry


def _check_free(merchants: list[Enrolled], key: str, name: str, licence: str) -> None:
    for one in merchants:
        if one.key == key:
            state = "revoked" if one.revoked else "enrolled"
            raise UserError(
                f"the key {one.fingerprint} is {state} as {one.name}; a merchant needs a new key: `fugou merchant join --new-key`"
            )
        if not one.revoked and name == one.name:
            raise UserError(f"{name} is enrolled already with key {one.fingerprint}; revoke it first")
        if not one.revoked and licence == one.licence:
            raise UserError(f"licence {licence} is enrolled already as {one.name}: one licence, one key, one vote")


def revoke(layout: Layout, name: str, unregister: Callable[[int], None]) -> Enrolled:
    """Take a merchant out and return its entry; its key is never taken again."""
    merchants = read_merchants(layout)
    found = [one for one in merchants if one.name == name and not one.revoked]
    if not found:
        known = ", ".join(one.name for one in merchants if not one.revoked) or "nobody"
        raise UserError(f"no merchant {name!r} is enrolled; there is {known}")
    _write(layout, [replace(one, revoked=True) if one is found[0] else one for one in merchants])
    (layout.invitations / f"{name}.json").unlink(missing_ok=True)
    unregister(found[0].node)
    return replace(found[0], revoked=True)


def invitation(layout: Layout, entry: Enrolled) -> dict[str, object]:
    """Return what a merchant needs to join: where to, which certificate authority, whose signature, as whom."""
    return {
        "format": "fugou-invitation-v1",
        "federation": layout.federation,
        "name": load_coordinator(layout.root).coordinator.name,
        "address": load_coordinator(layout.root).coordinator.address,
        "authority": layout.authority.read_text("ascii"),
        "coordinator_key": public_hex(load_public_key(public_path(layout.key))),
        "merchant": entry.name,
        "node": str(entry.node),
        "key": entry.fingerprint,
    }


def read_node_key(path: Path) -> str:
    """Return a node's public key in PEM from its OpenSSH file; raise `UserError` for anything but a NIST curve's key."""
    try:
        key = load_ssh_public_key(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the public key {path}: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UserError(f"{path} is no OpenSSH public key; the merchant's is keys/node.pub") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UserError(f"{path} is no elliptic-curve key; the merchant's is keys/node.pub")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _write(layout: Layout, merchants: list[Enrolled]) -> None:
    write_atomic(layout.merchants, json.dumps([asdict(one) for one in merchants], indent=1) + "\n", mode=0o600)
