"""The registry entry, the PDF and the evidence pack."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from client import verifier
from client.report.evidence import bill_of_materials, write_evidence
from client.report.model import Report
from client.report.page import page_of
from client.report.pdf import for_print, pdf_of
from client.report.registry import registry_text
from client.report.write import Made, write_reports
from common.errors import UserError, VerificationFailed
from tests.client.report.conftest import STATES, Shop, within

TEXT, STRINGS = {"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string"}, "minItems": 1}


def block(required: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a closed object with these properties, all required but those in `more`."""
    properties = required | more
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": [*required]}


def texts(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, TEXT)


REGISTRY = block(
    {
        "url_slug": TEXT,
        "status": {"enum": ["Draft"]},
        "tier": {"const": 3},
        "deployment": block(
            {
                "basic": block(
                    {
                        **texts("name", "intended_use", "data_product_region", "description", "data_product_sector"),
                        "data_curators": STRINGS,
                        "data_product_type": {"const": "Machine learning model"},
                        "publication_date": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"},
                    }
                ),
                "dp_variant": block(texts("variant_name", "data_domain", "unprotected_quantities")),
                "privacy_loss": block(
                    {
                        **texts("privacy_unit", "privacy_unit_details", "privacy_parameters_details"),
                        "privacy_parameters": block({"delta": {"type": "number"}}, epsilon={"type": "number"}),
                    }
                ),
                "deployment_model": block(
                    {
                        "model_name": {"const": "Federated"},
                        "release_type": {"const": "Many releases"},
                        "data_source_type": {"const": "Dynamic"},
                        "access_type": {"const": "Non-interactive"},
                        **texts("model_name_details", "actors", "release_type_details"),
                        **texts("data_source_type_details", "access_type_details"),
                    }
                ),
                "accounting": block(texts("post_processing", "composition")),
                "implementation": block(
                    texts("preprocessing_and_hyperparameter_tuning", "mechanisms", "justification")
                ),
                "administrative": block({"registry_authors": STRINGS}, **texts("notes", "sources")),
            }
        ),
    }
)
"""The parts of the registry's schema (opendp/deployments-registry-data, July 2026) that a tier-3 entry of ours fills."""


@pytest.mark.parametrize("code", [code for code in STATES if code not in ("unverifiable", "broken")])
def test_a_registry_entry_fills_every_block_of_tier_3(reports: dict[tuple[str, str], Report], code: str) -> None:
    report = reports[code, "shareable"]
    entry = yaml.safe_load(registry_text(report))
    jsonschema.Draft202012Validator(REGISTRY).validate(entry)
    numbers = entry["deployment"]["privacy_loss"]["privacy_parameters"]
    assert report.privacy_loss
    assert numbers.get("epsilon") == report.privacy_loss.headline.epsilon
    assert isinstance(entry["deployment"]["basic"]["publication_date"], str)
    assert "青禾" not in registry_text(reports[code, "confidential"])


def test_there_is_nothing_to_register_where_the_ledger_does_not_hold(reports: dict[tuple[str, str], Report]) -> None:
    with pytest.raises(VerificationFailed, match="no deployment to register"):
        registry_text(reports["broken", "confidential"])


def told_or_made(page: str) -> bytes:
    """Return the PDF, or, where the system has no Pango, what the error says."""
    try:
        return pdf_of(page)
    except UserError as error:
        return f"told: {error}".encode()


def test_a_pdf_is_made_or_the_way_to_it_is_told(reports: dict[tuple[str, str], Report]) -> None:
    made = told_or_made(page_of(reports["near_limit", "confidential"], "zh"))
    assert (made.startswith(b"%PDF-") and len(made) > 20_000) or (made.startswith(b"told: ") and b"fugou[pdf]" in made)


def test_without_weasyprint_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    with pytest.raises(UserError, match=r"fugou\[pdf\].*report\.html"):
        pdf_of("<p>x</p>")


def test_for_print_every_chart_carries_its_styles(reports: dict[tuple[str, str], Report]) -> None:
    page = page_of(reports["near_limit", "confidential"], "en")
    assert for_print(page).count("<style>text{font-size:13px") == page.count("<svg ")


