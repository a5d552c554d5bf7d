from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from client.check import check, spread
from client.config import load_merchant
from client.data.dataset import make_dataset
from client.data.scrub import KINDS
from client.data.sources import CUT, EMPTIED, KEPT, LEFT_OUT, MEANING, Reading, read_shop
from client.findings import KEYS, Findings
from client.sample import Sample
from client.words import HIDDEN, WORDS
from common.cli import main
from common.model import load_base
from common.schema import TABLES

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "merchant"
TODAY = date(2026, 11, 22)


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUGOU_LANG", "en")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the example shop, which has nothing wrong."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "shop"))


def append(folder: Path, table: str, *lines: str) -> int:
    """Add lines to a table; return the place of the first of them."""
    file = folder / f"{table}.csv"
    text = file.read_text("utf-8")
    text += "" if text.endswith("\n") else "\n"
    file.write_text(text + "".join(f"{line}\n" for line in lines), "utf-8")
    return text.count("\n") + 1


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> int:
    monkeypatch.setattr(
        sys, "argv", ["fugou", "merchant", "--dir", str(folder), "check", "--today", "2026-11-22", *more]
    )
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def found(folder: Path, today: date = TODAY) -> dict[tuple[str, str, str], int]:
    """Return how often each (table, column, kind) was found."""
    return {(key.table, key.column, key.kind): count for key, count in check(folder, today).findings.counts.items()}


def test_the_example_shop_has_nothing_wrong(folder: Path) -> None:
    report = check(folder, TODAY)
    assert not report.findings.counts
    assert report.shopping is not None
    assert (report.shopping.customers, report.shopping.first_day) == (12, date(2026, 1, 3))
    assert report.scrubbed["手机"] == 3


ORDER = "c01,{time},SKU7,茉莉花茶,{count},58.00,{note},{order}"
ODD: dict[str, tuple[str, str, str, str]] = {
    "a day to come": ("orders", ORDER.format(time="2026-11-23", count=1, note="", order="N1"), "order_time", "future"),
    "a day long ago": (
        "orders",
        ORDER.format(time="1999-12-31", count=1, note="", order="N1"),
        "order_time",
        "before-2000",
    ),
    "an unknown product": ("orders", "c01,2026-02-01,GONE,旧款,1,9,,N1", "item_id", "unknown-product"),
    "the line again": (
        "orders",
        "c11,2026-01-03 08:13,SKU5,糯米普洱,2,75.00,,T1101",
        "order_id+item_id+order_time",
        "duplicate",
    ),
    "the item again": ("products", "SKU1,别的名字,茶叶,青禾里,128.00,,", "item_id", "duplicate"),
    "the review again": ("reviews", "R01,c01,SKU7,2026-02-22 09:08,5,真香", "review_id", "duplicate"),
    "the dialog again": ("dialogs", "D01,c01,2026-01-05 10:12,物流,已发货,在吗,在的", "dialog_id", "duplicate"),
    "the message again": (
        "campaigns",
        "M01,c01,SKU7,2026-01-22 10:00,短信,,再来一罐",
        "campaign_id+customer_id+item_id",
        "duplicate",
    ),
    "a reviewer without orders": ("reviews", "R99,stranger,SKU7,2026-02-22,5,真香", "customer_id", "no-orders"),
    "a caller without orders": ("dialogs", "D99,stranger,2026-01-05,物流,已发货,在吗,在的", "customer_id", "no-orders"),
    "a message to nobody": ("campaigns", "M99,stranger,SKU7,2026-01-22,短信,,再来", "customer_id", "no-orders"),
    "words in a wrong encoding": ("reviews", "R99,c01,SKU7,2026-02-22,5,å¾ˆå¥½å–", "text", "damaged-text"),
    "words read as GBK": ("reviews", "R99,c01,SKU7,2026-02-22,5,鑼跺緢棣欙紝锛屽ソ", "text", "damaged-text"),
    "lost words": ("reviews", "R99,c01,SKU7,2026-02-22,5,锟斤拷锟斤拷", "text", "damaged-text"),
    "a web page": ("products", "SKU99,新茶,茶叶,青禾里,1,,<p style=x>好茶</p>&nbsp;", "description", "html"),
}
"""What was added -> table, line, column and kind of the one finding it makes."""


