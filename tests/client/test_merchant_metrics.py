"""Every figure of `fugou merchant metrics` against the same figure in plain SQL."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from client.config import load_merchant
from client.metrics import MONTHS, SEGMENTS, Metrics, Purchases, lines, measure, read_purchases, rfm, visits_of, waiting
from client.setup import make_merchant
from common.cli import main
from common.errors import UserError

DAY = date(2026, 1, 5)


def some_purchases(seed: int, customers: int = 60, days: int = 430) -> pl.DataFrame:
    """Return purchases of customers with rhythms of their own; some come once, some spend alike."""
    random = np.random.default_rng(seed)
    rows = []
    for who in range(customers):
        day = int(random.integers(0, days))
        while day < days:
            rows.append((f"c{who}", DAY + timedelta(days=day), float(random.integers(1, 12)) * 10.5))
            day += 1 + int(random.exponential(3 + who % 50))
            if who % 7 == 0:
                break
    return pl.DataFrame(rows, schema=["customer", "day", "spend"], orient="row")


@pytest.fixture(params=[1, 2, 3])
def purchases(request: pytest.FixtureRequest) -> pl.DataFrame:
    return some_purchases(request.param)


@pytest.fixture
def sql(purchases: pl.DataFrame) -> Iterator[sqlite3.Connection]:
    """A database with `p`: customer, day as a number (julian), spend; and `g`: every purchase with the next one."""
    with closing(sqlite3.connect(":memory:")) as base:
        base.execute("create table raw (customer text, day text, spend real)")
        base.executemany(
            "insert into raw values (?, ?, ?)",
            [(who, day.isoformat(), paid) for who, day, paid in purchases.iter_rows()],
        )
        base.execute(
            "create table p as select customer, cast(julianday(day) as int) d, substr(day, 1, 7) m, spend from raw"
        )
        base.execute(
            "create table g as select customer, d, lead(d) over w n, row_number() over w k from p "
            "window w as (partition by customer order by d)"
        )
        yield base


def rows(base: sqlite3.Connection, query: str, *values: Any) -> list[tuple[Any, ...]]:
    return base.execute(query, values).fetchall()


@pytest.mark.parametrize("window", [7, 30, 90, 365, 1000])
def test_the_repurchase_rate_after_the_first_purchase_is_that_of_sql(
    purchases: pl.DataFrame, sql: sqlite3.Connection, window: int
) -> None:
    found = measure(purchases, [window]).repurchase[0]
    query = "select count(*), sum(coalesce(n - d <= ?, 0)) from g where k = 1 and d <= (select max(d) from p) - ?"
    [(judged, returned)] = rows(sql, query, window, window)
    assert (found.customers, found.returned) == (judged, returned or 0)
    assert found.rate == (pytest.approx(returned / judged) if judged else None)


@pytest.mark.parametrize("window", [7, 30, 90, 365, 1000])
def test_the_repurchase_rate_within_the_period_is_that_of_sql(
    purchases: pl.DataFrame, sql: sqlite3.Connection, window: int
) -> None:
    found = measure(purchases, [window]).repurchase[0]
    query = (
        "select count(*), coalesce(sum(times >= 2), 0) from (select count(*) times from p "
        "where d > (select max(d) from p) - ? group by customer)"
    )
    [(active, repeated)] = rows(sql, query, window)
    [(span,)] = rows(sql, "select max(d) - min(d) + 1 from p")
    assert (found.active, found.repeated) == (active, repeated)
    assert found.period_rate == (pytest.approx(repeated / active) if span >= window else None)


def test_overall_and_frequency_are_those_of_sql(purchases: pl.DataFrame, sql: sqlite3.Connection) -> None:
    found = measure(purchases)
    [(customers, twice)] = rows(sql, "select count(*), sum(n > 1) from (select count(*) n from p group by customer)")
    assert found.customers == customers
    assert found.overall == pytest.approx(twice / customers)
    months = rows(sql, "select m, count(distinct customer), count(*) from p group by m order by m")
    assert [(one.month, one.customers, one.purchases) for one in found.months] == months
    assert found.frequency == pytest.approx(sum(bought for _, _, bought in months) / sum(who for _, who, _ in months))


def test_a_month_is_whole_only_where_the_data_covers_all_of_it(purchases: pl.DataFrame) -> None:
    found = {one.month: one.whole for one in measure(purchases).months}
    first, last = purchases["day"].min(), purchases["day"].max()
    assert isinstance(first, date)
    assert isinstance(last, date)
    assert not found[first.isoformat()[:7]]
    assert sum(found.values()) == len(found) - 1 - ((last + timedelta(days=1)).day != 1)


def test_cohort_retention_is_that_of_sql_and_unknown_months_stay_unknown(
    purchases: pl.DataFrame, sql: sqlite3.Connection
) -> None:
    query = (
        "with f as (select customer, min(m) start from p group by customer), "
        "a as (select distinct f.customer, f.start, (substr(m, 1, 4) - substr(start, 1, 4)) * 12 + "
        "substr(m, 6) - substr(start, 6) after from p join f using (customer)) "
        "select start, after, count(*) from a group by start, after"
    )
    bought = {(start, after): count for start, after, count in rows(sql, query)}
    [(end,)] = rows(sql, "select max(day) from raw")
    over = (date.fromisoformat(end) + timedelta(days=1)).day == 1
    for one in measure(purchases).cohorts:
        assert one.customers == bought[one.month, 0]
        for after, share in enumerate(one.retention, 1):
            reach = 12 * int(one.month[:4]) + int(one.month[5:]) + after
            if reach > 12 * int(end[:4]) + int(end[5:7]) - (not over):
                assert share is None
            else:
                assert share == pytest.approx(bought.get((one.month, after), 0) / one.customers)
        assert len(one.retention) == MONTHS


def test_rfm_scores_and_segments_are_those_of_sql(purchases: pl.DataFrame, sql: sqlite3.Connection) -> None:
    query = (
        "with u as (select customer, (select max(d) from p) - max(d) r, count(*) f, round(sum(spend), 2) m "
        "from p group by customer) "
        "select customer, r, f, m, 1 + 5 * (rank() over (order by r desc) - 1) / count(*) over (), "
        "1 + 5 * (rank() over (order by f) - 1) / count(*) over (), "
        "1 + 5 * (rank() over (order by m) - 1) / count(*) over () from u order by customer"
    )
    scored = rfm(visits_of(purchases), max(purchases["day"]))
    wanted = rows(sql, query)
    found = scored.select("customer", "recency_days", "purchases", pl.col("spend").round(2), "r", "f", "m").rows()
    assert found == wanted
    classes = {
        (True, True, True): "champion", (True, False, True): "rising", (False, True, True): "keep",
        (False, False, True): "rescue", (True, True, False): "loyal", (True, False, False): "new",
        (False, True, False): "quiet", (False, False, False): "lost",
    }  # fmt: skip
    assert scored["segment"].to_list() == [classes[r >= 4, f >= 4, m >= 4] for *_, r, f, m in wanted]
    counted = {one.name: one.customers for one in measure(purchases).segments}
    assert counted == dict(scored.group_by("segment").len().iter_rows())
    assert list(counted) == [name for name in SEGMENTS if name in counted]


def test_days_to_the_next_purchase_are_kaplan_and_meiers_in_sql(
    purchases: pl.DataFrame, sql: sqlite3.Connection
) -> None:
    found = measure(purchases).waiting
    query = (
        "with gaps as (select coalesce(n, (select max(d) from p)) - d t, n is not null closed from g), "
        "steps as (select t, sum(closed) closed, count(*) ended, row_number() over (order by t) k from gaps group by t), "
        "risk as (select t, closed, k, sum(ended) over (order by t rows between current row and "
        "unbounded following) n from steps), "
        "curve(k, t, s) as (select k, t, 1 - 1.0 * closed / n from risk where k = 1 union all "
        "select risk.k, risk.t, s * (1 - 1.0 * closed / n) from risk join curve on risk.k = curve.k + 1) "
        "select t, s from curve order by t"
    )
    curve = rows(sql, query)
    for share, days in zip((0.75, 0.5, 0.25), found.quartiles, strict=True):
        assert days == next((t for t, s in curve if s <= share + 1e-12), None)
    assert {int(days): round(share, 9) for days, share in found.within.items()} == {
        int(days): round(1 - [s for t, s in curve if t <= int(days)][-1], 9) for days in found.within
    }
    [(closed, still)] = rows(sql, "select sum(n is not null), sum(n is null) from g")
    assert (found.closed, found.open) == (closed, still)


def test_an_open_gap_is_not_taken_for_a_closed_one() -> None:
    days = [("a", 0), ("a", 10), ("b", 0), ("c", 0), ("d", 100)]
    visits = pl.DataFrame(
        {"customer": [who for who, _ in days], "day": [DAY + timedelta(days=day) for _, day in days], "spend": 1.0}
    )
    found = waiting(visits_of(visits), DAY + timedelta(days=100))
    assert found.quartiles == (10, None, None)
    assert (found.closed, found.open, found.closed_median) == (1, 4, 10.0)
    assert found.within["30"] == pytest.approx(1 / 4)


def test_orders_of_one_day_are_one_purchase_whatever_the_pieces_they_come_in() -> None:
    lines_ = pl.DataFrame(
        {
            "customer_id": ["a", "a", "b", "a"],
            "order_time": [
                datetime(2026, 1, 5, 9),
                datetime(2026, 1, 5, 21),
                datetime(2026, 1, 5),
                datetime(2026, 1, 6),
            ],
            "quantity": [2.0, 1.0, 1.0, 1.0],
            "price": [10.0, 5.0, 7.0, 0.0],
        }
    )
    whole, pieces = Purchases(), Purchases()
    whole.add(lines_)
    for place in range(lines_.height):
        pieces.add(lines_[place])
    wanted = [("a", date(2026, 1, 5), 25.0), ("a", date(2026, 1, 6), 0.0), ("b", date(2026, 1, 5), 7.0)]
    assert whole.frame().rows() == pieces.frame().rows() == wanted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_merchant(tmp_path / "shop", "Halfway Hill", "en", date(2026, 11, 22))


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["fugou", *words])
    main()


def test_the_command_prints_every_definition_beside_its_numbers_in_both_languages(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for lang, words in {
        "zh": ("N 日复购率", "购买频次", "同期群留存", "RFM", "Kaplan"),
        "en": ("Repurchase rate.", "Cohort"),
    }.items():
        monkeypatch.setenv("FUGOU_LANG", lang)
        run(monkeypatch, "merchant", "--dir", str(folder), "metrics")
        said = capsys.readouterr().out
        assert all(word in said for word in words), said
        assert "{" not in said


def test_the_command_prints_json_with_definitions_and_the_asked_windows(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FUGOU_LANG", "en")
    run(monkeypatch, "merchant", "--dir", str(folder), "metrics", "--json", "--window", "45", "--window", "10")
    found = json.loads(capsys.readouterr().out)
    assert [one["days"] for one in found["repurchase"]] == [10, 45]
    assert found["definitions"]["repurchase"].startswith("Repurchase rate")
    settings = load_merchant(folder)
    again = json.loads(json.dumps(asdict(measure(read_purchases(settings), [10, 45]))))
    assert {key: found[key] for key in again} == again


def test_a_shop_without_orders_is_told_so_in_one_line(folder: Path) -> None:
    head = (folder / "orders.csv").read_text("utf-8").splitlines()[0]
    (folder / "orders.csv").write_text(head + "\n", "utf-8")
    with pytest.raises(UserError, match="no order that can be used") as error:
        read_purchases(load_merchant(folder))
    assert "\n" not in str(error.value)


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUGOU_LANG", "en")


def test_one_customer_who_came_once_gives_a_page_without_numbers_made_up(tmp_path: Path) -> None:
    alone = pl.DataFrame({"customer": ["a"], "day": [DAY], "spend": [3.0]})
    found: Metrics = measure(alone)
    assert (found.overall, found.frequency, found.waiting.quartiles) == (0.0, 1.0, (None, None, None))
    assert found.waiting.closed_median is None
    assert all(one.rate is None for one in found.repurchase)
    assert list(lines(found, "shop"))


@pytest.mark.parametrize(("end", "known"), [(date(2026, 3, 30), 1), (date(2026, 3, 31), 2)])
def test_the_last_month_counts_for_cohorts_once_it_is_over(end: date, known: int) -> None:
    days = [("a", date(2026, 1, 1)), ("a", date(2026, 2, 3)), ("a", end)]
    visits = pl.DataFrame({"customer": [who for who, _ in days], "day": [day for _, day in days], "spend": 1.0})
    [cohort] = measure(visits).cohorts
    assert [share for share in cohort.retention if share is not None] == [1.0] * known
