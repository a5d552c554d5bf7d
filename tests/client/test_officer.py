from __future__ import annotations

import json
import re
import shutil
import sqlite3
import stat
import string
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client import officer
from client.config import load_merchant
from client.data.sources import read_shop
from client.words import WORDS, table
from common.cli import main
from common.privacy import accountant
from common.privacy.accountant import Setting, up
from common.privacy.keys import create_key, load_key, load_public_key
from common.privacy.ledger import Ledger
from common.privacy.plan import calibrate, plan_round
from common.privacy.policy import Policy, load_policy, sign_policy, write_policy

ROUND = Setting(4.0, 0.02, 10)
LANGS = ("zh", "en")


@dataclass
class Office:
    """A merchant's folder as its privacy officer finds it, and the command line in it."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: str, code: int = 0, lang: str = "en") -> str:
        """Return what a command printed, the error line last; it must end with `code` and at most one line of error."""
        argv = ["fugou", "--lang", lang, "merchant", "--dir", str(self.folder), *words]
        self.monkeypatch.setattr(sys, "argv", argv)
        self.monkeypatch.setenv("FUGOU_LANG", lang)
        ended: object = 0
        try:
            main()
        except SystemExit as end:
            ended = end.code or 0
        said = self.capsys.readouterr()
        errors = [line for line in said.err.splitlines() if line.startswith("fugou: ")]
        assert (ended, len(errors)) == (code, int(code != 0)), said.out + said.err
        return said.out + said.err

    def write(self, **changes: Any) -> None:
        """Write the policy as a draft."""
        values: dict[str, Any] = {
            "merchant": "tea-house",
            "epsilon": 2.0,
            "period": "spring",
            "max_rounds": 4,
            "sigma_min": ROUND.sigma,
            "rate": ROUND.rate,
            "steps": ROUND.steps,
            "clip_norm": 0.5,
            "divisor": 16.0,
            "max_records_per_customer": 8,
            "max_tokens": 64,
        }
        write_policy(Policy.model_validate(values | changes), self.folder / "policy.toml")

    def sign(self, **changes: Any) -> None:
        """Write the policy and sign it with the officer's key."""
        self.write(**changes)
        sign_policy(self.folder / "policy.toml", load_key(self.folder / "keys" / "officer"))

    def ledger(self) -> Ledger:
        """Return the ledger, begun with the policy when there is none."""
        file, key = self.folder / "ledger.db", load_key(self.folder / "keys" / "ledger")
        if file.exists():
            return Ledger.open(file, key)
        return Ledger.create(file, load_policy(self.folder / "policy.toml"), key)

    def spend(self, *numbers: int) -> None:
        """Release these rounds."""
        with self.ledger() as book:
            for number in numbers:
                held = book.reserve(plan_round(book.policy, "autumn", number, "adapter"))
                held.touch()
                book.release(held, f"update {number}".encode())

    def entries(self) -> list[str]:
        """Return the types of all entries, without opening the ledger for writing."""
        return [entry.type for entry, _ in officer.replay(self.folder / "ledger.db")]


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Office:
    """A merchant with keys and a signed policy, whose orders nobody can read: a folder lies in the file's place."""
    folder = tmp_path / "shop"
    (folder / "orders.csv").mkdir(parents=True)
    (folder / "products.csv").mkdir()
    (folder / "merchant.toml").write_text(
        '[merchant]\nid = "tea-house"\n[sources]\norders = "orders.csv"\nproducts = "products.csv"\n', "utf-8"
    )
    create_key(folder / "keys" / "officer")
    create_key(folder / "keys" / "ledger")
    found = Office(folder, monkeypatch, capsys)
    found.sign()
    return found


def of(rounds: int) -> float:
    """Return the epsilon of so many rounds, from the accountant."""
    return accountant.epsilon([Setting(ROUND.sigma, ROUND.rate, ROUND.steps * rounds)], 1e-6)


# --- plan ---


