from __future__ import annotations

import json
import resource
import stat
import sys
from datetime import date
from pathlib import Path

import pytest

from client.check import check
from client.config import load_merchant
from client.data.sources import Reading, read_shop
from client.example import RHYTHMS
from client.setup import draft, make_id, make_merchant
from common.cli import main
from common.errors import UserError
from common.privacy.keys import load_key, load_public_key, public_hex
from common.privacy.plan import rounds_left
from common.privacy.policy import read_policy

TODAY = date(2026, 11, 22)


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUGOU_LANG", "en")


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fugou", *words])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_a_new_folder_checks_cleanly_from_the_first_minute(tmp_path: Path, lang: str) -> None:
    folder = make_merchant(tmp_path / "shop", "青禾茶铺", lang, TODAY)
    report = check(folder, TODAY)
    assert not report.refused
    assert not report.findings.counts
    assert not report.notes
    assert report.trained is not None
    assert len(report.trained.tasks) >= 4
    assert report.shopping is not None
    assert report.shopping.customers == len(RHYTHMS)
    assert load_merchant(folder).merchant.lang == lang


def test_the_example_tables_hold_no_personal_data_and_no_bad_row(tmp_path: Path) -> None:
    reading = Reading()
    shop = read_shop(load_merchant(make_merchant(tmp_path / "shop", "shop", "zh", TODAY)), reading)
    assert not reading.problems
    assert not reading.scrubbed
    assert len(shop.orders) == reading.rows["orders"]


@pytest.mark.parametrize(("lang", "word"), [("zh", "不会离开本店"), ("en", "leaves the shop")])
def test_the_settings_are_commented_in_the_merchants_language(tmp_path: Path, lang: str, word: str) -> None:
    folder = make_merchant(tmp_path / "shop", "tea", lang, TODAY)
    assert word in (folder / "merchant.toml").read_text("utf-8")


def test_the_policy_is_an_unsigned_draft_of_this_quarter_that_allows_all_its_rounds(tmp_path: Path) -> None:
    folder = make_merchant(tmp_path / "shop", "tea house", "en", TODAY)
    policy = read_policy(folder / "policy.toml")
    assert (policy.merchant, policy.period) == ("tea-house", "2026Q4")
    assert not (folder / "policy.toml.sig").exists()
    assert rounds_left(policy, ()) == policy.max_rounds
    assert rounds_left(policy.model_copy(update={"max_rounds": 100}), ()) < 2 * policy.max_rounds


@pytest.mark.parametrize(
    ("day", "quarter"), [((2027, 1, 1), "2027Q1"), ((2027, 3, 31), "2027Q1"), ((2027, 4, 1), "2027Q2")]
)
def test_the_period_is_the_quarter_of_the_day(day: tuple[int, int, int], quarter: str) -> None:
    assert draft("tea", date(*day)).period == quarter


def test_the_keys_fit_each_other_and_are_for_their_owner_only(tmp_path: Path) -> None:
    folder = make_merchant(tmp_path / "shop", "tea", "en", TODAY)
    for name in ("officer", "ledger"):
        private = folder / "keys" / name
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        public = load_public_key(folder / "keys" / f"{name}.pub")
        assert public_hex(load_key(private).public_key()) == public_hex(public)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_officer_signs_the_draft_with_the_key_that_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(make_merchant(tmp_path / "shop", "tea", "en", TODAY))
    assert run(monkeypatch, "merchant", "--dir", folder, "policy", "verify") == 4
    assert run(monkeypatch, "merchant", "--dir", folder, "policy", "sign") == 0
    assert run(monkeypatch, "merchant", "--dir", folder, "policy", "verify") == 0


@pytest.mark.parametrize("what", ["a file in it", "a hidden file in it", "a file of its name"])
def test_a_folder_that_is_not_empty_is_left_as_it_is(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "shop"
    if what == "a file of its name":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / (".mine" if "hidden" in what else "mine")).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert run(monkeypatch, "merchant", "init", str(place), "--name", "tea") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert str(place) in said[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_and_a_nested_one_will_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "some" / "where" / "shop"):
        assert load_merchant(make_merchant(place, "tea", "en", TODAY)).merchant.name == "tea"


def test_nothing_half_made_is_left_when_the_disk_is_full_half_way(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1300, hard))  # enough for the settings, too little for the orders
    try:
        with pytest.raises(UserError, match=r"cannot write .*orders\.csv"):
            make_merchant(tmp_path / "shop", "tea", "en", TODAY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        make_merchant(tmp_path / "file" / "shop", "tea", "en", TODAY)


@pytest.mark.parametrize("name", ["", "  ", "tea\nhouse", "tea\x00"])
def test_a_name_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="one line of visible text"):
        make_merchant(tmp_path / "shop", name, "en", TODAY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ['tea "house"', "back\\slash", "{braces}", "青禾 # 茶铺", "it's"])
def test_any_visible_name_survives_the_settings_file(tmp_path: Path, name: str) -> None:
    folder = make_merchant(tmp_path / "shop", name, "zh", TODAY)
    assert load_merchant(folder).merchant.name == name


def test_ids_are_made_from_the_name_or_given(tmp_path: Path) -> None:
    assert make_id("Qing He Tea!") == "qing-he-tea"
    assert make_id("青禾茶铺") == make_id("青禾茶铺") != make_id("青禾书铺")
    assert load_merchant(make_merchant(tmp_path / "shop", "青禾", "zh", TODAY, merchant="qing")).merchant.id == "qing"
    with pytest.raises(UserError, match="small letters"):
        make_merchant(tmp_path / "other", "tea", "en", TODAY, merchant="../up")
    assert not (tmp_path / "other").exists()


def test_the_command_says_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "shop"
    assert run(monkeypatch, "merchant", "init", str(place), "--name", "tea house") == 0
    said = capsys.readouterr().out
    for line in (line.split("fugou ")[1].split("  ")[0] for line in said.splitlines() if "fugou merchant" in line):
        assert run(monkeypatch, *line.split()) == 0, line
    capsys.readouterr()
    assert run(monkeypatch, "merchant", "--dir", str(place), "check", "--json") == 0
    assert json.loads(capsys.readouterr().out)["merchant"] == "tea-house"
