"""The study of recommendation, on a few of the real stores: whole path, nothing from the future, intervals that hold."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from client.train.head import zero_head
from client.use.ranking.book import Book, day_of
from client.use.ranking.lists import next_order
from client.use.ranking.rankers import by_frequency, ranked, view
from common.errors import UserError
from common.ranking import bucket
from simulations.journey import LOYAL, sold
from simulations.recommend import (
    LAUNCHES,
    LEAST,
    RESULT,
    Study,
    area,
    catalogue_of,
    cold,
    difference,
    federate,
    first_day,
    guarded,
    launched,
    load_books,
    measure,
    new_items,
    plan_of,
    row,
    run_recommend,
    without_cold,
)

CUT = datetime(2017, 11, 1)
SMALL = Study(rounds=2, draws=2, stores=4, levels=("text",), epsilons=(3.0,))


@pytest.fixture(scope="module")
def lines() -> pl.DataFrame:
    return sold()


@pytest.fixture(scope="module")
def books(lines: pl.DataFrame) -> list[Book]:
    return load_books(lines, "text", CUT, 3)


def test_every_store_has_enough_customers_of_five_orders_before_the_cut(books: list[Book]) -> None:
    assert sorted((len(book.customers) for book in books), reverse=True)[0] == 88  # the largest of all 94
    for book in books:
        past = book.before(day_of(CUT))
        days = {(who, day) for who, day in zip(past.customer_P.tolist(), past.day_P.tolist(), strict=True)}
        orders = np.bincount([who for who, _ in days], minlength=len(book.customers))
        assert len(book.customers) >= LEAST
        assert orders.min() >= LOYAL


def test_both_levels_are_the_same_stores_and_orders_with_more_items_product_by_product(lines: pl.DataFrame) -> None:
    text, sku = (load_books(lines, level, CUT, 2) for level in ("text", "sku"))
    for coarse, fine in zip(text, sku, strict=True):
        assert list(coarse.customers) == list(fine.customers)
        assert len(fine.shelf) > len(coarse.shelf)
        pairs = [set(zip(one.customer_P.tolist(), one.day_P.tolist(), strict=True)) for one in (coarse, fine)]
        assert pairs[0] == pairs[1]
        assert set(fine.shelf.names) == set(coarse.shelf.names)


def test_a_cut_before_anybody_is_loyal_is_refused(lines: pl.DataFrame) -> None:
    with pytest.raises(UserError, match="take a later cut"):
        load_books(lines, "text", datetime(2017, 1, 3))


def test_lists_know_nothing_of_what_happens_from_the_cut_on(books: list[Book]) -> None:
    for book in books:
        seen, blind = view(book, day_of(CUT)), view(book.before(day_of(CUT)), day_of(CUT))
        assert np.array_equal(ranked(seen, zero_head()), ranked(blind, zero_head()))
        assert np.array_equal(by_frequency(seen), by_frequency(blind))
        assert next_order(book, day_of(CUT)).any()


def test_new_items_are_those_bought_after_and_never_before(books: list[Book]) -> None:
    seen = view(books[0], day_of(CUT))
    assert new_items(seen).any()
    assert not (new_items(seen) & books[0].before(day_of(CUT)).table()).any()


def test_a_launch_is_of_items_that_training_never_saw(books: list[Book]) -> None:
    short = without_cold(books[0])
    assert not any(cold(item) for item in short.shelf.items)
    assert 0.6 < len(short.shelf) / len(books[0].shelf) < 0.8
    kept = [place for place, item in enumerate(books[0].item_P) if not cold(books[0].shelf.items[item])]
    assert [short.shelf.items[item] for item in short.item_P] == [
        books[0].shelf.items[item] for item in books[0].item_P[kept]
    ]


def test_all_rounds_together_cost_the_epsilon_that_is_stated() -> None:
    from common.privacy.accountant import Setting, epsilon

    for cap in (1.0, 3.0):
        plan = plan_of(Study(), cap)
        assert (plan.rate, plan.steps) == (1.0, 1)
        assert 0.98 * cap < epsilon([Setting(plan.sigma, plan.rate, plan.steps * Study().rounds)], 1e-6) <= cap


def test_a_launch_adds_the_new_items_of_all_stores_to_the_shelf_and_nobody_bought_one(
    lines: pl.DataFrame, books: list[Book]
) -> None:
    catalogue = catalogue_of(lines)
    shop, short = launched(books[0], catalogue), without_cold(books[0])
    assert {item for item in catalogue if cold(item)} == {item for item in shop.shelf.items if cold(item)}
    assert [shop.shelf.items[item] for item in shop.item_P] == [short.shelf.items[item] for item in short.item_P]
    names = dict(zip(books[0].shelf.items, books[0].shelf.names, strict=True))
    assert all(names.get(item, name) == name for item, name in zip(shop.shelf.items, shop.shelf.names, strict=True))


def test_a_first_day_is_ranked_by_words_alone_against_chance_on_the_stores_own_shelf(books: list[Book]) -> None:
    views, knows = [view(book, day_of(CUT)) for book in books], zero_head()
    for name in ("private label fluid milk white only", "national brand bananas", "national brand potato chips"):
        place, sign = bucket(f"name {name}")
        knows["popularity"][place] = 5 * sign
    told = first_day(views, [knows, zero_head()])
    assert told["times random"][0] == first_day(views, [zero_head()])["times random"][0]  # the least draw stands first
    assert told["times random"][1] > 5 > told["times random"][0]
    assert told["random"] == pytest.approx(10 / told["items"], rel=0.1)


def test_an_interval_is_above_zero_for_a_real_gain_and_covers_zero_for_none() -> None:
    random = np.random.default_rng(0)
    noise, base = random.normal(0, 0.1, (2, 2000, 2))
    plain, none, better = (
        row("plain", base),
        row("none", base + noise - noise.mean(0)),
        row("better", base + noise + 0.02),
    )
    for measure_ in ("recall@10", "ndcg@10"):
        nothing, gain = difference(none, plain)[measure_], difference(better, plain)[measure_]
        assert nothing["low"] < 0 < nothing["high"]
        assert 0 < gain["low"] < gain["mean"] < gain["high"]
        assert gain["high"] - gain["low"] == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(2000), rel=0.15)


def test_draws_that_differ_widen_the_interval_though_every_customer_agrees() -> None:
    base = np.full((500, 2), 0.2)
    steady = difference(row("ours", base + 0.01, base + 0.01, base + 0.01), row("plain", base))["recall@10"]
    shaky = difference(row("ours", base - 0.02, base + 0.01, base + 0.04), row("plain", base))["recall@10"]
    assert (steady["mean"], shaky["mean"]) == (pytest.approx(0.01), pytest.approx(0.01))
    assert (steady["low"], steady["high"]) == pytest.approx((0.01, 0.01))
    assert shaky["low"] < 0 < 0.03 < shaky["high"]


def test_the_area_is_the_chance_that_a_true_one_scores_higher() -> None:
    random = np.random.default_rng(1)
    score, truth = random.integers(0, 6, 60).astype(float), random.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in score[truth] for b in score[~truth]]
    assert area(score, truth) == pytest.approx(np.mean(pairs))


def test_the_guard_uses_each_stores_own_choice(books: list[Book]) -> None:
    views = [view(book, day_of(CUT)) for book in books]
    bad = zero_head()
    bad["rank"][0] = -9  # the less often the better
    found, fallen = guarded(views, [bad, bad])
    head = measure(views, lambda _, seen: ranked(seen, bad))
    plain = measure(views, lambda _, seen: by_frequency(seen))
    assert fallen == len(books)
    assert all(np.array_equal(table_U2, plain) for table_U2 in found.table_DU2)
    assert head.mean() < plain.mean()


def test_the_whole_study_runs_on_a_few_stores_and_writes_its_table(tmp_path: Path) -> None:
    said: list[str] = []
    found = run_recommend(SMALL, tmp_path, said.append)
    assert json.loads((tmp_path / RESULT).read_text("utf-8")) == json.loads(json.dumps(found))
    level = found["text"]
    assert [one["name"] for one in level["rows"]][-3:] == [
        "federated, epsilon 3",
        "local only, epsilon 3",
        "federated with guard",
    ]
    assert level["stores"] == 4
    assert all(0 < one["recall@10"] < one["ndcg@10"] < 1 for one in level["rows"])
    assert all(len(one["recall@10 by draw"]) == SMALL.draws for one in level["rows"][-3:])
    assert level["returns"]["auc"] > 0.7
    assert found["launch"]["all stores"]["items"] > 800 > found["launch"]["own store"]["items"]
    for told in (*(found["launch"][name] for name in LAUNCHES), level["newcomers"]["first day"]):
        assert len(told["times random"]) == SMALL.draws
    assert any("GP-TopFreq" in line for line in said)
    assert "delta = 1e-06 for one customer, period" in said[0]
    assert said[0] in said[-2]


def test_noise_differs_from_run_to_run(books: list[Book]) -> None:
    from client.train.head import make_head_data

    data = [make_head_data(books[2], [day_of(CUT) - 60], day_of(CUT))]
    one, other = (federate(data, SMALL, 3.0) for _ in range(2))
    assert not np.array_equal(one["rank"], other["rank"])
