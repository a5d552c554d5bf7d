"""phi: what a pair of customer and item looks like on a day, and that nobody else and no later day is in it."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import numpy as np
import pytest

from client.data.customers import Basket, Customer
from client.use.ranking.book import Book, day_of, make_book, make_shelf, open_book
from client.use.ranking.features import pairs
from common.ranking import FEATURES
from common.schema import Product

START = datetime(2026, 1, 1)
DAY = day_of(START) + 100


def random_book(customers: int = 6, items: int = 9, purchases: int = 300, seed: int = 0) -> Book:
    random = np.random.default_rng(seed)
    shelf = make_shelf((f"i{one}", f"item {one}", f"kind {one // 2}", f"shelf {one // 4}") for one in range(items))
    who, what = random.integers(0, customers, purchases), random.integers(0, items, purchases)
    days = day_of(START) + random.integers(0, 130, purchases)
    return make_book([f"c{one}" for one in range(customers)], shelf, who, days, what)


def by_hand(book: Book, who: int, what: int, day: int) -> list[float]:
    """Return phi of one pair in plain Python, from its definition."""
    mine = [
        (int(when), int(item))
        for customer, when, item in zip(book.customer_P, book.day_P, book.item_P, strict=True)
        if customer == who and when < day
    ]
    orders = sorted({when for when, _ in mine})
    days = sorted(when for when, item in mine if item == what)
    places = [orders.index(when) for when in days]
    count, since = len(days), day - days[-1]
    gap = (days[-1] - days[0]) / (count - 1) if count > 1 else 0.0
    overdue = min(max(math.log((since + 1) / max(gap, 0.5)), -3), 3) if count > 1 else 0.0
    kind, shelf = book.shelf.kind_I[what], book.shelf.category_I[what]
    kin = [when for when, item in mine if book.shelf.kind_I[item] == kind]
    near = [when for when, item in mine if book.shelf.category_I[item] == shelf]
    phi = [
        math.log1p(count),
        math.log(sum(0.9 ** (len(orders) - 1 - place) for place in places) + 0.05),
        math.log(sum(0.6 ** (len(orders) - 1 - place) for place in places) + 0.01) / 2,
        math.log(sum(0.5 ** ((day - one) / 30) for one in days) + 0.01) / 2,
        math.log(sum(0.5 ** ((day - one) / 90) for one in days) + 0.05),
        math.log(count / len(orders) + 0.01),
        math.log1p(since) / 3,
        overdue,
        overdue**2 / 3,
        float(count > 1),
        math.log(-math.expm1(-7 * count / (day - orders[0] + 30))) / 2,
        math.log1p(len(kin) - count) / 2,
        math.log1p(day - max(kin)) / 3,
        (len(near) - count) / len(orders),
    ]
    return [min(max(value, -4.0), 4.0) for value in phi]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_pair_is_what_a_slow_reading_of_the_definition_gives(seed: int) -> None:
    book = random_book(seed=seed)
    found = pairs(book, DAY)
    assert found.phi_RF.shape == (len(found), len(FEATURES))
    for row, (who, what) in enumerate(zip(found.customer_R.tolist(), found.item_R.tolist(), strict=True)):
        np.testing.assert_allclose(found.phi_RF[row], by_hand(book, who, what, DAY), rtol=1e-5, atol=1e-5)


def test_what_others_buy_changes_nothing() -> None:
    book = random_book()
    alone = np.arange(len(book.customers)) == 2
    whole, single = pairs(book, DAY), pairs(book.of(alone), DAY)
    mine = whole.customer_R == 2
    assert np.array_equal(whole.phi_RF[mine], single.phi_RF)
    assert np.array_equal(whole.item_R[mine], single.item_R)


def test_what_is_bought_on_the_day_or_later_changes_nothing() -> None:
    book = random_book()
    assert np.array_equal(pairs(book, DAY).phi_RF, pairs(book.before(DAY), DAY).phi_RF)
    assert len(book.before(DAY).day_P) < len(book.day_P)


def test_every_entry_is_bounded_however_long_a_book_is() -> None:
    shelf = make_shelf([("a", "a", "k", "s"), ("b", "b", "k", "s")])
    days = np.arange(5000)
    book = make_book(["c"], shelf, np.zeros(5000, np.int64), days, (days == 0).astype(np.int64))
    assert float(np.abs(pairs(book, 100_000).phi_RF).max()) <= 4


def test_a_book_without_purchases_has_no_pairs() -> None:
    book = random_book().before(day_of(START))
    assert len(pairs(book, DAY)) == 0


def test_a_shops_customers_become_a_book_with_every_item_once_a_day() -> None:
    morning, evening = START + timedelta(hours=9), START + timedelta(hours=20)
    one = Customer("c1", [Basket(morning, {"a": "Tea"}), Basket(evening, {"a": "Tea", "b": "Bread"})])
    product = Product(item_id="a", name="Tea", category="drinks", attributes={"type": "tea"})
    book = open_book([one, Customer("c2", [])], {"a": product})
    assert list(book.customers) == ["c1", "c2"]
    assert list(book.shelf.items) == ["a", "b"]
    assert book.shelf.names == ["Tea", "Bread"]
    assert book.day_P.tolist() == [day_of(START)] * 2
    assert book.item_P.tolist() == [0, 1]
