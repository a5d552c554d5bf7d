from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np
import pytest
import torch

from client.data.customers import Basket, Customer, gather
from client.use.recommend import (
    CANDIDATES,
    MODEL_WEIGHT,
    POPULAR_DAYS,
    Catalogue,
    blend,
    bought,
    by_frequency,
    by_popularity,
    candidates,
    catalogue,
    familiar_words,
    frequency_score,
    likeness,
    model_scores,
    rank,
)
from common.lora import Bench, initial, lift, put
from common.schema import Shop

NOW = datetime(2026, 6, 1)
NAMES = {"A": "茉莉花茶", "B": "绿豆糕", "C": "糙米夹心海苔24条", "D": "猫"}


def basket(days_ago: float, *items: str) -> Basket:
    return Basket(NOW - timedelta(days=days_ago), {item: NAMES[item] for item in items})


ANNE = Customer("anne", [basket(30, "A"), basket(20, "B"), basket(10, "A")])
BEN = Customer("ben", [basket(5, "B", "C"), basket(3, "B"), basket(POPULAR_DAYS + 1, "D"), basket(0, "D")])
SHOP = catalogue([ANNE, BEN], NAMES, NOW)


@pytest.fixture
def trained(work: Bench) -> Iterator[Bench]:
    """Give the tiny base with an adapter that does something, and leave it as a run begins."""
    random = np.random.default_rng(2)
    put(
        work.model,
        {
            name: torch.from_numpy(random.standard_normal(tuple(tensor.shape)).astype(np.float32))
            for name, tensor in lift(work.model).items()
        },
    )
    yield work
    put(work.model, initial(work.model, 7))


def log_probability(bench: Bench, prompt: str, name: str) -> float:
    """Return what the model says of one name, a token, in one pass without a cache."""
    tokenizer, end = bench.base.tokenizer, bench.base.end
    context, answer = [end, *tokenizer(prompt)["input_ids"]], tokenizer(name)["input_ids"]
    with torch.inference_mode():
        logits = bench.model(torch.tensor([context + answer])).logits[0].double()
    said = logits.log_softmax(-1)[len(context) - 1 : -1]
    return float(sum(said[place, id_] for place, id_ in enumerate(answer))) / len(answer)


# --- frequency and popularity ---


def test_popularity_is_the_share_of_recent_baskets_before_now() -> None:
    # five baskets in the last 90 days: A twice, B three times, C once; D is too old or not yet
    assert SHOP.popularity == pytest.approx({"A": 2.1 / 6, "B": 3.1 / 6, "C": 1.1 / 6, "D": 0.1 / 6})
    assert by_popularity(SHOP) == ["B", "A", "C", "D"]


def test_equally_popular_items_stand_in_the_order_of_ids() -> None:
    assert by_popularity(catalogue([], {"b": "x", "a": "y"}, NOW)) == ["a", "b"]


def test_names_in_the_catalogue_are_clean() -> None:
    assert catalogue([], {"a": " 好\u200b茶\n"}, NOW).names == {"a": "好茶"}


def test_personal_frequency_comes_first_and_ties_go_by_popularity() -> None:
    assert by_frequency(ANNE.baskets, SHOP) == ["A", "B", "C", "D"]
    assert by_frequency([basket(9, "D", "C")], SHOP) == ["C", "D", "B", "A"]
    assert by_frequency([], SHOP) == by_popularity(SHOP)


def test_times_bought_counts_baskets() -> None:
    assert bought(ANNE.baskets) == Counter({"A": 2, "B": 1})


def test_a_frequency_score_is_the_customers_share_shrunk_to_the_shops() -> None:
    times = bought(ANNE.baskets)
    assert frequency_score("A", ANNE.baskets, times, SHOP) == pytest.approx(math.log((2 + 2.1 / 6) / 4))
    assert frequency_score("D", [], Counter(), SHOP) == pytest.approx(math.log(0.1 / 6))


