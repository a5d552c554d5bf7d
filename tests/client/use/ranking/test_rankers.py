"""Rankers: what they put first, that new lists hold nothing old, and that a new shop is served on its first day."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from client.train.head import zero_head
from client.use.ranking.book import Book, Shelf, make_book, make_shelf
from client.use.ranking.guard import judge, keeps
from client.use.ranking.priors import debut, kin, likeness, priors, repeat_logits
from client.use.ranking.rankers import Choice, by_count, by_frequency, by_half_life, by_popularity, ranked, view
from common.ranking import BUCKETS, FEATURES, bucket

DAY = 200
NAMES = ["milk", "tea", "soap", "bread", "rice", "salt", "new milk", "new soap"]
Row = tuple[int, int, int]


def shelf() -> Shelf:
    return make_shelf((f"i{at}", name, name.split()[-1], "food") for at, name in enumerate(NAMES))


def book_of(rows: list[Row], customers: int = 3) -> Book:
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return make_book([f"c{who}" for who in range(customers)], shelf(), *columns)


ROWS = [
    *[(0, day, 1) for day in (10, 20, 30)],  # tea three times, long ago
    *[(0, day, 2) for day in (180, 190)],  # soap twice, lately
    (0, 150, 3),
    (0, 150, 4),
    *[(1, day, 3) for day in (160, 170, 180, 190)],
    *[(2, day, 0) for day in (150, 180)],
    (2, 180, 4),
    (1, 180, 4),
]


def head_of(**words: float) -> dict[str, npt.NDArray[np.float32]]:
    """A head whose words alone speak: `popularity_milk=1` gives the word milk that weight."""
    head = zero_head()
    for key, value in words.items():
        part, word = key.split("_")
        place, sign = bucket(word)
        head[part][place] += sign * value
    return head


def test_frequency_takes_counts_first_and_popularity_between_equals() -> None:
    assert by_frequency(view(book_of(ROWS), DAY))[0, :4].tolist() == [1, 2, 3, 4]  # bread sold more often than rice
    assert by_count(view(book_of(ROWS), DAY))[0, :2].tolist() == [1, 2]


def test_a_half_life_prefers_what_was_bought_lately() -> None:
    assert by_half_life(view(book_of(ROWS), DAY))[0, 0] == 2


def test_popularity_is_of_the_last_ninety_days() -> None:
    listed = by_popularity(view(book_of(ROWS), DAY))
    assert listed[0, 0] == 3
    assert (listed == listed[0]).all()
    assert by_popularity(view(book_of(ROWS), 40))[0, 0] == 1


def test_a_head_that_weighs_recency_puts_the_recent_first_and_one_that_weighs_counts_the_frequent() -> None:
    seen = view(book_of(ROWS), DAY)
    recent, frequent = zero_head(), zero_head()
    recent["rank"][FEATURES.index("days since")] = -5
    frequent["rank"][FEATURES.index("times")] = 5
    assert ranked(seen, recent)[0, 0] == 2
    assert ranked(seen, frequent)[0, 0] == 1


def test_explore_slots_hold_what_was_never_bought_and_repeat_slots_what_was() -> None:
    seen = view(book_of(ROWS), DAY)
    bought = seen.book.table()
    listed = ranked(seen, zero_head(), Choice(k=4, slots=2))
    assert bought[0][listed[0, :2]].all()
    assert not bought[0][listed[0, 2:]].any()
    alone = ranked(seen, zero_head(), Choice(k=3, slots=0))
    assert not bought[0][alone[0]].any()


def test_a_new_shop_is_served_by_what_words_say_on_its_first_day() -> None:
    nobody = view(book_of([], customers=1), DAY)
    assert ranked(nobody, head_of(popularity_soap=3))[0, :2].tolist() == [2, 7]
    assert ranked(nobody, head_of(popularity_milk=3))[0, :2].tolist() == [0, 6]


def test_a_new_item_stands_among_new_ones_where_its_words_put_it() -> None:
    seen = view(book_of(ROWS), DAY)
    liked = ranked(seen, head_of(popularity_milk=40), Choice(k=2, slots=0))[1].tolist()
    assert 6 in liked
    assert 6 not in ranked(seen, head_of(popularity_milk=-40), Choice(k=2, slots=0))[1].tolist()


def test_an_item_that_nobody_bought_yet_is_ranked_by_its_kinds_sales_and_for_who_buys_that_kind() -> None:
    seen = view(book_of(ROWS), DAY)
    new_milk, new_soap = 6, 7
    said = debut(seen.book, seen.pairs, seen.popular, seen.buyers)
    assert said[2, new_milk] > said[2, new_soap]  # she buys milk
    assert said[0, new_soap] > said[0, new_milk]
    assert (said[:, seen.buyers > 0] == 0).all()
    lists = ranked(seen, zero_head(), Choice(k=8, slots=0)).tolist()
    assert lists[2].index(new_milk) < lists[2].index(new_soap)
    assert lists[0].index(new_soap) < lists[0].index(new_milk)


def test_a_kind_that_sells_speaks_for_its_new_item_and_a_shop_without_sales_for_none() -> None:
    seen = view(book_of(ROWS), DAY)
    said = kin(seen.popular, seen.book.shelf)
    assert said[3] > said[2] > said[5]  # bread sells, soap less, salt not at all
    assert said[7] == said[2]
    assert not kin(np.zeros(8), seen.book.shelf).any()


def test_likeness_is_the_cosine_of_an_items_words_with_those_bought() -> None:
    goods = shelf()
    assert likeness(goods, np.array([0]))[0] == pytest.approx(1)
    assert likeness(goods, np.array([0, 0]))[6] == pytest.approx(likeness(goods, np.array([0]))[6])
    assert likeness(goods, np.array([0]))[6] > likeness(goods, np.array([0]))[7]
    assert not likeness(goods, np.array([], dtype=np.int64)).any()
    assert np.abs(likeness(goods, np.arange(8))).max() <= 1 + 1e-6


def test_what_is_bought_again_here_overrules_words_with_enough_buyers() -> None:
    rows = [(who, day, 5) for who in range(60) for day in (100, 110)] + [(who, 100, 4) for who in range(60)]
    seen = view(book_of(rows, customers=60), DAY)
    said = priors(seen.book.shelf, head_of(repeat_salt=-4, repeat_rice=4))
    logits = repeat_logits(seen.pairs, seen.book.shelf, said)
    assert said.repeat_I[5] < said.repeat_I[4]
    assert logits[5] > logits[4]


def test_debias_takes_popularity_out_of_both_lists() -> None:
    rows = [*ROWS, *[(2, day, 5) for day in range(120, 200, 7)]]
    seen = view(book_of(rows), DAY)
    usual, debiased = (ranked(seen, zero_head(), Choice(k=1, slots=0, debias=one))[0, 0] for one in (0.0, 1.0))
    assert usual == 5
    assert debiased != 5


def test_prices_of_words_are_read_from_the_right_part() -> None:
    said = priors(shelf(), head_of(gap_milk=2, repeat_tea=1))
    assert said.gap_I[0] > said.gap_I[1] == pytest.approx(3.0)
    assert said.repeat_I[1] > said.repeat_I[0] == pytest.approx(-1.0)
    assert not said.popularity_I.any()
    assert len(head_of()["gap"]) == BUCKETS


def regulars(customers: int) -> Book:
    """Customers who went over from tea to soap three months ago: counts still say tea."""
    rows = [(who, day, 1) for who in range(customers) for day in range(0, 110, 10)]
    rows += [(who, day, 2) for who in range(customers) for day in range(120, 200, 10)]
    return book_of(rows, customers)


def head_by(feature: str, weight: float) -> dict[str, npt.NDArray[np.float32]]:
    head = zero_head()
    head["rank"][FEATURES.index(feature)] = weight
    return head


def test_a_shop_falls_back_where_its_own_month_says_so_and_only_with_enough_customers() -> None:
    bad, good = head_by("days since", 9), head_by("days since", -9)
    many, few = regulars(300), regulars(2)
    assert judge(many, DAY, good).use_head
    assert judge(many, DAY, good).head > judge(many, DAY, good).frequency
    reversed_month = [(who, day, 1) for who in range(300) for day in range(0, 199, 9)]
    steady = book_of([*reversed_month, *[(who, 3, 2) for who in range(300)]], 300)
    assert not judge(steady, DAY, bad).use_head
    assert judge(few, DAY, bad).customers == 2
    assert keeps(-0.4, 2)
    assert not keeps(-0.4, 300)


def test_the_guard_reads_nothing_from_the_day_on() -> None:
    shop, head = regulars(20), head_by("days since", -3)
    assert judge(shop, 170, head) == judge(shop.before(170), 170, head)


def test_a_shop_without_orders_in_its_last_month_keeps_the_head() -> None:
    verdict = judge(book_of([(0, 3, 1)]), DAY, zero_head())
    assert verdict.use_head
    assert verdict.customers == 0
