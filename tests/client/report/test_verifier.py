"""The verifier that ships: it needs nothing of ours, passes what is honest and says what is not."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import verifier
from client.report import seal
from client.report.model import Report, read_report
from client.report.seal import text_of
from client.report.write import write_reports
from common.privacy import accountant
from common.privacy.accountant import Setting
from common.privacy.keys import load_key
from tests.client.report.conftest import STATES, Shop

SOURCE = Path(str(verifier.__file__))


def found(report: Report | dict[str, Any], export: str, **more: Any) -> list[str]:
    """Return what the verifier finds, without its slow part unless asked for."""
    tree = json.loads(text_of(report)) if isinstance(report, Report) else report
    return verifier.check(tree, export, **({"quick": True} | more))


def test_it_imports_the_standard_library_and_cryptography_only() -> None:
    names = set()
    for node in ast.walk(ast.parse(SOURCE.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"cryptography"}


def test_it_runs_as_one_copied_file_without_fugou(states: dict[str, Shop], tmp_path: Path) -> None:
    shop = states["within_budget"]
    (tmp_path / "verify.py").write_bytes(SOURCE.read_bytes())
    (tmp_path / "report.json").write_text(text_of(shop.report()), "utf-8")
    (tmp_path / "ledger.jsonl").write_text(shop.export(), "utf-8")
    code = (
        "import sys, runpy; sys.modules['client'] = sys.modules['common'] = None; "
        "sys.argv = ['verify.py', 'report.json', 'ledger.jsonl']; runpy.run_path('verify.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "VERIFIED 已核对: report and ledger hold"), done.stderr


@pytest.mark.parametrize("code", [code for code in STATES if code not in ("unverifiable", "broken")])
@pytest.mark.parametrize("audience", ["confidential", "shareable"])
def test_an_honest_report_passes(
    states: dict[str, Shop], reports: dict[tuple[str, str], Report], code: str, audience: str
) -> None:
    assert found(reports[code, audience], states[code].export()) == []


@pytest.mark.parametrize("code", ["unverifiable", "broken"])
def test_a_report_of_a_ledger_that_does_not_hold_verifies_nothing(
    reports: dict[tuple[str, str], Report], states: dict[str, Shop], code: str
) -> None:
    said = found(reports[code, "confidential"], states["near_limit"].export())
    assert f"the report itself says that its ledger is {code}, and states no privacy loss" in said


# --- tampering ---


def change(report: Report, path: str, value: Any) -> dict[str, Any]:
    """Return the report with one value changed."""
    tree: dict[str, Any] = json.loads(text_of(report))
    inner: Any = tree
    *parts, last = path.split(".")
    for part in parts:
        inner = inner[int(part)] if part.isdecimal() else inner[part]
    inner[last] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("privacy_loss.headline.epsilon", 0.4, "privacy_loss.headline.epsilon is 0.4"),
        ("privacy_loss.lifetime.epsilon", 0.4, "signature"),
        ("budget.rounds.burned", 0, "budget.rounds.burned is 0 in the report and 1 by the ledger"),
        ("mechanism.noise_multiplier", 3.0, "mechanism.noise_multiplier is 3.0 in the report and 2.0 by the ledger"),
        ("claim.en", "nothing was lost", "changed after it was signed"),
        ("ledger.head_seq", 2, "no entry 2 with the hash"),
        ("status.code", "within_budget ", "changed after it was signed"),
        ("surprise", 1, "other fields than a report: ['surprise']"),
    ],
)
def test_one_changed_value_of_a_report_is_named(states: dict[str, Shop], path: str, value: Any, word: str) -> None:
    shop = states["within_budget"]
    said = found(change(shop.report(), path, value), shop.export(), quick="headline" not in path)
    assert any(word in line for line in said), said


def resealed(shop: Shop, path: str, value: Any) -> Report:
    """Return the report with one value changed and signed again: what a merchant with the key could try."""
    tree = change(shop.report(), path, value)
    return seal.sealed(read_report(json.dumps(tree).encode()), load_key(shop.folder / "keys" / "ledger"))


@pytest.mark.parametrize(
    ("path", "value", "quick"),
    [
        ("privacy_loss.by_unit.2.epsilon", 0.5, False),
        ("privacy_loss.tradeoff.6.tpr_max", 0.0101, False),
        ("privacy_loss.accountant.cross_check.epsilon", 0.6, True),
        ("budget.rounds.released", 1, True),
        ("period.policy_digest", "0" * 64, True),
        ("mechanism.sampling.rate", 0.01, True),
    ],
)
def test_a_merchant_who_signs_a_lie_is_found_by_the_ledger(shop: Shop, path: str, value: Any, quick: bool) -> None:
    said = found(resealed(shop, path, value), shop.export(), quick=quick)
    assert said
    assert all("signature" not in line for line in said)


def lines(shop: Shop, do: Callable[[list[str]], None]) -> str:
    """Return the export after something was done to its lines."""
    found = shop.export().splitlines()
    do(found)
    return "".join(f"{line}\n" for line in found)


def edit(rows: list[str]) -> None:
    rows[2] = rows[2].replace('"sigma":"2.0"', '"sigma":"9.0"')


def forge(rows: list[str]) -> None:
    body = json.loads(rows[3])
    body["sig"] = json.loads(rows[4])["sig"]
    rows[3] = json.dumps(body)


def drop(rows: list[str]) -> None:
    del rows[3]


def swap(rows: list[str]) -> None:
    rows[2], rows[4] = rows[4], rows[2]


def cut(rows: list[str]) -> None:
    del rows[-1]


def spoil(rows: list[str]) -> None:
    rows[3] = rows[3][: len(rows[3]) // 2]


@pytest.mark.parametrize(
    ("do", "word"),
    [
        (edit, "line 3 (entry 2): its text is not what was hashed"),
        (forge, "line 4 (entry 3): its signature is not the ledger key's"),
        (drop, "line 4 (entry 3): it does not follow the entry before"),
        (swap, "line 3 (entry 2): it does not follow the entry before"),
        (cut, "the export has no entry"),
        (spoil, "line 4: JSONDecodeError"),
    ],
)
def test_one_changed_event_or_signature_of_a_ledger_is_named(
    shop: Shop, do: Callable[[list[str]], None], word: str
) -> None:
    report = shop.report()
    assert found(report, shop.export()) == []
    said = found(report, lines(shop, do))
    assert any(word in line for line in said), said


def test_an_old_report_is_not_passed_for_a_new_one(shop: Shop) -> None:
    old = write_reports(shop.folder, shop.folder).report
    assert found(old, shop.export()) == []
    shop.spend(3)
    said = found(old, shop.export())
    assert len(said) == 1
    assert "the report is old" in said[0]
    assert "RELEASE, RESERVE" in said[0]


def test_a_report_that_the_ledger_did_not_note_is_told_apart(shop: Shop) -> None:
    write_reports(shop.folder, shop.folder)
    copy = shop.report()
    write_reports(shop.folder, shop.folder)
    assert ["does not note report" in line for line in found(copy, shop.export())] == [True]


def test_a_shortened_ledger_and_report_are_seen_by_an_anchor(shop: Shop) -> None:
    early, text = shop.report(), shop.export()
    shop.spend(3)
    with shop.ledger() as book:
        seen = book.head()
    assert found(early, text) == []
    assert any(
        f"entry {seen[0]}, which an anchor has seen, is missing" in one for one in found(early, text, anchors=[seen])
    )


def test_another_merchants_key_is_told(shop: Shop, states: dict[str, Shop]) -> None:
    theirs = verifier.public_key(states["near_limit"].folder / "keys" / "ledger.pub")
    assert any("not by the key given" in line for line in found(shop.report(), shop.export(), key=theirs))
    assert any("another merchant or ledger key" in line for line in found(states["near_limit"].report(), shop.export()))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_report_makes_it_fail_in_its_own_way(states: dict[str, Shop], data: st.DataObject) -> None:
    tree = json.loads(text_of(REPORTS.setdefault("one", states["near_limit"].report())))
    export = EXPORTS.setdefault("one", states["near_limit"].export())
    key = data.draw(st.sampled_from(sorted(tree)))
    tree[key] = data.draw(st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2))
    assert found(tree, export)


REPORTS: dict[str, Report] = {}
EXPORTS: dict[str, str] = {}


# --- the command line ---


def test_the_exit_code_says_whether_all_holds(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, ledger = tmp_path / "report.json", tmp_path / "ledger.jsonl"
    report.write_text(text_of(shop.report()), "utf-8")
    ledger.write_text(shop.export(), "utf-8")
    words = [str(report), str(ledger), "--quick", "--key", str(shop.folder / "keys" / "ledger.pub")]
    assert verifier.main(words) == 0
    ledger.write_text(lines(shop, edit), "utf-8")
    assert verifier.main(words) == 4
    assert "WRONG the ledger's line 3" in capsys.readouterr().out
    assert verifier.main([str(tmp_path / "none.json"), str(ledger)]) == 2
    report.write_text("[]", "utf-8")
    assert verifier.main(words) == 4


# --- its own arithmetic ---


@pytest.mark.parametrize(
    "setting", [Setting(0.871, 0.1, 28), Setting(1.0, 0.02, 500), Setting(4.0, 0.02, 40), Setting(2.0, 1.0, 8)]
)
def test_its_epsilon_is_that_of_dp_accounting(setting: Setting) -> None:
    history = [(setting.sigma, setting.rate, setting.steps)]
    mine = verifier.Losses(history).epsilon(history, 1e-6)
    assert mine == pytest.approx(accountant.epsilon_pld([setting], 1e-6), abs=2e-3)
    renyi = verifier.renyi_epsilon(history, 1e-6, verifier.ALL_ORDERS)
    assert renyi == pytest.approx(accountant.epsilon_rdp([setting], 1e-6), rel=1e-9)


def test_two_kinds_of_rounds_are_composed() -> None:
    history = [(1.0, 0.02, 100), (2.0, 0.1, 30)]
    theirs = accountant.epsilon_pld([Setting(*one) for one in history], 1e-6)
    assert verifier.Losses(history).epsilon(history, 1e-6) == pytest.approx(theirs, abs=2e-3)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53))
def test_it_writes_numbers_as_the_signer_does(value: float) -> None:
    written = verifier.canonical(value)
    assert written == seal.canonical(value)
    assert float(written) == value
    assert verifier.canonical(json.loads(written)) == written


def test_numbers_are_those_of_ecmascript() -> None:
    known = {
        1e21: "1e+21",
        1e20: "100000000000000000000",
        1e-6: "0.000001",
        1e-7: "1e-7",
        123.456: "123.456",
        5e-324: "5e-324",
    }
    assert {value: verifier.number(value) for value in known} == known
    with pytest.raises(verifier.Wrong):
        verifier.number(math.inf)
