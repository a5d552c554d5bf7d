"""The federation's report: what the coordinator knows, with its bounds right, and nothing that it does not know."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from common.privacy import accountant
from common.privacy.accountant import Setting, up
from server.report import page_of, read_federation, write_federation_report

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e{{7*7}}"
CHARGE = {
    "sigma": 1.5, "rate": 0.1, "steps": 4, "clip_norm": 1.0, "divisor": 24.0, "delta": 1e-6, "unit": "customer",
    "period": "2026Q4",
}  # fmt: skip


def done(merchant: str, seq: int, **changes: Any) -> dict[str, Any]:
    """A part that was taken."""
    return {
        "merchant": merchant, "status": "done", "reason": "", "weight": 0.5, "charge": CHARGE, "policy_digest": "a" * 64,
        "ledger_seq": seq, "ledger_head": f"{seq:064d}", "ledger_sig": "b" * 128, "update_digest": f"{seq:064x}",
    } | changes  # fmt: skip


def refused(merchant: str, seq: int, reason: str) -> dict[str, Any]:
    return done(merchant, seq, status="refused", reason=reason, charge={}, update_digest="")


def silent(node: str) -> dict[str, Any]:
    return {"merchant": node, "status": "late", "reason": "no reply before the deadline", "charge": {}}


def run(folder: Path, *rounds: list[dict[str, Any]]) -> Path:
    """A run folder with these parts, a list a round, and a round 0 before them."""
    for number, parts in enumerate(([], *rounds)):
        place = folder / "rounds" / f"{number:04d}"
        place.mkdir(parents=True)
        record = {"round": number, "run": "autumn", "merchants": parts, "adapter_digest": f"{number:064x}"}
        (place / "round.json").write_text(json.dumps(record), "utf-8")
    return folder


def test_a_claim_is_the_bound_of_all_charges_that_were_received(tmp_path: Path) -> None:
    folder = run(tmp_path, [done("tea", 3), done("books", 3)], [done("tea", 5), refused("books", 4, "over budget")])
    books, tea = read_federation(folder).claims
    assert (tea.merchant, tea.received, tea.steps, tea.period, tea.unit) == ("tea", 2, 8, "2026Q4", "customer")
    assert tea.epsilon == float(up(accountant.epsilon((Setting(1.5, 0.1, 8),), 1e-6)))
    assert books.epsilon == float(up(accountant.epsilon((Setting(1.5, 0.1, 4),), 1e-6)))
    assert (tea.anchor, tea.rounds) == ((5, f"{5:064d}"), {"1": "done", "2": "done"})
    assert books.rounds == {"1": "done", "2": "refused"}


def test_an_update_that_was_set_aside_was_received_all_the_same(tmp_path: Path) -> None:
    folder = run(tmp_path, [done("tea", 3)], [done("tea", 5, status="set aside", reason="norm")])
    assert read_federation(folder).claims[0].received == 2


@pytest.mark.parametrize(
    "charge",
    [
        {**CHARGE, "sigma": 0.0},
        {**CHARGE, "sigma": -1.0},
        {**CHARGE, "rate": 7},
        {**CHARGE, "steps": "many"},
        {"delta": 1e-6},
    ],
)
def test_a_charge_that_bounds_nothing_is_told_as_no_protection(tmp_path: Path, charge: dict[str, Any]) -> None:
    found = read_federation(run(tmp_path, [done("tea", 3, charge=charge)]))
    assert (found.claims[0].epsilon, found.claims[0].private) == (None, False)
    assert "no noise, nobody is protected" in page_of(found, "en")


def test_the_smallest_delta_declared_is_the_one_that_counts(tmp_path: Path) -> None:
    folder = run(tmp_path, [done("tea", 3, charge={**CHARGE, "delta": 1e-4})], [done("tea", 5)])
    assert read_federation(folder).claims[0].delta == 1e-6


def test_a_ledger_that_goes_back_and_a_policy_that_changes_are_told(tmp_path: Path) -> None:
    folder = run(
        tmp_path,
        [done("tea", 5), done("books", 3)],
        [done("tea", 4), done("books", 5, policy_digest="c" * 64)],
        [done("tea", 6), refused("books", 6, "no")],
        [done("tea", 8), refused("books", 6, "no")],
    )
    found = read_federation(folder)
    assert [(one["kind"], one["merchant"], one["round"]) for one in found.warnings] == [
        ("other_policy", "books", 2),
        ("other_policy", "books", 3),
        ("back", "tea", 2),
    ]
    assert "编号 4" in page_of(found, "zh")


def test_both_files_say_the_same_in_both_languages(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", [done("tea", 3), silent("node 17")])
    for lang, words in (("zh", "各商家的声明"), ("en", "Every merchant&#39;s claim")):
        page, data = write_federation_report(folder, tmp_path / lang, "zh" if lang == "zh" else "en")
        told = json.loads(data.read_text("utf-8"))
        text = page.read_text("utf-8")
        assert told["schema"] == "fugou/federation-report/1"
        assert words in text
        assert f"{told['claims'][1]['epsilon']:.2f}" in text
        assert "node 17" in text
        assert told["claims"][0]["epsilon"] is None


def test_epsilon_never_stands_without_delta_unit_and_period(tmp_path: Path) -> None:
    (claim,) = json.loads(
        write_federation_report(run(tmp_path, [done("tea", 3)]), tmp_path, "en")[1].read_text("utf-8")
    )["claims"]
    assert all(claim[key] for key in ("epsilon", "delta", "unit", "period"))


class Tags(HTMLParser):
    """Every tag and its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_what_a_merchant_wrote_becomes_no_markup(tmp_path: Path) -> None:
    hostile = done(
        HOSTILE, 3, reason=HOSTILE, status="set aside", charge={**CHARGE, "unit": HOSTILE, "period": HOSTILE}
    )
    page = page_of(read_federation(run(tmp_path, [hostile, refused("tea", 1, HOSTILE)])), "en")
    tags = Tags(page).seen
    assert not {tag for tag, _ in tags} & {"script", "img", "iframe", "link", "object", "a"}
    assert not [key for _, attributes in tags for key in attributes if key.startswith("on") or key in ("src", "href")]
    assert "\u202e" not in page
    assert "{{7*7}}" in page
    policy = next(one["content"] for tag, one in tags if one.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_a_status_nobody_knows_does_not_break_the_page(tmp_path: Path) -> None:
    assert "sleepy" in page_of(read_federation(run(tmp_path, [done("tea", 3, status="sleepy")])), "en")


def test_a_run_without_rounds_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no round yet"):
        read_federation(run(tmp_path))
    with pytest.raises(UserError, match="no round yet"):
        read_federation(tmp_path / "nowhere")


def test_a_damaged_round_is_named(tmp_path: Path) -> None:
    folder = run(tmp_path, [done("tea", 3)])
    (folder / "rounds" / "0001" / "round.json").write_text("{", "utf-8")
    with pytest.raises(UserError, match=re.escape("0001/round.json")):
        read_federation(folder)
