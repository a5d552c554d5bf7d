"""`fugou merchant report`: what was written, in words, and the exit code that says whether the ledger holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from client.report.evidence import write_evidence
from client.report.words import phrase
from client.report.write import check_formats, write_reports
from common.cli import language
from common.errors import VerificationFailed


def make(
    folder: Path,
    out: Path,
    audience: str,
    formats: str,
    evidence: Path | None,
    anchors: Sequence[tuple[int, str]] = (),
) -> Iterator[str]:
    """Yield a line for every file written, and last what may be said.

    Raises `VerificationFailed` when the ledger does not hold, after the page that says so is written, and `UserError`
    for a format that is none.
    """
    asked = list(dict.fromkeys(one.strip() for one in formats.split(",") if one.strip()))
    check_formats(asked)
    lang = language()
    shared = "shareable" if audience == "shareable" else "confidential"
    made = write_reports(folder, out, audience=shared, formats=asked, lang=lang, anchors=anchors)  # type: ignore[arg-type]
    for file in made.files:
        yield phrase(lang, "written", file=file)
    if not made.holds:
        first = made.files[0] if made.files else out
        raise VerificationFailed(phrase(lang, "silent", reason=made.finding.verdict.reason, file=first))
    if evidence is not None:
        write_evidence(folder, made, evidence, lang)
        yield phrase(lang, "written", file=evidence)
    state = phrase(lang, f"state_{made.report.status.code}")
    claim = made.report.claim.zh if lang == "zh" else made.report.claim.en
    yield phrase(lang, "told", state=state, claim=claim)