def test_a_plan_tells_what_rounds_cost_before_anything_runs(office: Office) -> None:
    said = json.loads(office("plan", "--json"))
    assert said["policy"]["state"] == "signed"
    assert said["staircase"] == [{"round": n, "epsilon": float(up(of(n)))} for n in range(5)]
    assert (said["rounds_left"], said["spent"]) == (4, {"rounds": 0, "epsilon": 0.0, "burned": 0})
    assert (said["delta"], said["unit"], said["period"]) == (1e-6, "customer", "spring")
    readings = {(one["unit"], one["count"]): one["epsilon"] for one in said["what_if"]}
    assert set(readings) == {(unit, count) for unit in ("merchants", "records") for count in (2, 3, 5)}
    whole = Setting(ROUND.sigma, ROUND.rate, 4 * ROUND.steps)
    assert readings["merchants", 3] == float(up(accountant.epsilon_customers_at(3, [whole], 1e-6)))
    assert readings["records", 5] == float(up(accountant.epsilon_records(5, whole, 1e-6)))
    filtered = accountant.filter_epsilon([whole], 1e-6)
    assert said["modes"]["schedule"] == {"rounds": 4, "epsilon": float(up(of(4)))}
    assert said["modes"]["adaptive"] == {"rounds": 4, "epsilon": float(up(filtered))}
    assert filtered > of(4)


def test_a_plan_after_some_rounds_tells_spent_reserved_burned_and_left(office: Office) -> None:
    office.spend(1)
    with office.ledger() as book:
        book.burn(book.reserve(plan_round(book.policy, "autumn", 2, "adapter")), "out of memory")
    with office.ledger() as book:
        book.reserve(plan_round(book.policy, "autumn", 3, "adapter"))
        said = json.loads(office("plan", "--json"))
    assert said["spent"] == {"rounds": 2, "epsilon": float(up(of(2))), "burned": 1}
    assert (said["reserved"], said["rounds_left"]) == ({"rounds": 1}, 1)
    assert [one["round"] for one in said["staircase"]] == [3, 4]
    assert office.entries()[-1] == "RESERVE"


@pytest.mark.parametrize("lang", LANGS)
def test_a_plan_in_words_never_tells_epsilon_alone(office: Office, lang: str) -> None:
    office.spend(1)
    said = office("plan", lang=lang)
    told = [line for line in said.splitlines() if "ε" in line]
    assert len(told) >= 10
    for line in told:
        assert "δ = 1e-06" in line
        assert ("一位顾客" if lang == "zh" else "one customer") in line
        assert "spring" in line


def plans_without_the_shops_rows(office: Office) -> bool:
    """Whether `plan` does its work although no table of the shop can be read."""
    try:
        office("plan", "--json")
    except AssertionError:
        return False
    return True


def test_a_plan_reads_no_row_of_the_shop(office: Office) -> None:
    assert plans_without_the_shops_rows(office)


