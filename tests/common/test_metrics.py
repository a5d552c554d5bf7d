from __future__ import annotations

import doctest
import math

import pytest

import common.metrics
from common.metrics import distinct, hit_at, mean, ndcg_at, perplexity, recall_at

RANKED = ["a", "b", "c", "d"]


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(common.metrics) == doctest.TestResults(0, 3)


@pytest.mark.parametrize(
    ("truth", "k", "share"),
    [({"a"}, 1, 1.0), ({"b"}, 1, 0.0), ({"a", "c", "x"}, 3, 2 / 3), ({"d"}, 10, 1.0), ({"a"}, 0, 0.0)],
)
def test_recall_is_the_share_of_the_whole_truth(truth: set[str], k: int, share: float) -> None:
    assert recall_at(RANKED, truth, k) == pytest.approx(share)


def test_recall_counts_an_item_once_however_often_it_is_named() -> None:
    assert recall_at(["a", "a"], ["a", "b", "b"], 2) == 0.5


def test_ndcg_against_hand_computed_values() -> None:
    # gains at places 1 and 3: 1 + 1/log2(4) = 1.5; ideal at places 1 and 2: 1 + 1/log2(3)
    assert ndcg_at(RANKED, {"a", "c"}, 4) == pytest.approx(1.5 / (1 + 1 / math.log2(3)))
    assert ndcg_at(RANKED, {"a", "b", "c", "d", "e"}, 2) == 1.0  # the ideal is cut at k
    assert ndcg_at(RANKED, {"x"}, 4) == 0.0
    assert ndcg_at([], {"x"}, 4) == 0.0


def test_a_hit_is_any_of_the_first_k() -> None:
    assert hit_at(RANKED, {"c", "x"}, 3) == 1.0
    assert hit_at(RANKED, {"c", "x"}, 2) == 0.0
    assert hit_at([], {"x"}, 2) == 0.0


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    assert perplexity(10 * math.log(7), 10) == pytest.approx(7)
    assert perplexity(0.0, 0) == 1.0


def test_distinct_counts_different_n_grams() -> None:
    assert distinct([["茶", "香"], ["茶", "香"]], 1) == 0.5
    assert distinct([["茶", "香"], ["香", "茶"]], 2) == 1.0
    assert distinct([["茶"]], 2) == 0.0
    assert distinct([], 1) == 0.0


def test_the_mean_of_nothing_is_zero() -> None:
    assert mean([]) == 0.0
    assert mean([1.0, 2.0, 4.5]) == 2.5