@pytest.mark.parametrize("what", ODD)
def test_an_odd_row_is_told_with_its_place_and_stays_in_training(folder: Path, what: str) -> None:
    table, line, column, kind = ODD[what]
    before = len(getattr(read_shop(load_merchant(folder)), table))
    place = append(folder, table, line)
    report = check(folder, TODAY)
    [(key, count)] = report.findings.counts.items()
    assert (key.table, key.column, key.kind, key.does, count) == (table, column, kind, KEPT, 1)
    [one] = report.findings.shown[key]
    assert one.place == f"line {place}"
    assert one.source.endswith(f"{table}.csv")
    assert len(getattr(read_shop(load_merchant(folder)), table)) == before + 1 == report.tables[table].good


LEFT: dict[str, tuple[str, str, str]] = {
    "no customer": ("orders", ",2026-02-01,SKU7,茉莉花茶,1,58.00,,N1", "empty-id"),
    "no time": ("orders", ORDER.format(time="某天", count=1, note="", order="N1"), "time"),
    "nothing bought": ("orders", ORDER.format(time="2026-02-01", count=0, note="", order="N1"), "zero"),
    "no words": ("reviews", "R99,c01,SKU7,2026-02-22,5,", "empty-text"),
    "no such rating": ("reviews", "R99,c01,SKU7,2026-02-22,7,真香", "rating"),
}


@pytest.mark.parametrize("what", LEFT)
def test_a_row_that_is_said_to_be_left_out_is_left_out_by_training(folder: Path, what: str) -> None:
    table, line, kind = LEFT[what]
    before = len(getattr(read_shop(load_merchant(folder)), table))
    append(folder, table, line)
    report = check(folder, TODAY)
    [(key, count)] = report.findings.counts.items()
    assert (key.kind, key.does, count) == (kind, LEFT_OUT, 1)
    assert len(getattr(read_shop(load_merchant(folder)), table)) == before == report.tables[table].good
    assert report.tables[table].read == before + 1


def test_returns_and_blank_lines_are_counted_and_no_findings(folder: Path) -> None:
    append(folder, "orders", ORDER.format(time="2026-02-01", count=-1, note="", order="N1"), ",,,,,,,")
    report = check(folder, TODAY)
    assert not report.findings.counts
    assert report.tables["orders"].excluded == {"returns": 1, "blank": 1}


def test_the_day_decides_what_the_future_is(folder: Path) -> None:
    assert not found(folder, date(2026, 5, 31))
    assert ("orders", "order_time", "future") in found(folder, date(2026, 5, 20))


def test_text_that_is_in_order_is_not_called_damaged(folder: Path) -> None:
    fine = ["légère et créée à l’été — 10 € «déjà»", "1 < 2 > 0 & a<b", "好喝！Ã la carte", "a <3 b", "价格<100元>划算"]
    append(folder, "reviews", *(f"R9{n},c01,SKU7,2026-02-22,5,{text}" for n, text in enumerate(fine)))
    assert not found(folder)


def test_personal_data_in_a_shown_value_is_hidden(folder: Path) -> None:
    append(folder, "reviews", "R99,c01,SKU7,某天 13800138000,5,真香")
    report = check(folder, TODAY)
    [[one]] = report.findings.shown.values()
    assert "13800138000" not in one.value


def test_every_word_the_page_can_need_is_there_in_both_languages() -> None:
    kinds = {*MEANING, *(kind for *_, kind in ODD.values())}
    assert {f"kind_{kind}" for kind in kinds} <= set(WORDS)
    assert {"does_" + does.replace(" ", "_") for does in (LEFT_OUT, EMPTIED, CUT, KEPT)} <= set(WORDS)
    assert {f"reason_{reason}" for reason in ("cancelled", "refunded", "unpaid", "returns", "blank")} <= set(WORDS)
    assert set(KEYS) == set(TABLES)


