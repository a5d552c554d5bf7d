"""Reports of merchants in every state: what they tell to whom, their form, their signature, and the command."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import string
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from client.report.data import inspect, thinned
from client.report.model import SCHEMA, Report, json_schema, read_report, schema_text
from client.report.page import page_of
from client.report.seal import check_seal, sealed, text_of
from client.report.words import CLAIMS, WORDS, Lang
from client.report.write import write_reports
from common.cli import main
from common.errors import UserError, VerificationFailed
from common.privacy.keys import create_key, load_public_key
from common.privacy.plan import plan_round
from common.privacy.policy import load_policy
from tests.client.report.conftest import HOSTILE, STATES, Shop, open_shop

ROOT = Path(__file__).resolve().parents[3]
LANGS: tuple[Lang, ...] = ("zh", "en")
SILENT = ("unverifiable", "broken")
Reports = dict[tuple[str, str], Report]


# --- states and audiences ---


@pytest.mark.parametrize("code", STATES)
@pytest.mark.parametrize("audience", ["confidential", "shareable"])
def test_a_report_names_its_state_and_tells_a_loss_only_where_the_ledger_holds(
    reports: Reports, code: str, audience: str
) -> None:
    report = reports[code, audience]
    assert report.status.code == code
    assert (report.privacy_loss is None) == (code in SILENT) == (not report.ledger.verified)
    assert "ε =" not in report.claim.en or code not in SILENT


@pytest.mark.parametrize("code", STATES)
def test_what_is_shared_has_no_name_time_or_reason(reports: Reports, code: str) -> None:
    report = reports[code, "shareable"]
    text = text_of(report)
    assert report.merchant.name is None
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", report.generated_at)
    assert not re.search(r"\d\d:\d\d:\d\d", text)
    for word in ("青禾", "RuntimeError", "coordinator asks", "script"):
        assert word not in text
    assert all(one.at is None and one.note is None for one in report.events)
    own = reports[code, "confidential"]
    assert own.merchant.name
    assert code in SILENT or all(one.at for one in own.events)


def test_every_charge_burn_and_refusal_is_shown(reports: Reports) -> None:
    report = reports["within_budget", "confidential"]
    assert report.budget
    rounds = report.budget.rounds
    assert (rounds.released, rounds.burned, rounds.refunded, rounds.reserved) == (3, 1, 1, 0)
    assert [one.reason for one in report.budget.refusals] == ["the coordinator asks for sigma = 0.1"]
    assert [one.note for one in report.events if one.type == "BURN"] == ["ended by RuntimeError"]


def test_a_round_under_way_is_reserved_and_told_with_its_loss(shop: Shop) -> None:
    with shop.ledger() as book:
        book.reserve(plan_round(book.policy, "autumn", 3, "adapter"))
        report = shop.report()
    assert report.budget
    assert report.privacy_loss
    assert (report.budget.rounds.reserved, report.budget.rounds.left) == (1, 3)
    spent, all_ = report.privacy_loss.headline.epsilon, report.privacy_loss.with_reserved.epsilon
    assert spent is not None
    assert all_ is not None
    assert spent < all_


def test_a_new_period_has_its_own_loss_and_the_lifetimes_beside_it(shop: Shop) -> None:
    before = shop.report().privacy_loss
    shop.sign(period="2026Q4-new")
    with shop.ledger() as book:
        book.renew(load_policy(shop.folder / "policy.toml"))
    fresh = shop.report()
    shop.spend(9)
    after = shop.report()
    assert before
    assert fresh.privacy_loss
    assert after.privacy_loss
    assert fresh.privacy_loss.headline.epsilon == 0.0
    assert fresh.privacy_loss.lifetime.epsilon == before.headline.epsilon
    assert after.privacy_loss.lifetime.epsilon or (after.privacy_loss.headline.epsilon or 0) < 0
    assert after.privacy_loss.lifetime.period == "since 2026Q3"
    assert after.period
    assert after.period.lifetime == ("2026Q3", "2026Q4-new")
    for lang in LANGS:
        assert "2026Q3" in page_of(after, lang)


def test_an_adaptive_policy_claims_no_more_than_its_filter_proves(tmp_path: Path) -> None:
    shop = open_shop(tmp_path / "shop", mode="adaptive")
    shop.spend(1, 2)
    report = shop.report()
    assert report.privacy_loss
    assert report.privacy_loss.accountant.method == "RDP filter"
    assert report.privacy_loss.tradeoff_basis == "epsilon and delta"
    assert report.privacy_loss.gdp_mu is None
    epsilon = report.privacy_loss.headline.epsilon
    cross = report.privacy_loss.accountant.cross_check.epsilon
    assert epsilon is not None
    assert cross is not None
    assert epsilon > cross
    assert all(page_of(report, lang) for lang in LANGS)


def test_without_noise_nothing_is_claimed(reports: Reports) -> None:
    report = reports["no_guarantee", "confidential"]
    assert report.privacy_loss
    assert report.privacy_loss.headline.epsilon is None
    assert report.guarantee
    assert [one.status for one in report.guarantee.assumptions].count("violated") == 1
    assert {one.tpr_max for one in report.privacy_loss.tradeoff} == {1.0}


def test_a_policy_on_disk_that_is_not_the_one_in_force_is_an_anomaly(shop: Shop) -> None:
    assert shop.report().ledger.anomalies == ()
    shop.sign(max_rounds=5)
    assert "signed, not adopted" in shop.report().ledger.anomalies[0]
    text = (shop.folder / "policy.toml").read_text("utf-8")
    (shop.folder / "policy.toml").write_text(text.replace("sigma_min = 2.0", "sigma_min = 0.1"), "utf-8")
    report = shop.report()
    assert "(broken)" in report.ledger.anomalies[0]
    assert report.mechanism
    assert report.mechanism.noise_multiplier == 2.0
    assert "(broken)" in page_of(report, "zh")


def test_long_ledgers_have_a_thinned_staircase() -> None:
    assert len(thinned(10_000)) <= 62
    assert thinned(10_000)[-1] == 10_000


# --- audit ---


def test_an_audit_is_told_and_its_place_in_the_ledger(reports: Reports) -> None:
    audit = reports["within_budget", "confidential"].audit
    assert (audit.state, audit.in_ledger, audit.epsilon_lower_bound) == ("consistent", True, 1.14)
    assert reports["near_limit", "confidential"].audit.state == "not_audited"


@pytest.mark.parametrize(
    ("content", "state"),
    [
        ("not json", "unreadable"),
        ("{}", "unreadable"),
        ('{"result": "consistent", "epsilon_lower_bound": "<b>"}', "unreadable"),
        (json.dumps({"confidence": 0.9, "delta": 1e-5, "claimed_epsilon": 1.0, "epsilon_lower_bound": 1.5,
                     "result": "consistent"}), "violation"),
        (json.dumps({"confidence": 0.9, "delta": 1e-5, "claimed_epsilon": 1.0, "epsilon_lower_bound": 0.5,
                     "result": "consistent", "new": 1}), "consistent"),
        (json.dumps({"confidence": 0.9, "delta": 1e-5, "claimed_epsilon": 1.0, "epsilon_lower_bound": float("nan"),
                     "result": "consistent"}), "unreadable"),
    ],
)  # fmt: skip
def test_a_strange_audit_breaks_nothing(shop: Shop, content: str, state: str) -> None:
    (shop.folder / "audit.json").write_text(content, "utf-8")
    report = shop.report()
    assert (report.audit.state, report.audit.in_ledger) == (state, False)
    for lang in LANGS:
        assert "<b>" not in page_of(report, lang).replace("<bdi>", "")


# --- form and signature ---


def test_the_schema_on_disk_is_the_models() -> None:
    assert SCHEMA.read_text("utf-8") == schema_text(), "run: python -m client.report.model"


@pytest.mark.parametrize("code", STATES)
def test_a_report_fits_its_schema_and_an_unknown_field_does_not(reports: Reports, code: str) -> None:
    schema = jsonschema.Draft202012Validator(json_schema())
    tree = json.loads(text_of(reports[code, "confidential"]))
    schema.validate(tree)
    assert not schema.is_valid({**tree, "surprise": 1})
    assert not schema.is_valid({**tree, "ledger": {**tree["ledger"], "surprise": 1}})
    assert not schema.is_valid({key: value for key, value in tree.items() if key != "claim"})
    swapped = {**tree, "status": {"code": "within_budget" if code in SILENT else "broken", "reasons": []}}
    assert not schema.is_valid(swapped)


def test_a_report_is_read_back_as_it_was_and_nothing_else(reports: Reports) -> None:
    for report in reports.values():
        assert read_report(text_of(report).encode()) == report
    text = text_of(reports["near_limit", "confidential"])
    for change in (
        text.replace('"schema_version": "1.0"', '"schema_version": "2.0"'),
        text.replace("{", '{"x": 1,', 1),
        "{}",
    ):
        with pytest.raises(VerificationFailed, match="no privacy report"):
            read_report(change.encode())


def test_a_changed_report_and_another_key_do_not_pass(shop: Shop, tmp_path: Path) -> None:
    report = shop.report()
    check_seal(report)
    check_seal(report, load_public_key(shop.folder / "keys" / "ledger.pub"))
    changed = report.model_copy(update={"generated_at": "2027-01-01T00:00:00Z"})
    with pytest.raises(VerificationFailed, match="not what was signed"):
        check_seal(changed)
    other = create_key(tmp_path / "other")
    with pytest.raises(VerificationFailed, match="not what was signed"):
        check_seal(sealed(report, other))


def test_evidence_names_tests_that_exist(reports: Reports) -> None:
    guarantee = reports["within_budget", "confidential"].guarantee
    assert guarantee
    proofs = [proof for one in guarantee.assumptions for proof in one.evidence if proof.startswith("tests/")]
    assert len(proofs) >= 8
    for proof in proofs:
        file, _, name = proof.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text("utf-8") if name else (ROOT / file).exists(), proof
    assert all(one.evidence or one.status == "assumed" for one in guarantee.assumptions)


# --- pages ---


class Tags(HTMLParser):
    """Collects tags and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def pages(reports: Reports) -> dict[tuple[str, str, Lang], str]:
    return {(*key, lang): page_of(report, lang) for key, report in reports.items() for lang in LANGS}