def test_a_new_item_named_like_what_was_bought_comes_before_a_stranger_as_popular() -> None:
    names = {"A": "茉莉花茶", "E": "猫砂", "F": "茉莉花茶 礼盒"}
    shop = catalogue([], names, NOW)
    assert likeness("F", familiar_words(Counter({"A": 1}), shop), shop) == 0.5
    assert candidates([basket(3, "A")], shop) == ["A", "F", "E"]
    scores = {item: frequency_score(item, [basket(3, "A")], Counter({"A": 1}), shop) for item in names}
    assert scores["A"] > scores["F"] > scores["E"]


def test_candidates_are_the_first_by_frequency() -> None:
    assert candidates(ANNE.baskets, SHOP, 2) == ["A", "B"]
    assert candidates(ANNE.baskets, SHOP) == ["A", "B", "C", "D"]


# --- the model's opinion ---


def test_scores_equal_those_of_each_name_alone_without_the_cache(trained: Bench) -> None:
    prompt = "【复购】客户:中频·周期1周｜近购:茉莉花茶×2·1周｜会买:"
    scores = model_scores(trained, prompt, list(NAMES.values()))
    expected = [log_probability(trained, prompt, name) for name in NAMES.values()]
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert len(set(scores)) == len(NAMES)


def test_a_score_does_not_depend_on_which_other_names_are_asked_about(trained: Bench) -> None:
    together = model_scores(trained, "会买:", list(NAMES.values()))
    alone = [model_scores(trained, "会买:", [name])[0] for name in NAMES.values()]
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_a_prompt_longer_than_the_model_loses_its_front(trained: Bench) -> None:
    long, limit = "很长的历史；" * 200, trained.base.model.config.n_positions
    assert len(trained.base.tokenizer(long)["input_ids"]) > limit
    scores = model_scores(trained, long, list(NAMES.values()))
    assert all(math.isfinite(score) and score < 0 for score in scores)


# --- the ranking ---


def test_a_ranking_holds_known_items_once_best_first(trained: Bench, shop: Shop) -> None:
    names = {product.item_id: product.name for product in shop.products}
    customers, now = gather(shop), max(order.order_time for order in shop.orders)
    seen = catalogue(customers, names, now)
    offers = rank(trained, customers[0], seen, now, "zh", 10)
    assert len({offer.item_id for offer in offers}) == len(offers) == 10
    assert [offer.score for offer in offers] == sorted((offer.score for offer in offers), reverse=True)
    times = bought(customers[0].baskets)
    for offer in offers:
        assert offer.name == seen.names[offer.item_id]
        assert offer.times == times[offer.item_id]


def test_an_item_that_left_the_catalogue_is_not_offered(trained: Bench) -> None:
    gone = Catalogue({item: NAMES[item] for item in "BC"}, {"B": 0.5, "C": 0.1}, {"B": frozenset(), "C": frozenset()})
    assert {offer.item_id for offer in rank(trained, ANNE, gone, NOW, "zh")} == {"B", "C"}


def test_a_ranking_is_the_pool_of_both_opinions_and_the_same_every_time(trained: Bench) -> None:
    offers = rank(trained, ANNE, SHOP, NOW, "zh", 3)
    assert offers == rank(trained, ANNE, SHOP, NOW, "zh", 4)[:3]
    prompt = "【复购】客户:高频·周期1周｜近购:茉莉花茶×2·1周;绿豆糕×1·2周｜会买:"
    for offer in offers:
        frequency = frequency_score(offer.item_id, ANNE.baskets, bought(ANNE.baskets), SHOP)
        model = log_probability(trained, prompt, offer.name)
        assert offer.score == pytest.approx((1 - MODEL_WEIGHT) * frequency + MODEL_WEIGHT * model, abs=1e-4)


def test_a_stranger_is_offered_something(trained: Bench) -> None:
    assert len(rank(trained, Customer("new", []), SHOP, NOW, "zh", 4)) == 4


def test_at_most_so_many_candidates_are_scored(trained: Bench) -> None:
    many = {f"i{place:03d}": f"物{place}" for place in range(CANDIDATES + 20)}
    assert len(rank(trained, ANNE, catalogue([], many, NOW), NOW, "zh", 100)) == CANDIDATES


def test_a_blend_lies_between_both() -> None:
    assert blend(-1.0, -3.0) == pytest.approx(-1.0 * (1 - MODEL_WEIGHT) - 3.0 * MODEL_WEIGHT)
