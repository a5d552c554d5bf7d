"""The evidence pack: everything that a regulator needs to check a report, in one archive with a signed manifest.

It holds no row and no figure of any customer: policy, ledger export, the report in every form, audit, versions, bill of
materials, an appendix for the impact assessment of articles 55 and 56 of the Personal Information Protection Law (PIPL),
the schema, and the verifier. `python verify.py --pack FILE.zip` checks all of it.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import client.verifier
from client.config import LEDGER, LEDGER_KEY, OFFICER_KEY, POLICY
from client.officer import public_file
from client.report.audit import FILE as AUDIT
from client.report.model import Report, Text, schema_text
from client.report.page import figure_text
from client.report.words import Lang
from client.report.write import Made, contents
from common.charts import delta_text
from common.errors import UserError, VerificationFailed
from common.files import canonical_json, sha256, write_atomic
from common.html import templates
from common.privacy.chain import Entry
from common.privacy.keys import load_key, public_hex
from common.privacy.policy import signature_path

DOMAIN = b"fugou-evidence-v1\0"
DAY = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the archive, so that the same evidence is the same archive."""


def write_evidence(folder: Path, made: Made, file: Path, lang: Lang) -> int:
    """Write the pack of a report to `file` and return how many files are in it.

    Raises `VerificationFailed` where the ledger does not hold, `UserError` for a file that is no .zip or a missing part.
    """
    if file.suffix != ".zip":
        raise UserError(f"{file}: name it .zip, which is what it holds")
    if not made.holds:
        raise VerificationFailed(f"{made.finding.verdict.reason}: there is no evidence of a ledger that does not hold")
    files = {name: _bytes(content) for name, content in _files(folder, made, lang)}
    files["MANIFEST.json"] = _bytes(manifest(files, made.report, load_key(folder / LEDGER_KEY)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as pack:
        for name in sorted(files):
            pack.writestr(zipfile.ZipInfo(name, DAY), files[name], zipfile.ZIP_DEFLATED)
    write_atomic(file, buffer.getvalue(), mode=0o600)
    return len(files)


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _files(folder: Path, made: Made, lang: Lang) -> Iterator[tuple[str, str | bytes]]:
    """Yield name and content of everything in the pack but the manifest."""
    yield "README.txt", README
    for place in (folder / POLICY, signature_path(folder / POLICY)):
        yield place.name, _read(place)
    yield "keys/officer.pub", _read(public_file(folder, OFFICER_KEY))
    yield "keys/ledger.pub", _read(public_file(folder, LEDGER_KEY))
    yield "ledger.jsonl", export(made.finding.entries)
    yield from contents(made.report, ("html", "json", "yaml"), lang).items()
    if (folder / AUDIT).is_file():
        yield AUDIT, _read(folder / AUDIT)
    yield "versions.json", _json(made.report.generator.model_dump(mode="json"))
    yield "sbom.cdx.json", _json(bill_of_materials(made.report))
    yield "pia-appendix.html", appendix(made.report, lang)
    yield "privacy-report-1.schema.json", schema_text()
    yield "verify.py", Path(str(client.verifier.__file__)).read_bytes()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}), and the evidence needs it; restore it") from error


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def export(entries: tuple[Entry, ...]) -> str:
    """Return the ledger's entries, one a line, as `fugou merchant ledger export` writes them."""
    return "".join(canonical_json({"entry": one.body, "hash": one.hash, "sig": one.sig}) + "\n" for one in entries)


def manifest(files: Mapping[str, bytes], report: Report, key: Ed25519PrivateKey) -> str:
    """Return the manifest: what is in the pack with its digests, signed by the ledger's key."""
    said: dict[str, Any] = {
        "format": "fugou-evidence-v1",
        "merchant": report.merchant.merchant_id,
        "report": report.report_id,
        "generated_at": report.generated_at,
        "ledger": LEDGER,
        "ledger_key": public_hex(key.public_key()),
        "files": {name: sha256(content) for name, content in sorted(files.items())},
    }
    signature = key.sign(DOMAIN + canonical_json(said).encode()).hex()
    return _json(said | {"signature": signature})


def bill_of_materials(report: Report) -> dict[str, Any]:
    """Return every installed distribution as a CycloneDX 1.6 document, sorted by name."""
    found = {str(one.metadata["Name"]).lower(): one for one in distributions() if one.metadata["Name"]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": report.generated_at,
            "component": {"type": "application", "name": "fugou", "version": report.generator.version},
        },
        "components": [_component(one) for _, one in sorted(found.items())],
    }


def _component(one: Distribution) -> dict[str, Any]:
    name, version = str(one.metadata["Name"]), str(one.version)
    told = [one.metadata[key] for key in ("License-Expression", "License") if key in one.metadata]
    licence = next(filter(None, told), "")
    parts: dict[str, Any] = {
        "type": "library",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{version}",
    }
    first = str(licence).strip().split("\n")[0][:100]
    return parts | ({"licenses": [{"license": {"name": first}}]} if first else {})


def appendix(report: Report, lang: Lang) -> str:
    """Return the appendix for a personal information protection impact assessment, as a page to fill in and sign."""
    loss = report.privacy_loss
    return (
        templates(Path(__file__).parent / "templates")
        .get_template("pia.html.j2")
        .render(
            zh=lang == "zh",
            report=report,
            loss=loss,
            said=lambda text: text.said(lang) if isinstance(text, Text) else text,
            epsilon=figure_text(loss.headline.epsilon) if loss else "",
            lifetime=figure_text(loss.lifetime.epsilon) if loss else "",
            delta=delta_text(loss.headline.delta) if loss else "",
        )
    )


README = """\
隐私预算证据包 / Evidence of a privacy budget

python verify.py --pack THIS-FILE.zip      （需要 Python 3.11 与 cryptography / needs Python 3.11 and cryptography）

report.html, report.json   隐私预算报告，已签名 / the signed report
report.yaml                DP Deployments Registry 条目 / registry entry
ledger.jsonl               预算账本全部条目 / every entry of the budget ledger
policy.toml, .sig          隐私官签名的政策 / the policy signed by the privacy officer
keys/*.pub                 公钥，请经另一途径核对 / public keys, to be compared by another channel
audit.json                 经验审计（如有） / empirical audit, where there is one
pia-appendix.html          影响评估附录（个人信息保护法第55、56条），请至少保存三年 / appendix for the impact assessment
versions.json, sbom.cdx.json, privacy-report-1.schema.json, verify.py, MANIFEST.json
"""