def test_pages_hold_no_script_and_ask_for_nothing(pages: dict[tuple[str, str, Lang], str]) -> None:
    for key, page in pages.items():
        tags = Tags(page).found
        assert not {"script", "img", "link", "iframe", "object", "form", "a", "input"} & {tag for tag, _ in tags}, key
        for _, attributes in tags:
            assert not {
                one for one in attributes if one.startswith("on") or one in ("href", "src", "style", "action")
            }, key
        policies = [attributes["content"] for tag, attributes in tags if attributes.get("http-equiv")]
        assert [text.split(";")[0] for text in policies if text] == ["default-src 'none'"]
        assert "url(http" not in page


def test_hostile_names_and_reasons_are_text(pages: dict[tuple[str, str, Lang], str]) -> None:
    for lang in LANGS:
        page = pages["refused", "confidential", lang]
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        assert "\u202e" not in page
        assert "{{7*7}}" in page
        assert HOSTILE not in page


def test_the_first_page_says_what_is_not_protected_and_the_loss_with_its_terms(
    pages: dict[tuple[str, str, Lang], str], reports: Reports
) -> None:
    for lang in LANGS:
        words = WORDS["not_head"][lang == "en"]
        for code in STATES:
            header = pages[code, "confidential", lang].partition("<main>")[0]
            assert words in header
        loss = reports["within_budget", "confidential"].privacy_loss
        assert loss
        header = pages["within_budget", "confidential", lang].partition("<main>")[0]
        assert header.count(f"ε ≤ {loss.headline.epsilon:.2f}") == 2
        assert f"ε ≤ {loss.by_unit[2].epsilon:.2f}" in header


