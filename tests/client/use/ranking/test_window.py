"""One customer at a time: the very lists that the rankers make for all at once, and fast enough to be asked for."""

from __future__ import annotations

import time

import numpy as np
import pytest

from client.use.ranking.book import Book, make_book, make_shelf
from client.use.ranking.guard import judge
from client.use.ranking.rankers import Choice, by_frequency, explore_scores, ranked, view
from client.use.ranking.window import by_habit, by_head, explore, plain, top
from client.use.recommend import NO_HEAD, offers, open_window
from common.ranking import PARTS, Floats

DAY = 300
WORDS = ("milk", "tea", "soap", "bread", "rice")


def book(customers: int, items: int, lines: int, seed: int = 0) -> Book:
    random = np.random.default_rng(seed)
    shelf = make_shelf((f"i{at:04}", f"{WORDS[at % 5]} {at}", WORDS[at % 5], f"s{at % 7}") for at in range(items))
    mine = random.integers(0, items, (customers, 12))
    who = random.integers(0, customers, lines)
    columns = who, random.integers(0, DAY + 40, lines), mine[who, random.integers(0, 12, lines)]
    return make_book([f"c{one}" for one in range(customers)], shelf, *columns)


def head(seed: int = 1) -> dict[str, Floats]:
    random = np.random.default_rng(seed)
    return {name: random.normal(0, 0.3, part.shape).astype(np.float32) for name, part in PARTS.items()}


@pytest.mark.parametrize("choice", [Choice(), Choice(slots=3), Choice(slots=0, debias=0.7), Choice(k=4, slots=2)])
def test_one_customers_list_is_the_rankers_row(choice: Choice) -> None:
    seen = view(book(30, 40, 900), DAY)
    window = by_head(seen, head(), choice)
    expected = ranked(seen, head(), choice)
    for who, row in enumerate(expected.tolist()):
        assert [one.item for one in window.best(who, choice.slots, choice.k)] == row


def test_new_items_have_the_explore_rankers_scores() -> None:
    seen = view(book(30, 40, 300), DAY)
    expected, scores = explore_scores(seen, head(), Choice(debias=0.2)), explore(seen, head(), Choice(debias=0.2))
    for who in range(30):
        new_I = np.isfinite(expected[who])
        np.testing.assert_allclose(scores(who)[new_I], expected[who][new_I], rtol=1e-9)


def test_the_plain_window_is_frequency_with_ties_by_popularity() -> None:
    seen = view(book(30, 40, 900), DAY)
    assert top(plain(seen), np.arange(30)).tolist() == by_frequency(seen).tolist()


def test_the_guard_decides_between_the_head_and_frequency() -> None:
    shop = book(300, 60, 9000)
    seen = view(shop, DAY)
    poor = {name: np.zeros(part.shape, np.float32) for name, part in PARTS.items()}
    poor["rank"][0] = -50.0  # what was bought least comes first
    verdict = judge(shop, DAY, poor)
    assert not verdict.use_head
    assert verdict.head < verdict.frequency
    habit, chosen = by_habit(seen, poor, Choice()), open_window(seen, poor, Choice())
    assert np.array_equal(chosen.repeat_R, habit.repeat_R)
    few = view(book(20, 60, 600), DAY)
    fair = {**NO_HEAD, "rank": -poor["rank"]}
    assert judge(few.book, DAY, fair).use_head  # so few customers hardly speak against it
    assert not np.array_equal(open_window(few, fair, Choice()).repeat_R, by_habit(few, fair, Choice()).repeat_R)


def test_a_customer_without_a_purchase_and_a_shop_without_a_sale_are_served_with_what_is_there() -> None:
    window = open_window(view(book(5, 8, 0), DAY), None, Choice())
    names = {item: item for item in window.seen.book.shelf.items}
    found = offers(window, 3, names, 10, 20)
    assert len(found) == 8
    assert all(one.times == 0 for one in found)
    assert offers(window, 3, names, 10, 0) == []
    empty = open_window(view(make_book(["c"], make_shelf([]), *np.zeros((3, 0), np.int64)), DAY), None, Choice())
    assert offers(empty, 0, {}, 10, 3) == []


def test_what_is_not_offered_is_in_no_list() -> None:
    seen = view(book(10, 30, 600), DAY)
    names = {item: item for item in seen.book.shelf.items[::2]}
    window = open_window(seen, None, Choice(), names)
    for who in range(10):
        found = [one.item_id for one in offers(window, who, names, 5, 30)]
        assert sorted(found) == sorted(names)


def test_a_warm_list_of_500_items_takes_less_than_10_ms() -> None:
    window = open_window(view(book(2000, 500, 60_000), DAY), head(), Choice())
    names = {item: item for item in window.seen.book.shelf.items}
    offers(window, 0, names, 8, 10)
    took = []
    for who in range(50):
        began = time.process_time()
        offers(window, who, names, 8, 10)
        took.append(time.process_time() - began)
    assert sorted(took)[25] < 0.01
