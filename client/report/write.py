"""Makes a merchant's reports: verified, computed, signed, noted in the ledger, written.

A ledger that does not hold still gets a page: one that says so, without any number of privacy loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.config import LEDGER, LEDGER_KEY
from client.officer import existing, verified
from client.report.data import RECORDS, Finding, build, inspect
from client.report.model import SILENT, Audience, Report
from client.report.page import page_of
from client.report.pdf import pdf_of
from client.report.registry import registry_text
from client.report.seal import digest_of, sealed, text_of
from client.report.words import Lang, phrase
from common.cli import language
from common.errors import UserError
from common.files import write_atomic
from common.privacy.keys import load_key
from common.privacy.ledger import Ledger, has_entries

FORMATS = ("html", "json", "yaml", "pdf")


@dataclass(frozen=True)
class Made:
    """A report, signed, and what was written; `finding` is what it was made from."""

    report: Report
    finding: Finding
    files: tuple[Path, ...]

    @property
    def holds(self) -> bool:
        """Whether the ledger holds."""
        return self.report.status.code not in SILENT


def write_reports(
    folder: Path,
    out: Path,
    *,
    audience: Audience = "confidential",
    formats: Sequence[str] = ("html", "json"),
    lang: Lang | None = None,
    anchors: Sequence[tuple[int, str]] = (),
    at: datetime | None = None,
    records: Sequence[int] = RECORDS,
) -> Made:
    """Write the reports of the merchant in `folder` to `out`: report.html, report.json, report.yaml, report.pdf.

    The ledger then notes the report's digest. A merchant who signed a policy and was never asked gets a ledger that
    begins with it, as its first round would make it. Raises `UserError` without keys or signed policy, and for a PDF
    that cannot be made; a ledger that does not hold is in the report and raises nothing.
    """
    key = load_key(folder / LEDGER_KEY)
    _settle(folder, key)
    finding = inspect(folder, anchors)
    report = sealed(build(finding, audience, at or datetime.now(UTC), records), key)
    written = contents(report, formats, lang or language())
    for name, content in written.items():
        write_atomic(out / name, content)
    made = Made(report, finding, tuple(out / name for name in written))
    if made.holds:
        _note(folder, key, report)
    return made


def contents(report: Report, formats: Sequence[str], lang: Lang) -> Mapping[str, str | bytes]:
    """Return file name -> content for each format asked for; a registry entry exists only where there is a claim."""
    check_formats(formats)
    page = page_of(report, lang)
    made: dict[str, str | bytes] = {}
    for one in formats:
        if one == "html":
            made["report.html"] = page
        elif one == "json":
            made["report.json"] = text_of(report)
        elif one == "pdf":
            made["report.pdf"] = pdf_of(page)
        elif report.privacy_loss is not None:
            made["report.yaml"] = registry_text(report)
    return made


def check_formats(formats: Sequence[str]) -> None:
    """Raise `UserError` for a format that is none."""
    for one in formats:
        if one not in FORMATS:
            raise UserError(phrase(language(), "bad_format", given=one, known=", ".join(FORMATS)))


def _settle(folder: Path, key: Ed25519PrivateKey) -> None:
    """Begin the ledger of a merchant who has none, and burn reservations whose processes are dead; no more is changed.

    A ledger that does not hold is left as it is.
    """
    file = folder / LEDGER
    if file.exists() and has_entries(file):
        if inspect_quickly(file, key):
            Ledger.open(file, key).close()
        return
    if not file.with_suffix(".anchor").exists():
        policy = verified(folder) if (folder / "policy.toml.sig").exists() else None
        if policy is None:
            existing(folder)
        else:
            Ledger.create(file, policy, key).close()


def inspect_quickly(file: Path, key: Ed25519PrivateKey) -> bool:
    """Return whether the chain at `file` holds by itself and by the anchor beside it."""
    from common.privacy.ledger import verify

    return verify(file, key.public_key()).ok


def _note(folder: Path, key: Ed25519PrivateKey, report: Report) -> None:
    """Write a REPORT entry: which report, of which head, with which digest."""
    detail = {
        "report": report.report_id,
        "sha256": digest_of(report),
        "audience": report.audience,
        "head": report.ledger.head_seq,
    }
    with Ledger.open(folder / LEDGER, key) as book:
        book.note("REPORT", detail)