@pytest.mark.parametrize("code", SILENT)
def test_a_page_of_a_ledger_that_does_not_hold_has_no_figure(
    pages: dict[tuple[str, str, Lang], str], code: str
) -> None:
    for lang in LANGS:
        page = pages[code, "confidential", lang]
        assert not re.search(r"ε\s*[≤=]", page)
        assert "<svg" not in page
        assert ("不给出" if lang == "zh" else "not stated") in page


def test_every_chart_has_words_for_it_and_its_numbers_beside_it(pages: dict[tuple[str, str, Lang], str]) -> None:
    page = pages["within_budget", "confidential", "en"]
    charts = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(charts) == 6
    for chart in charts:
        assert re.search(r"<title [^>]*>[^<]+</title><desc [^>]*>[^<]+</desc>", chart)
    assert page.count('<div class="pair">') == len(charts)


def test_curves_differ_by_dash_and_bars_by_pattern(pages: dict[tuple[str, str, Lang], str]) -> None:
    page = pages["within_budget", "confidential", "en"]
    stairs = page[page.index('id="stairs-title"') :].split("</svg>")[0]
    assert len(set(re.findall(r'stroke-dasharray="([^"]+)"', stairs))) == 2
    budget = page[page.index('id="budget-title"') :].split("</svg>")[0]
    assert "url(#budget-stripes)" in budget
    assert "burned round" in stairs
    assert "refused" in stairs