@pytest.mark.parametrize("train", ["", "mixture = { repurchase = 0, history = 1 }"])
def test_what_check_says_of_training_is_what_training_does(folder: Path, train: str, tiny_base: str) -> None:
    text = (folder / "merchant.toml").read_text("utf-8").replace("[train]", f"[train]\n{train}")
    (folder / "merchant.toml").write_text(text, "utf-8")
    report = check(folder, TODAY)
    settings = load_merchant(folder)
    reading = Reading()
    data = make_dataset(read_shop(settings, reading), load_base(tiny_base), 160, 4, None, settings.train)
    posed = dict(enumerate(data.tasks))
    assert report.trained is not None
    assert report.trained.whole
    assert report.trained.customers == len(posed)
    assert report.trained.tasks == Counter(one.example.task for tasks in posed.values() for one in tasks)
    assert report.trained.before == spread(np.array([len(tasks) for tasks in posed.values()]))
    assert report.trained.bound == 4
    assert report.trained.after == spread(np.array([min(len(tasks), 4) for tasks in posed.values()]))
    assert report.scrubbed == reading.scrubbed
    for task, (prompt, target) in report.trained.examples.items():
        assert any(
            (one.example.task, one.example.prompt, one.example.target) == (task, prompt, target)
            for tasks in posed.values()
            for one in tasks
        )


def test_weeks_kept_for_evaluation_are_not_said_to_be_trained_on(folder: Path) -> None:
    whole = check(folder, TODAY).trained
    text = (folder / "merchant.toml").read_text("utf-8").replace("# until = 2026-05-01", "until = 2026-04-01")
    (folder / "merchant.toml").write_text(text, "utf-8")
    part = check(folder, TODAY).trained
    assert whole is not None
    assert part is not None
    assert (whole.held_out, part.customers) == (0, whole.customers)
    assert 0 < sum(part.tasks.values()) < sum(whole.tasks.values())
    assert part.held_out > 0


def test_without_a_policy_the_page_says_so_and_goes_on(folder: Path) -> None:
    (folder / "policy.toml").unlink()
    report = check(folder, TODAY)
    assert report.trained is not None
    assert (report.trained.bound, report.trained.after) == (None, None)
    assert "fugou merchant init" in report.notes[0]


def test_nothing_is_written_and_nothing_charged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> list[tuple[str, int, bytes]]:
        return [
            (str(one), one.stat().st_mtime_ns, one.read_bytes()) for one in sorted(folder.rglob("*")) if one.is_file()
        ]

    before = state()
    assert run(monkeypatch, folder, "--all") == 0
    assert state() == before


def test_the_page_reads_in_both_languages_and_shows_one_example_a_task(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    append(folder, "orders", *(ODD[what][1] for what in ("a day to come", "an unknown product")))
    for lang, sure in {
        "zh": ("青禾茶铺", "只读", "12 位顾客", "复购率", "今天之后", "茉莉花茶"),
        "en": ("only reads", "12 customers", "repurchase rate", "in the future", "personal data hidden"),
    }.items():
        monkeypatch.setenv("FUGOU_LANG", lang)
        assert run(monkeypatch, folder) == 0
        said = capsys.readouterr().out
        assert all(word in said for word in sure), said
        assert said.count("⟦") == 5


def test_json_has_every_finding_and_every_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    append(folder, "orders", *(f"c01,2026-02-{day:02d},GONE{day},旧款,1,9,,N{day}" for day in range(1, 26)))
    assert run(monkeypatch, folder, "--json") == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert said["totals"] == [
        {"table": "orders", "kind": "unknown-product", "column": "item_id", "does": KEPT, "count": 25}
    ]
    assert [one["value"] for one in said["findings"]] == [f"GONE{day}" for day in range(1, 26)]
    assert said["tables"]["orders"]["read"] == said["tables"]["orders"]["good"] == 171
    assert said["shopping"]["customers"] == 12
    assert said["shopping"]["last_day"] == "2026-05-31"


@pytest.mark.parametrize(("more", "places"), [((), 3), (("--all",), 25)])
def test_the_page_lists_the_first_of_each_kind_and_all_when_asked(
    folder: Path,
    more: tuple[str, ...],
    places: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    append(folder, "orders", *(f"c01,2026-02-{day:02d},GONE{day},旧款,1,9,,N{day}" for day in range(1, 26)))
    assert run(monkeypatch, folder, *more) == 0
    said = capsys.readouterr().out
    assert said.count("orders.csv: line") == places
    assert ("and 22 more" in said) == (not more)
    assert "25 times" in said


def test_a_refused_table_ends_with_2_after_the_others_were_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "reviews.csv").write_bytes(b"PK\x03\x04" + bytes(200))
    assert run(monkeypatch, folder) == 2
    said = capsys.readouterr()
    assert "12 customers" in said.out
    assert "reviews was not taken" in said.out
    assert len(said.err.strip().splitlines()) == 1
    assert "reviews.csv" in said.err


def test_all_refused_tables_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "orders.csv").unlink()
    (folder / "products.csv").write_text("编号\n1\n", "utf-8")
    assert run(monkeypatch, folder) == 2
    said = capsys.readouterr()
    assert "orders was not taken" in said.out
    assert "products was not taken" in said.out
    assert "and 1 more" in said.err
    assert "no order that can be used" in said.out


