"""Who is due: the chance of an order within some days, against the model's own simulation."""

from __future__ import annotations

import numpy as np
import pytest

from client.use.ranking.book import Book, make_book, make_shelf
from client.use.ranking.timing import GAPS, LEAVES, SHAPE, STAYS, Timing, due, rhythm, timing

DAY = 400


def book_of(days: dict[str, list[int]]) -> Book:
    names = sorted(days)
    bought = np.array([(at, day, 0) for at, name in enumerate(names) for day in days[name]], dtype=np.int64)
    return make_book(names, make_shelf([("i", "i", "i", "i")]), *bought.reshape(-1, 3).T)


def test_orders_after_the_first_are_counted_with_their_times_and_later_ones_are_not() -> None:
    found = timing(book_of({"a": [10, 20, 20, 50, 401], "b": [300], "c": [399 + 5]}), DAY)
    assert found.again_U.tolist() == [2, 0, 0]
    assert found.last_U.tolist() == [40, 0, 0]
    assert found.known_U.tolist() == [390, 100, 0]


def test_chances_are_those_of_customers_who_live_by_the_model() -> None:
    """Simulated by the paper's story: of those with the same book, as many order within 30 days as `due` says."""
    random = np.random.default_rng(0)
    count, gap, known, within = 200_000, 10.0, 100, 30
    rate = random.gamma(SHAPE, 1 / (GAPS * gap), count)
    leaves = random.beta(LEAVES, STAYS, count)
    now, last, orders = np.zeros(count), np.zeros(count), np.zeros(count, np.int64)
    gone = np.zeros(count, np.bool_)
    came = np.zeros(count, np.bool_)
    for _ in range(400):
        now = now + random.exponential(1 / rate)
        came |= ~gone & (now > known) & (now <= known + within)
        before = ~gone & (now <= known)
        orders, last = orders + before, np.where(before, now, last)
        gone |= random.random(count) < leaves  # may leave after every order
        if (gone | (now > known + within)).all():
            break
    for x in (0, 1, 4):
        same = orders == x
        said = due(Timing(orders[same], last[same].round().astype(np.int64), np.full(same.sum(), known)), within, gap)
        assert said.mean() == pytest.approx(came[same].mean(), abs=0.015), x


def test_who_ordered_lately_and_often_is_more_likely_to_come_than_who_stopped() -> None:
    often = list(range(100, 400, 7))
    chance = due(timing(book_of({"loyal": often, "lost": [day for day in often if day < 250], "new": [399]}), DAY), 30)
    lost, loyal, new = chance
    assert lost < 0.2 < new < 0.9 < loyal


def test_who_never_ordered_is_not_due_and_a_longer_window_is_never_less_likely() -> None:
    found = timing(book_of({"a": [10, 200, 390], "b": [DAY + 1]}), DAY)
    assert due(found, 30)[1] == 0
    chances = [float(due(found, within)[0]) for within in (0, 7, 30, 90)]
    assert chances[0] == 0
    assert chances == sorted(chances)


def test_the_shops_rhythm_is_the_median_gap_of_its_customers() -> None:
    assert rhythm(timing(book_of({"a": [0, 10, 20], "b": [0, 40], "c": [5]}), DAY)) == 25.0
    assert rhythm(timing(book_of({"c": [5]}), DAY)) == 7.0