def test_every_phrase_has_the_same_places_in_both_languages() -> None:
    for key, (chinese, english) in {**CLAIMS, **WORDS}.items():
        assert places(chinese) == places(english), key


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("module", ["charts", "data", "page", "seal"])
def test_the_examples_in_docstrings_run(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"client.report.{module}"))
    assert (outcome.failed, outcome.attempted > 0) == (0, True)


# --- writing, and the command ---


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Return what a command printed; it must end with `code`, and with one line of error unless that is 0."""

    def call(shop: Shop, *words: str, code: int = 0, lang: str = "en") -> str:
        monkeypatch.setenv("FUGOU_LANG", lang)
        monkeypatch.setattr(sys, "argv", ["fugou", "--lang", lang, "merchant", "--dir", str(shop.folder), *words])
        ended: object = 0
        try:
            main()
        except SystemExit as end:
            ended = end.code or 0
        said = capsys.readouterr()
        errors = [line for line in said.err.splitlines() if line.startswith("fugou: ")]
        assert (ended, len(errors)) == (code, int(code != 0)), said.out + said.err
        return said.out + said.err

    return iter([call])


@pytest.fixture
def fugou(run: Iterator[Any]) -> Any:
    return next(run)


@pytest.mark.parametrize(("lang", "word"), [("zh", "预算内"), ("en", "Within budget")])
def test_the_command_writes_page_and_json_and_notes_them(fugou: Any, shop: Shop, lang: Lang, word: str) -> None:
    said = fugou(shop, "report", lang=lang)
    report = read_report((shop.folder / "report.json").read_bytes())
    assert word in said
    assert (report.claim.zh if lang == "zh" else report.claim.en) in said
    assert (shop.folder / "report.html").read_text("utf-8") == page_of(report, lang)
    with shop.ledger() as book:
        last = book.last().body
    assert (last["type"], last["detail"]["report"]) == ("REPORT", report.report_id)


@pytest.mark.parametrize("make", [STATES["unverifiable"], STATES["broken"]])
def test_a_ledger_that_does_not_hold_gets_a_page_and_exit_4(fugou: Any, tmp_path: Path, make: Any) -> None:
    shop = make(tmp_path / "shop")
    before = (shop.folder / "ledger.db").read_bytes()
    said = fugou(shop, "report", "-o", str(tmp_path / "out"), "--format", "html,json,yaml", code=4)
    assert "states no privacy loss" in said
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]
    assert (shop.folder / "ledger.db").read_bytes() == before
    fugou(shop, "report", "--evidence", str(tmp_path / "e.zip"), code=4)
    assert not (tmp_path / "e.zip").exists()


def test_an_anchor_from_elsewhere_can_show_a_rollback(fugou: Any, shop: Shop) -> None:
    assert "lost" not in fugou(shop, "report", "--anchor", f"1:{inspect(shop.folder).book.hashes[1]}")
    fugou(shop, "report", "--anchor", f"99:{'a' * 64}", code=4)


def test_a_merchant_who_was_never_asked_gets_a_report_of_nothing_spent(fugou: Any, tmp_path: Path) -> None:
    shop = open_shop(tmp_path / "shop")
    assert "No model update has been released" in fugou(shop, "report")
    (shop.folder / "ledger.db").unlink()
    shop.settle()
    fugou(shop, "report", code=4)
    assert not (shop.folder / "ledger.db").exists()


def test_wrong_words_and_missing_keys_are_one_line(fugou: Any, shop: Shop, tmp_path: Path) -> None:
    assert "known are html, json, yaml, pdf" in fugou(shop, "report", "--format", "html,docx", code=2)
    assert "name it .zip" in fugou(shop, "report", "--evidence", str(tmp_path / "e.tar"), code=2)
    (shop.folder / "keys" / "ledger").unlink()
    assert "keys/ledger" in fugou(shop, "report", code=2)


def test_a_second_report_holds_as_well_and_costs_nothing(shop: Shop) -> None:
    first = write_reports(shop.folder, shop.folder, lang="zh").report
    second = write_reports(shop.folder, shop.folder / "other", audience="shareable", lang="en").report
    assert first.privacy_loss
    assert second.privacy_loss
    assert first.privacy_loss.headline == second.privacy_loss.headline
    with pytest.raises(UserError, match="gif"):
        write_reports(shop.folder, shop.folder, formats=("gif",))
