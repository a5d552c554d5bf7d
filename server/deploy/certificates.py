"""Certificates of one federation: its own authority, and the server's certificate that it signs. All keys are P-256."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import UserError
from common.files import write_atomic

AUTHORITY_DAYS, SERVER_DAYS, RENEW_DAYS = 3650, 397, 30
"""397 days is the longest that clients of public authorities take (CA/Browser Forum baseline, 2020)."""
CA, CA_KEY, SERVER, SERVER_KEY = "ca.crt", "ca.key", "server.pem", "server.key"


def make_authority(folder: Path, name: str) -> None:
    """Write a new certificate authority: `ca.crt`, and `ca.key` for its owner only."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fugou {name}"[:64])])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        _builder(subject, subject, key, AUTHORITY_DAYS, datetime.now(UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder / CA, folder / CA_KEY, certificate, key)


def make_server_certificate(folder: Path, hosts: Sequence[str], *, now: datetime | None = None) -> None:
    """Write `server.pem` and `server.key` for `hosts`, signed by the authority in `folder`, valid from `now` on."""
    authority, authority_key = _authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    certificate = (
        _builder(subject, authority.subject, key, SERVER_DAYS, now or datetime.now(UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _write(folder / SERVER, folder / SERVER_KEY, certificate, key)


def renew(folder: Path, hosts: Sequence[str]) -> bool:
    """Make the server's certificate anew where it ends within `RENEW_DAYS` or lacks a host; return whether it was."""
    certificate = _read_certificate(folder / SERVER)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = {str(one.value) for one in names}
    due = certificate.not_valid_after_utc < datetime.now(UTC) + timedelta(days=RENEW_DAYS)
    if due or not set(hosts) <= known:
        make_server_certificate(folder, hosts)
        return True
    return False


def expiry(path: Path) -> datetime:
    """Return when the certificate at `path` ends."""
    return _read_certificate(path).not_valid_after_utc


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int, now: datetime
) -> x509.CertificateBuilder:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(identifier, critical=False)
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        key = load_pem_private_key((folder / CA_KEY).read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / CA_KEY} cannot be read: {error}; restore it from a backup") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{folder / CA_KEY} is no elliptic-curve key; restore it from a backup")
    return _read_certificate(folder / CA), key


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no certificate: {error}; restore it from a backup") from None


def _write(path: Path, key_path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    write_atomic(key_path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
    write_atomic(path, certificate.public_bytes(Encoding.PEM))