def test_a_plan_that_looked_at_the_rows_would_be_seen(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = officer.forecast

    def nosy(policy: Policy, now: officer.Standing) -> officer.Forecast:
        read_shop(load_merchant(office.folder))
        return honest(policy, now)

    monkeypatch.setattr(officer, "forecast", nosy)
    assert not plans_without_the_shops_rows(office)


def test_a_plan_says_which_noise_an_epsilon_would_need(office: Office) -> None:
    sigma = calibrate(1.0, 1e-6, ROUND.rate, ROUND.steps, 20)
    assert json.loads(office("plan", "--epsilon", "1", "--rounds", "20", "--json"))["sigma"] == sigma
    assert f"σ ≥ {sigma:g}" in office("plan", "--epsilon", "1", "--rounds", "20")
    mine = json.loads(office("plan", "--rounds", "20", "--json"))
    assert (mine["epsilon"], mine["rounds"], mine["period"]) == (2.0, 20, "spring")


def test_a_draft_can_be_planned_and_is_called_a_draft(office: Office) -> None:
    (office.folder / "policy.toml.sig").unlink()
    assert "a draft without signature" in office("plan")
    office.sign()
    office.write(max_rounds=3)
    assert "does not hold" in office("plan")
    (office.folder / "keys" / "officer.pub").unlink()
    assert json.loads(office("policy", "show", "--json"))["state"] == "unknown"


def test_a_plan_without_noise_promises_nothing(office: Office) -> None:
    office.sign(sigma_min=0.0, epsilon=float("inf"))
    assert "nobody is protected" in office("plan")
    said = json.loads(office("plan", "--json"))
    assert (said["limit"]["epsilon"], said["staircase"][1]["epsilon"]) == (None, None)


def test_a_policy_that_allows_no_round_says_so(office: Office) -> None:
    office.sign(epsilon=0.01)
    said = office("plan", code=3)
    assert f"one costs ε ≤ {up(of(1))} (δ = 1e-06, unit: one customer, period: spring)" in said
    assert "raise sigma_min" in said


@pytest.mark.parametrize(
    ("lang", "words"),
    [
        (
            "zh",
            (
                "预算已用完", "已花 4 轮", "单位：一位顾客", "周期：spring", "上限 ε = 2.00、4 轮，轮数已满",
                "新数据", "policy renew",
            ),
        ),
        (
            "en",
            (
                "the budget is spent", "spent 4 rounds", "unit: one customer", "period: spring", "all rounds are used",
                "new data", "policy renew",
            ),
        ),
    ],
)  # fmt: skip
def test_a_spent_budget_is_told_with_what_can_be_done_and_exit_3(
    office: Office, lang: str, words: tuple[str, ...]
) -> None:
    office.spend(1, 2, 3, 4)
    last = office("plan", code=3, lang=lang).splitlines()[-1]
    for word in (*words, f"ε ≤ {up(of(4))}", "δ = 1e-06"):
        assert word in last
    assert json.loads(office("plan", "--json", code=3).rpartition("fugou: ")[0])["rounds_left"] == 0


def test_a_cap_that_is_full_before_the_rounds_are_says_that(office: Office) -> None:
    office.sign(epsilon=0.3, max_rounds=100)
    allowed = json.loads(office("plan", "--json"))["rounds_left"]
    assert of(allowed) <= 0.3 < of(allowed + 1)
    office.spend(*range(allowed))
    assert "one more round would pass it" in office("plan", code=3)


# --- policy ---


def test_signing_makes_no_key_by_itself(office: Office) -> None:
    shutil.rmtree(office.folder / "keys")
    said = office("policy", "sign", code=2)
    assert "--new-key" in said
    assert not (office.folder / "keys").exists()
    office("policy", "sign", "--new-key")
    assert stat.S_IMODE((office.folder / "keys" / "officer").stat().st_mode) == 0o600
    office("policy", "verify")
    assert "names an officer already" in office("policy", "sign", "--new-key", "--key", "keys/second", code=2)
    assert not (office.folder / "keys" / "second").exists()


def test_an_officers_key_may_lie_elsewhere(office: Office, tmp_path: Path) -> None:
    create_key(tmp_path / "stick" / "officer")
    shutil.rmtree(office.folder / "keys")
    office("policy", "sign", "--key", str(tmp_path / "stick" / "officer"))
    assert not (office.folder / "keys" / "officer").exists()
    load_public_key(office.folder / "keys" / "officer.pub")
    office("policy", "verify")


def test_somebody_elses_key_does_not_sign(office: Office) -> None:
    create_key(office.folder / "keys" / "mallory")
    before = (office.folder / "policy.toml.sig").read_bytes()
    assert "not the officer's" in office("policy", "sign", "--key", "keys/mallory", code=4)
    office.spend(1)
    shutil.copy(office.folder / "keys" / "mallory.pub", office.folder / "keys" / "officer.pub")
    assert "ledger.db names" in office("policy", "sign", "--key", "keys/mallory", code=4)
    assert (office.folder / "policy.toml.sig").read_bytes() == before


def test_an_edited_or_unsigned_policy_is_one_line_and_exit_4(office: Office) -> None:
    office("policy", "verify")
    text = (office.folder / "policy.toml").read_text("utf-8")
    (office.folder / "policy.toml").write_text(text.replace("sigma_min = 4.0", "sigma_min = 0.1"), "utf-8")
    assert "differs from what was signed" in office("policy", "verify", code=4)
    assert "policy.toml.sig is missing" in office_without_signature(office)
    office.sign()
    sign_policy(office.folder / "policy.toml", create_key(office.folder / "keys" / "mallory"))
    assert "not by the officer's" in office("policy", "verify", code=4)


def office_without_signature(office: Office) -> str:
    """Return what `policy verify` says when the signature is gone."""
    (office.folder / "policy.toml.sig").unlink()
    return office("policy", "verify", code=4)


def test_a_signature_check_that_always_holds_would_be_seen(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.write(epsilon=100.0)
    monkeypatch.setattr("common.privacy.policy.holds", lambda *_: True)
    with pytest.raises(AssertionError):
        office("policy", "verify", code=4)


def test_a_policy_is_shown_as_it_would_be_signed(office: Office) -> None:
    said = json.loads(office("policy", "show", "--json"))
    assert (said["state"], said["policy"]["sigma_min"]) == ("signed", 4.0)
    assert "limit: ε ≤ 2.00 (δ = 1e-06, unit: one customer, period: spring), at most 4 rounds" in office(
        "policy", "show"
    )


def test_a_stricter_policy_is_adopted_and_a_laxer_one_is_not(office: Office) -> None:
    assert "the first round begins it" in office("policy", "adopt")
    office.spend(1)
    office.sign(epsilon=1.5, max_rounds=3)
    assert "another policy is in force" in office("plan")
    assert "2 rounds left" in office("policy", "adopt")
    assert "2 rounds left" in office("policy", "adopt")
    office.sign(epsilon=3.0)
    said = office("policy", "adopt", code=3)
    assert "not raise them" in said
    assert f"spent so far ε ≤ {up(of(1))} (δ = 1e-06, unit: one customer, period: spring)" in said
    assert office.entries().count("POLICY") == 2


def test_a_new_period_opens_a_new_budget_once_and_keeps_the_lifetime(office: Office) -> None:
    office.spend(1, 2, 3, 4)
    office.sign(max_rounds=8)
    assert "周期" in office("policy", "renew", code=3, lang="zh")
    office.sign(period="summer")
    ahead = json.loads(office("plan", "--json"))
    assert (ahead["spent"]["rounds"], ahead["rounds_left"]) == (0, 4)
    said = office("policy", "renew")
    assert "4 rounds left" in said
    assert f"has lost ε ≤ {up(of(4))}" in said
    assert "overlaps summer" in office("policy", "renew", code=3)
    assert json.loads(office("plan", "--json"))["spent"]["rounds"] == 0


# --- ledger ---


def test_the_ledger_is_shown_with_what_each_entry_left_spent(office: Office) -> None:
    office.spend(1, 2)
    with office.ledger() as book:
        book.refuse("the coordinator asks for sigma = 0.1", {"run": "autumn", "round": 3})
    said = json.loads(office("ledger", "show", "--json"))
    lines = [
        (one["seq"], one["type"], one["round"], one["after"] and one["after"]["epsilon"]) for one in said["entries"]
    ]
    one, two = (float(up(of(n))) for n in (1, 2))
    assert lines == [
        (0, "GENESIS", "", None), (1, "POLICY", "", 0.0), (2, "RESERVE", "1", 0.0), (3, "RELEASE", "1", one),
        (4, "RESERVE", "2", one), (5, "RELEASE", "2", two), (6, "REFUSE", "3", two),
    ]  # fmt: skip
    assert said["entries"][-1]["after"] == {"epsilon": two, "delta": 1e-6, "unit": "customer", "period": "spring"}
    text = office("ledger", "show", "--limit", "2")
    assert [line.split()[0] for line in text.splitlines()] == ["entry", "5", "6", "head:"]
    assert "the coordinator asks for sigma = 0.1" in text
    assert said["head"]["hash"] in text


def test_showing_a_ledger_writes_nothing(office: Office) -> None:
    with office.ledger() as book:
        book.reserve(plan_round(book.policy, "autumn", 1, "adapter"))
    office("ledger", "show")
    office("plan")
    assert office.entries()[-1] == "RESERVE"


def test_a_ledger_that_holds_says_so_and_an_edited_one_says_where(office: Office) -> None:
    office.spend(1, 2)
    with office.ledger() as book:
        seq, digest = book.head()
    assert "checked to entry 5" in office("ledger", "verify", "--anchor", f"{seq}:{digest}")
    with closing(sqlite3.connect(office.folder / "ledger.db")) as base:
        base.execute("DROP TRIGGER entries_stay")
        base.execute("UPDATE entries SET text = replace(text, '0.02', '0.01') WHERE seq = 2")
        base.commit()
    assert "at entry 2: the text is not what was hashed" in office("ledger", "verify", code=4)
    assert "条目 2 处不成立" in office("ledger", "verify", code=4, lang="zh")
    office("ledger", "show", code=4)


def test_a_ledger_that_is_no_database_is_one_line_and_exit_4(office: Office) -> None:
    office.spend(1)
    (office.folder / "ledger.db").write_bytes(b"not a database" * 100)
    for words in (["ledger", "show"], ["ledger", "verify"], ["ledger", "recover"], ["plan"], ["policy", "adopt"]):
        office(*words, code=4)


@pytest.mark.parametrize(("anchor", "code"), [("9:" + "a" * 64, 4), ("5:" + "a" * 64, 4), ("5", 2), ("x:abc", 2)])
def test_an_anchor_that_is_not_in_the_ledger_breaks_it(office: Office, anchor: str, code: int) -> None:
    office.spend(1, 2)
    office("ledger", "verify", "--anchor", anchor, code=code)


def test_a_changed_update_in_the_outbox_is_seen(office: Office) -> None:
    office.spend(1)
    next((office.folder / "outbox").iterdir()).write_bytes(b"another update")
    assert "is not what was released" in office("ledger", "verify", code=4)


def test_an_export_can_be_verified_elsewhere(office: Office, tmp_path: Path) -> None:
    office.spend(1)
    place = tmp_path / "ledger.jsonl"
    assert "4 entries" in office("ledger", "export", str(place))
    key = tmp_path / "ledger.pub"
    shutil.move(office.folder / "keys" / "ledger.pub", key)
    (office.folder / "ledger.db").unlink()
    office("ledger", "verify", "--file", str(place), "--key", str(key))
    place.write_text("\n".join([*place.read_text("utf-8").splitlines()[:-1], "{}"]) + "\n", "utf-8")
    office("ledger", "verify", "--file", str(place), "--key", str(key), code=4)
    assert ".jsonl" in office("ledger", "export", str(tmp_path / "ledger.txt"), code=2)


def test_a_dead_processs_reservation_is_burned_by_recover(office: Office) -> None:
    with office.ledger() as book:
        book.reserve(plan_round(book.policy, "autumn", 1, "adapter"))
    assert "1 dead reservations burned" in office("ledger", "recover")
    assert office.entries()[-1] == "BURN"
    assert "0 dead reservations burned" in office("ledger", "recover")


def test_a_rolled_back_ledger_is_used_again_only_after_the_officer_signed_for_the_loss(office: Office) -> None:
    office.spend(1)
    copy = office.folder.parent / "ledger.db"
    with closing(sqlite3.connect(office.folder / "ledger.db")) as base, closing(sqlite3.connect(copy)) as other:
        base.backup(other)
    office.spend(2)
    for tail in ("-wal", "-shm"):
        (office.folder / f"ledger.db{tail}").unlink(missing_ok=True)
    shutil.copy(copy, office.folder / "ledger.db")

    assert "rolled back" in office("ledger", "verify", code=4)
    said = office("ledger", "recover", code=4)
    assert "ends at entry 3" in said
    assert "has seen entry 5" in said
    assert "3 rounds are lost" in said
    create_key(office.folder / "keys" / "mallory")
    office("ledger", "recover", "--accept", "--key", "keys/mallory", code=4)
    assert office.entries()[-1] == "RELEASE"
    said = office("ledger", "recover", "--accept", "--key", "keys/officer")
    assert "charged as 3 rounds" in said
    assert f"ε ≤ {up(of(4))} (δ = 1e-06, unit: one customer, period: spring), 0 rounds left" in said
    office("ledger", "verify")
    office("plan", code=3)


def test_without_a_ledger_its_verbs_say_when_there_will_be_one(office: Office) -> None:
    for words in (["show"], ["verify"], ["recover"], ["export", "a.jsonl"]):
        assert "the first round begins it" in office("ledger", *words, code=2)


# --- words ---


@pytest.mark.parametrize("key", WORDS)
def test_both_languages_say_the_same_and_epsilon_with_its_delta(key: str) -> None:
    chinese, english = WORDS[key]
    places = [{name for _, name, _, _ in string.Formatter().parse(text) if name} for text in (chinese, english)]
    assert places[0] == places[1]
    for text in (chinese, english):
        assert "{epsilon}" not in text or {"delta", "period"} <= places[0]
        assert "\n" not in text


def test_epsilon_is_never_rounded_down() -> None:
    assert [up(one) for one in (0.0, 3.2, 3.2000001, 7.999, float("inf"))] == ["0.00", "3.20", "3.21", "8.00", "∞"]


def test_columns_stand_under_each_other_in_chinese() -> None:
    lines = table([["轮", "ε"], ["10", "1.00"]]).splitlines()
    assert lines == ["轮  ε", "10  1.00"]


def test_every_command_of_the_officer_shows_an_example() -> None:
    for command in (officer.plan, *officer.policy.commands.values(), *officer.ledger.commands.values()):
        assert re.search(r"Example: fugou merchant (plan|policy|ledger)", command.help or ""), command.name
