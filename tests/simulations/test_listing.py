"""The benchmark of lists: one by one and by table are the same lists, and others are seen."""

from __future__ import annotations

import numpy as np
import pytest

from client.use.ranking.book import day_of
from common.errors import UserError
from simulations.bench import run_benchmarks
from simulations.listing import Recommend, alike, counts_of, facts, shop
from simulations.recommend import Study

SMALL = Recommend(customers=80, rounds=2, repetitions=1, ways=("fugou", "table"))


def test_lists_one_by_one_are_those_of_the_table_and_find_what_is_bought() -> None:
    found = facts(SMALL)
    assert found["customers"] == 80
    assert found["lists alike"] >= 0.999
    assert found["fugou lists a second"] == pytest.approx(80 / found["fugou lists s"])
    assert found["fugou recall@10"] == pytest.approx(found["table recall@10"], abs=0.01)
    assert found["fugou recall@10"] > 0.05


def test_other_lists_are_other_work() -> None:
    lists_UK = np.arange(20).reshape(2, 10)
    assert alike(lists_UK, lists_UK) == 1.0
    with pytest.raises(UserError, match=r"50\.0% of lists"):
        alike(lists_UK, np.where(np.arange(2)[:, None] == 1, lists_UK[:, ::-1], lists_UK))


def test_peers_are_given_the_days_on_which_something_was_bought() -> None:
    book = shop(SMALL).before(day_of(Study.cut))
    counts = counts_of(book)
    assert counts.sum() == len(book.item_P)
    first = np.flatnonzero(book.customer_P == 0)
    items, times = np.unique(book.item_P[first], return_counts=True)
    assert np.asarray(counts[0].todense())[0, items].tolist() == times.tolist()


def test_it_runs_by_name_in_a_process_of_its_own() -> None:
    changes = {**SMALL.model_dump(), "customers": 40, "ways": ["fugou"]}
    found = run_benchmarks(["recommend"], {"recommend": changes}, lambda _: None)
    measured = found["benchmarks"]["recommend"]["measurements"][0]
    assert measured["facts"]["customers"] == 40
    assert measured["usage"]["peak_mib"] > 0
