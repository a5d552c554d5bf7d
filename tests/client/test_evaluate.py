from __future__ import annotations

import math
from datetime import timedelta

import pytest
import torch

from client.data.customers import gather, pose
from client.use.evaluate import (
    BATCH_TOKENS,
    TARGET_DAYS,
    HeldOut,
    by_length,
    every_nth,
    held_out,
    losses,
    rankings,
    summarise,
)
from client.use.recommend import by_popularity
from common.lora import Bench, initial, put
from common.metrics import ndcg_at, perplexity, recall_at
from common.schema import Shop
from common.tokens import Encoded, encode_examples

TOKENS = 96
RANKERS = ["popularity", "frequency", "model", "blend"]


@pytest.fixture
def fresh(work: Bench) -> Bench:
    put(work.model, initial(work.model, 7))
    return work


@pytest.fixture
def held(shop: Shop, fresh: Bench) -> HeldOut:
    return held_out(shop, fresh.base, max(row.order_time for row in shop.orders) - timedelta(weeks=4), TOKENS, 6, 5)


def direct_nats(bench: Bench, one: Encoded) -> float:
    """Return the loss of one example alone, token by token from the model's probabilities."""
    ids = [bench.base.end, *one.ids]
    with torch.inference_mode():
        said = bench.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -sum(float(said[place, ids[place + 1]]) for place, counts in enumerate(one.counts) if counts)


def test_held_out_tasks_are_those_from_the_cut_on(shop: Shop, fresh: Bench) -> None:
    until = max(row.order_time for row in shop.orders) - timedelta(weeks=4)
    held = held_out(shop, fresh.base, until, TOKENS, 10_000, 10_000)
    products = {product.item_id: product for product in shop.products}
    posed = [one for who in gather(shop) for one in pose(who, products, shop.lang) if one.time >= until]
    assert sum(map(len, held.tasks.values())) == len(posed)
    for task, found in held.tasks.items():
        wanted = [one.example for one in posed if one.example.task == task]
        assert list(found) == encode_examples(fresh.base, wanted, TOKENS)


def test_a_question_asks_for_the_next_basket_within_its_days(shop: Shop, fresh: Bench) -> None:
    until = max(row.order_time for row in shop.orders) - timedelta(weeks=4)
    held = held_out(shop, fresh.base, until, TOKENS, 0, 10_000)
    assert held.asked
    for one in held.asked:
        assert len(one.history) >= 2
        assert all(basket.time < until == one.time for basket in one.history)
    truths = [one.truth for one in held.asked]
    later = [
        frozenset(basket.items)
        for who in gather(shop)
        for basket in who.baskets
        if until <= basket.time < until + timedelta(days=TARGET_DAYS)
    ]
    assert all(truth in later for truth in truths)


def test_the_bounds_hold_and_nothing_at_all_can_be_asked_for(shop: Shop, fresh: Bench, held: HeldOut) -> None:
    assert all(0 < len(found) <= 6 for found in held.tasks.values())
    assert 0 < len(held.asked) <= 5
    nothing = held_out(shop, fresh.base, held.asked[0].time, TOKENS, 0, 0)
    assert not any(nothing.tasks.values())
    assert rankings(fresh, nothing) == []
    assert all(one.tokens == 0 for one in losses(fresh, nothing).values())


def test_popularity_is_as_it_was_at_the_cut(shop: Shop, fresh: Bench, held: HeldOut) -> None:
    until = held.asked[0].time
    early = Shop(shop.id, shop.name, shop.lang, [row for row in shop.orders if row.order_time < until], shop.products)
    assert held_out(early, fresh.base, until, TOKENS, 1, 1).shop == held.shop


@pytest.mark.parametrize("count", [0, 1, 3, 7, 10])
def test_every_nth_is_evenly_spread_and_keeps_the_order(count: int) -> None:
    found = every_nth(range(7), count)
    assert found == sorted(set(found))
    assert len(found) == min(count, 7)
    assert set(every_nth(range(9), 3)) == {0, 3, 6}


def test_losses_equal_a_direct_computation(fresh: Bench, held: HeldOut) -> None:
    found = losses(fresh, held)
    assert set(found) == set(held.tasks)
    for task, examples in held.tasks.items():
        nats = sum(direct_nats(fresh, one) for one in examples)
        tokens = sum(sum(one.counts) for one in examples)
        assert found[task].tokens == tokens
        assert found[task].total == pytest.approx(nats, rel=1e-5)
        assert perplexity(found[task].total, tokens) == pytest.approx(math.exp(nats / tokens), rel=1e-5)


def test_batches_hold_every_example_once_within_the_bound() -> None:
    found = [Encoded("t", (1,) * length, (True,) * length) for length in (900, 3, 3000, 40, 40, 5000, 2)]
    batches = by_length(found)
    assert sorted(place for batch in batches for place, _ in batch) == list(range(len(found)))
    assert all(found[place] is one for batch in batches for place, one in batch)
    for batch in batches:
        longest = max(len(one.ids) for _, one in batch)
        assert len(batch) == 1 or len(batch) * (1 + longest) <= BATCH_TOKENS
        assert longest == len(batch[-1][1].ids)


def test_evaluation_gives_the_same_figures_every_time(shop: Shop, fresh: Bench, held: HeldOut) -> None:
    again = held_out(shop, fresh.base, held.asked[0].time, TOKENS, 6, 5)
    assert again == held
    assert losses(fresh, again) == losses(fresh, held)
    assert rankings(fresh, again) == rankings(fresh, held)


def test_every_ranker_is_scored_on_every_question(fresh: Bench, held: HeldOut) -> None:
    scored = rankings(fresh, held)
    assert len(scored) == len(held.asked)
    for found, one in zip(scored, held.asked, strict=True):
        assert list(found) == RANKERS
        popular = by_popularity(held.shop)
        assert found["popularity"] == (recall_at(popular, one.truth, 10), ndcg_at(popular, one.truth, 10))
        assert all(0 <= value <= 1 for pair in found.values() for value in pair)


def test_a_summary_is_the_mean_over_questions() -> None:
    scored = [{"a": (1.0, 0.5), "b": (0.0, 0.0)}, {"a": (0.0, 0.25), "b": (1.0, 1.0)}]
    assert summarise(scored) == {"recall@10": {"a": 0.5, "b": 0.5}, "ndcg@10": {"a": 0.375, "b": 0.5}}
    assert summarise([]) == {"recall@10": {}, "ndcg@10": {}}