def test_a_table_with_too_many_bad_rows_is_refused_with_its_findings_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    append(folder, "orders", *(ORDER.format(time="某天", count=1, note="", order=f"N{n}") for n in range(60)))
    assert run(monkeypatch, folder) == 2
    assert "60 times" in capsys.readouterr().out


# --- the sample and the collector ---


def stream(customers: int, rows: int) -> pl.DataFrame:
    random = np.random.default_rng(5)
    return pl.DataFrame({"customer_id": [f"c{one}" for one in random.integers(0, customers, rows)], "row": range(rows)})


@pytest.mark.parametrize(("most", "limit"), [(40, 10**9), (10**9, 900)])
def test_a_sample_holds_few_customers_and_each_of_them_whole(most: int, limit: int) -> None:
    whole = stream(300, 6000)
    sample = Sample(most, limit)
    for start in range(0, whole.height, 100):
        sample.add("orders", whole[start : start + 100])
    kept = pl.concat([part["orders"] for part in sample.pieces(7)])
    ids = kept["customer_id"].unique()
    assert not sample.whole
    assert 0 < len(ids) <= most
    assert kept.height <= limit
    assert kept.sort("row").equals(whole.filter(pl.col("customer_id").is_in(ids.implode())))


def test_who_is_drawn_does_not_depend_on_the_order_of_rows() -> None:
    whole = stream(300, 6000)
    ids = []
    for frame in (whole, whole.reverse()):
        sample = Sample(40)
        for start in range(0, frame.height, 500):
            sample.add("orders", frame[start : start + 500])
        ids.append(set(pl.concat([part["orders"] for part in sample.pieces(50)])["customer_id"]))
    few, many = sorted(ids, key=len)
    assert few <= many


def test_a_small_shop_is_its_own_sample_over_all_tables() -> None:
    sample = Sample()
    sample.add("orders", stream(30, 200))
    sample.add("reviews", pl.DataFrame({"customer_id": ["stranger", "c1"], "row": [1, 2]}))
    parts = list(sample.pieces(10))
    assert sample.whole
    assert sum(part["orders"].height for part in parts if "orders" in part) == 200
    assert sum(part["reviews"].height for part in parts if "reviews" in part) == 2


def test_findings_stay_few_while_all_are_counted(folder: Path) -> None:
    append(folder, "orders", *(f"c01,2026-02-01,GONE{n},旧款,1,9,,N{n}" for n in range(200)))
    report = check(folder, TODAY, limit=5)
    [(key, kept)] = report.findings.shown.items()
    assert (len(kept), report.findings.counts[key]) == (5, 200)
    assert isinstance(report.findings, Findings)


def test_the_spread_is_that_of_a_count_by_hand() -> None:
    counts = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 100])
    assert (spread(counts).median, spread(counts).nine_in_ten, spread(counts).most) == (5.5, 9, 100)


def test_a_database_that_does_not_answer_ends_with_5_after_the_others_were_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "products.csv").write_text("编号\n1\n", "utf-8")
    text = (folder / "merchant.toml").read_text("utf-8")
    url = "postgresql://shop:secret@127.0.0.1:9/book?table=reviews"
    (folder / "merchant.toml").write_text(text.replace('"reviews.csv"', f'"{url}"'), "utf-8")
    assert run(monkeypatch, folder) == 5
    said = capsys.readouterr()
    assert "products was not taken" in said.out
    assert "12 customers" in said.out
    assert "127.0.0.1" in said.err
    assert "secret" not in said.err + said.out


def test_every_kind_of_personal_data_has_an_english_name() -> None:
    assert set(HIDDEN) == KINDS