# --- the pack ---


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, Made, Path]:
    place = tmp_path_factory.mktemp("pack")
    shop = within(place / "shop")
    made = write_reports(shop.folder, shop.folder, lang="zh")
    assert write_evidence(shop.folder, made, place / "evidence.zip", "zh") == 16
    return shop, made, place / "evidence.zip"


def test_a_pack_holds_what_a_regulator_needs_and_no_private_key_or_row(packed: tuple[Shop, Made, Path]) -> None:
    _, made, file = packed
    with zipfile.ZipFile(file) as pack:
        names = set(pack.namelist())
        manifest = json.loads(pack.read("MANIFEST.json"))
        everything = b"".join(pack.read(name) for name in names)
        appendix = pack.read("pia-appendix.html").decode()
    assert names == {
        "MANIFEST.json", "README.txt", "audit.json", "keys/ledger.pub", "keys/officer.pub", "ledger.jsonl",
        "pia-appendix.html", "policy.toml", "policy.toml.sig", "privacy-report-1.schema.json", "report.html", "report.json",
        "report.yaml", "sbom.cdx.json", "verify.py", "versions.json",
    }  # fmt: skip
    assert set(manifest["files"]) == names - {"MANIFEST.json"}
    assert b"PRIVATE KEY" not in everything
    assert b"o.csv" not in everything
    assert made.report.claim.zh in appendix
    assert "五十五" in appendix
    assert "<script" not in appendix


def test_a_whole_pack_verifies_and_a_changed_one_says_what(packed: tuple[Shop, Made, Path], tmp_path: Path) -> None:
    _, _, file = packed
    assert verifier.check_pack(file, quick=True) == []
    for name in ("policy.toml", "report.json", "ledger.jsonl", "verify.py"):
        said = verifier.check_pack(altered(file, tmp_path / "changed.zip", name), quick=True)
        assert f"{name} is not what the manifest names" in said
    assert any(
        "extra.txt is in the pack" in one
        for one in verifier.check_pack(altered(file, tmp_path / "e.zip", "extra.txt"), True)
    )
    assert "the manifest's signature does not hold" in verifier.check_pack(forged(file, tmp_path / "f.zip"), quick=True)


def altered(file: Path, into: Path, name: str) -> Path:
    """Return a copy of the pack in which one file has another end, or is new."""
    with zipfile.ZipFile(file) as pack, zipfile.ZipFile(into, "w") as changed:
        for one in pack.namelist():
            changed.writestr(one, pack.read(one) + (b"\n" if one == name else b""))
        if name not in pack.namelist():
            changed.writestr(name, b"x")
    return into


def forged(file: Path, into: Path) -> Path:
    """Return a copy of the pack whose manifest names another merchant."""
    with zipfile.ZipFile(file) as pack, zipfile.ZipFile(into, "w") as changed:
        for one in pack.namelist():
            data = pack.read(one)
            changed.writestr(one, data.replace(b'"tea-house"', b'"pea-house"') if one == "MANIFEST.json" else data)
    return into


def test_the_same_evidence_is_the_same_archive(packed: tuple[Shop, Made, Path], tmp_path: Path) -> None:
    shop, made, file = packed
    write_evidence(shop.folder, made, tmp_path / "again.zip", "zh")
    assert (tmp_path / "again.zip").read_bytes() == file.read_bytes()


def test_the_bill_of_materials_names_every_part_once(reports: dict[tuple[str, str], Report]) -> None:
    bill = bill_of_materials(reports["near_limit", "confidential"])
    names = [one["name"].lower() for one in bill["components"]]
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert {"torch", "opacus", "flwr", "dp-accounting", "cryptography"} <= set(names)
    assert len(names) == len(set(names))
    assert all(one["purl"].startswith("pkg:pypi/") and one["version"] for one in bill["components"])


def test_a_missing_part_of_the_evidence_is_named(packed: tuple[Shop, Made, Path], tmp_path: Path) -> None:
    shop, made, _ = packed
    hidden = (shop.folder / "keys" / "officer.pub").rename(tmp_path / "officer.pub")
    try:
        with pytest.raises(UserError, match=r"officer\.pub cannot be read"):
            write_evidence(shop.folder, made, tmp_path / "e.zip", "zh")
    finally:
        hidden.rename(shop.folder / "keys" / "officer.pub")
    assert not (tmp_path / "e.zip").exists()
