from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from common.errors import UserError
from common.privacy import keys


def test_a_key_is_readable_by_its_owner_only_and_has_its_public_half_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "officer"
    made = keys.create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.public_hex(keys.load_key(path).public_key()) == keys.public_hex(made.public_key())
    assert keys.public_hex(keys.load_public_key(path.with_name("officer.pub"))) == keys.public_hex(made.public_key())
    assert len(keys.fingerprint(made.public_key())) == 16


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    keys.create_key(tmp_path / "ledger")
    before = (tmp_path / "ledger").read_bytes()
    with pytest.raises(UserError, match="exists"):
        keys.create_key(tmp_path / "ledger")
    assert (tmp_path / "ledger").read_bytes() == before


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keys.create_key(tmp_path / "ledger")
    (tmp_path / "ledger").chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        keys.load_key(tmp_path / "ledger")


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_something_else_than_a_key_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd"
    path.write_bytes(content)
    path.chmod(0o600)
    for load in (keys.load_key, keys.load_public_key):
        with pytest.raises(UserError, match="odd") as caught:
            load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot read"):
        keys.load_key(tmp_path / "missing")


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    other = Ed448PrivateKey.generate()
    path = tmp_path / "other"
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(UserError, match="Ed25519"):
        keys.load_key(path)
    path.write_bytes(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(UserError, match="Ed25519"):
        keys.load_public_key(path)


def test_a_signature_holds_for_its_key_and_message_only(tmp_path: Path) -> None:
    one, two = keys.create_key(tmp_path / "one"), keys.create_key(tmp_path / "two")
    signature = one.sign(b"tea")
    assert keys.holds(one.public_key(), signature, b"tea")
    assert not keys.holds(one.public_key(), signature, b"coffee")
    assert not keys.holds(two.public_key(), signature, b"tea")
    assert not keys.holds(one.public_key(), b"short", b"tea")
