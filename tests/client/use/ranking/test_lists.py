"""Lists and their scores: slots, ties, and the same figures as trec_eval."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval

from client.use.ranking.features import Doubles
from client.use.ranking.lists import K, listed, score
from common.metrics import ndcg_at, recall_at

NONE = -np.inf


def random_lists(seed: int = 0, customers: int = 40, items: int = 60) -> tuple[Doubles, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(customers, items)), random.random((customers, items)) < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_recall_and_ndcg_are_those_of_trec_eval(seed: int) -> None:
    score_UI, truth_UI = random_lists(seed)
    truth_UI[3] = False  # a customer without a truth is not asked
    truth_UI[4] = True  # and one whose truth is longer than the list
    found = score(listed(score_UI, np.full_like(score_UI, NONE)), truth_UI)
    truth = {str(u): {str(i): 1 for i in np.flatnonzero(truth_UI[u])} for u in found.customer_U}
    run = {str(u): {str(i): float(score_UI[u, i]) for i in range(score_UI.shape[1])} for u in found.customer_U}
    judged = pytrec_eval.RelevanceEvaluator(truth, {"recall.10", "ndcg_cut.10"}).evaluate(run)
    np.testing.assert_allclose(found.recall_U, [judged[str(u)]["recall_10"] for u in found.customer_U], rtol=1e-9)
    np.testing.assert_allclose(found.ndcg_U, [judged[str(u)]["ndcg_cut_10"] for u in found.customer_U], rtol=1e-9)
    assert 3 not in found.customer_U


def test_recall_and_ndcg_are_those_of_the_one_list_functions() -> None:
    score_UI, truth_UI = random_lists(9)
    lists = listed(score_UI, np.full_like(score_UI, NONE))
    found = score(lists, truth_UI)
    for place, who in enumerate(found.customer_U):
        names, truth = [str(item) for item in lists[who]], {str(item) for item in np.flatnonzero(truth_UI[who])}
        assert found.recall_U[place] == pytest.approx(recall_at(names, truth, K))
        assert found.ndcg_U[place] == pytest.approx(ndcg_at(names, truth, K))


def test_the_slots_of_a_merchant_are_kept_and_what_is_short_fills_up() -> None:
    repeat_UI = np.array([[3.0, 2.0, 1.0, NONE, NONE, NONE], [5.0, NONE, NONE, NONE, NONE, NONE]])
    explore_UI = np.array([[NONE, NONE, NONE, 9.0, 8.0, 7.0], [NONE, 1.0, 2.0, 3.0, 4.0, 5.0]])
    assert listed(repeat_UI, explore_UI, slots=2, k=4).tolist() == [[0, 1, 3, 4], [0, 5, 4, 3]]
    assert listed(repeat_UI, explore_UI, slots=4, k=4).tolist() == [[0, 1, 2, 3], [0, 5, 4, 3]]
    assert listed(repeat_UI, explore_UI, slots=0, k=4).tolist() == [[3, 4, 5, 0], [5, 4, 3, 2]]


def test_a_shelf_shorter_than_the_list_leaves_places_empty_and_they_score_nothing() -> None:
    lists = listed(np.array([[1.0, NONE]]), np.array([[NONE, NONE]]))
    assert lists.tolist() == [[0, -1, -1, -1]] or lists[0, 0] == 0
    found = score(lists, np.array([[False, True]]))
    assert found.recall_U.tolist() == [0.0]
